"""What one connection may cost: uvicorn's protocols with limits, so that nobody can take the page from its viewers."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# On every answer, refusals and errors included.
HEADERS: Sequence[tuple[str, str]] = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy",
     "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)
# In the state of a request (ASGI's scope): the guard has let it in.
LET_IN = "edgeface_let_in"
LONGEST_HEAD = 16 * 1024    # bytes of a request's line and headers
LONGEST_BODY = 4 * 1024     # nothing here takes one
# Of connections that are no viewers', and of those from one address: all that a proxy passes on has its address. So
# many that at the pace at which they are taken nobody has to make room before IDLE_S, however many come: a viewer's own
# is a stranger's until its request is read.
MOST_WAITING = 384
MOST_WAITING_AN_ADDRESS = 256
# A connection on which nothing that the guard lets in was asked for after so long, or nothing more since the last
# answer, is let go.
IDLE_S = 5.0
# What a viewer may send, in bytes: the page asks for a picture with 20, sixty times a second at most. What comes on top
# is not read before its time.
VIEWER_BYTES_A_S = 4096
VIEWER_BURST = 16 * 1024
# What is read at a time: from a connection that sends megabytes no more is kept than this.
_READ_BYTES = 8 * 1024
# Uvicorn's error for each, though it has been answered.
_REFUSED_WEBSOCKET = "ASGI callable returned without completing handshake."

_log = logging.getLogger("edgeface.stream")


class WaitingRoom:
    """The connections that are no viewers' WebSockets. Where it is full, one makes room for the next, of the address
    that has most of them: the oldest that was not let in, else the oldest on which nothing is under way. Used in the
    event loop alone.
    """

    def __init__(self) -> None:
        self._waiting: dict[HttpConnection, str] = {}

    def enter(self, connection: HttpConnection, address: str) -> None:
        """Take one more, and let another one go where there are too many."""
        others = dict(self._waiting)
        self._waiting[connection] = address
        of_address = [other for other, its in others.items() if its == address]
        if len(of_address) >= MOST_WAITING_AN_ADDRESS:
            self._drop(of_address, connection)
        elif len(others) >= MOST_WAITING:
            ((busiest, _),) = Counter(others.values()).most_common(1)
            self._drop([other for other, its in others.items() if its == busiest], connection)

    def leave(self, connection: HttpConnection) -> None:
        """It is closed, or became a WebSocket."""
        self._waiting.pop(connection, None)

    def _drop(self, candidates: list[HttpConnection], newest: HttpConnection) -> None:
        strangers = (one for one in candidates if not one.is_let_in)
        idle = (one for one in candidates if one.is_idle)
        gone = next(strangers, None) or next(idle, newest)
        self.leave(gone)
        gone.transport.abort()


class HttpConnection(H11Protocol):
    """HTTP with a short time to ask for something, a short head and body, and no tracebacks for what is no HTTP."""

    room: WaitingRoom

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn itself
        super().connection_made(transport)
        self._was_let_in = False
        self._received = 0
        self._limit_reads(transport)
        self.room.enter(self, self.client[0] if self.client else "")
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        self.room.leave(self)
        super().connection_lost(exc)

    @property
    def is_let_in(self) -> bool:
        """Whether the guard has let in what was asked for here last, or before."""
        self._was_let_in = self._was_let_in or (self.scope is not None and LET_IN in self.scope["state"])
        return self._was_let_in

    @property
    def is_idle(self) -> bool:
        """Whether no answer is on its way."""
        return self.cycle is None or self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        self._received += len(data)
        try:
            super().data_received(data)
        except Exception as error:
            # Uvicorn answers even what it has answered already, which h11 refuses.
            _log.debug("page: a request is no HTTP: %s", error)
            self.transport.abort()
            return
        if self.cycle is not before:
            self._received = 0
        longest = LONGEST_HEAD if self.is_idle else LONGEST_BODY
        if self._received > longest and not self.transport.is_closing():
            self.send_400_response("The request is too long.")

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self.room.leave(self)
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        """Refuse, once and with the headers of every answer; where an answer is under way, let go."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE) or not self.is_idle:
            self.transport.abort()
            return
        body = f"{msg}\n".encode("ascii")
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close"),
                   ("Content-Length", str(len(body))), *HEADERS]
        for part in (h11.Response(status_code=400, headers=headers, reason=b"Bad Request"), h11.Data(data=body),
                     h11.EndOfMessage()):
            self.transport.write(self.conn.send(part) or b"")
        self.transport.close()

    def _limit_reads(self, transport: Any) -> None:
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_BYTES

    def _look_later(self) -> None:
        self.loop.call_later(IDLE_S, self._look, self.cycle)

    def _look(self, before: object) -> None:
        if self.transport.is_closing() or self.transport.get_protocol() is not self:    # a WebSocket by now
            return
        if self.is_idle and self.cycle is before:
            self.transport.abort()
        else:
            self._look_later()


class ViewerConnection(WebSocketsSansIOProtocol):
    """A WebSocket from which only so much is read a second, whatever it sends: messages, pings or parts of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._budget = float(VIEWER_BURST)
        self._budget_at_s = self.loop.time()
        self._is_held = False

    def data_received(self, data: bytes) -> None:
        now_s = self.loop.time()
        earned = (now_s - self._budget_at_s) * VIEWER_BYTES_A_S
        self._budget = min(float(VIEWER_BURST), self._budget + earned) - len(data)
        self._budget_at_s = now_s
        super().data_received(data)
        if self._budget < 0 and not self.transport.is_closing():
            self._is_held = True
            self.transport.pause_reading()
            self.loop.call_later(-self._budget / VIEWER_BYTES_A_S, self._release)

    async def receive(self) -> Any:
        message = await super().receive()
        # Uvicorn goes on reading as soon as its queue is empty.
        if self._is_held and not self.transport.is_closing():
            self.transport.pause_reading()
        return message

    def _release(self) -> None:
        self._is_held = False
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()


class OneLine(logging.Filter):
    """Makes a line of what uvicorn logs with a traceback, and none of a refused WebSocket: what a stranger sends must
    not fill a disk."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg == _REFUSED_WEBSOCKET:
            return False
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            message = f"{record.getMessage().strip()}: {type(error).__name__}: {error}"
            record.msg, record.args = "page: " + " ".join(message.split())[:300], ()
            record.exc_info = record.exc_text = None
        return True
