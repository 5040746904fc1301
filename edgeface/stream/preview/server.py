"""The server of the page and of the figures: starlette and uvicorn in a thread, so that the loop waits for nobody."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from time import monotonic

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from edgeface.errors import OutputError
from edgeface.stream.preview.accepting import MOST_QUEUED, accept
from edgeface.stream.preview.access import Guard, allowed_hosts
from edgeface.stream.preview.connections import (
    HEADERS,
    LONGEST_HEAD,
    HttpConnection,
    OneLine,
    ViewerConnection,
    WaitingRoom,
)

# On a busy board, where uvicorn is loaded first.
START_S = 30.0
CLOSE_S = 1.0
LONGEST_MESSAGE = 4096      # bytes that a viewer may send at a time
_ONE_LINE = OneLine()
# Of a peer that vanished without a word, or takes nothing.
_DEAD_S = 30


class Server:
    """Serves ``routes`` at ``bind``:``port`` until it is closed; port 0 takes a free one.

    ``token``: None lets everybody in who reaches the server (see ``access``). ``allow_hosts``: names, with ``*`` for
    any part, under which it may be asked for besides this machine's own. ``on_start`` is called in the event loop that
    the routes run in, before the first request. Raises OptionError for a name that is none, and OutputError when the
    port cannot be had.
    """

    def __init__(
        self,
        routes: Sequence[BaseRoute],
        *,
        bind: str,
        port: int,
        token: str | None,
        allow_hosts: Collection[str] = (),
        on_start: Callable[[asyncio.AbstractEventLoop], None] | None = None,
    ) -> None:
        patterns = allowed_hosts(allow_hosts)
        self._socket = _listening(bind, port)
        self.port: int = self._socket.getsockname()[1]

        @contextlib.asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[None]:
            if on_start is not None:
                on_start(asyncio.get_running_loop())
            yield

        name = socket.gethostname()
        guard = Middleware(Guard, hosts={"localhost", bind, name, f"{name}.local"}, patterns=patterns, token=token)
        logging.getLogger("uvicorn.error").addFilter(_ONE_LINE)
        config = uvicorn.Config(
            Starlette(routes=routes, middleware=[guard], lifespan=lifespan), log_config=None, log_level="error",
            access_log=False, lifespan="on", http=type("_Http", (HttpConnection,), {"room": WaitingRoom()}),
            ws=ViewerConnection, ws_max_size=LONGEST_MESSAGE, h11_max_incomplete_event_size=LONGEST_HEAD,
            headers=list(HEADERS), server_header=False,
            # JPEGs do not get smaller, and deflating each for each viewer takes the detector's time.
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=1,
        )
        self._server = _Paced(config, self._socket)
        self._thread = threading.Thread(target=self._serve, name="edgeface-web", daemon=True)
        self._thread.start()
        deadline = monotonic() + START_S
        while not self._server.started:
            if not self._thread.is_alive() or monotonic() > deadline:
                self.close()
                raise OutputError(f"{bind}:{self.port}: the server did not start: choose another --port")
            threading.Event().wait(0.01)

    def close(self) -> None:
        """Let everybody go and free the port; safe to call twice."""
        self._server.should_exit = True
        self._thread.join(CLOSE_S)
        self._socket.close()

    def _serve(self) -> None:
        # Signals are the command's: this thread must not take them, and uvicorn's own run() would.
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._server.serve(sockets=[]))


class _Paced(uvicorn.Server):
    """Takes what connects to ``listening`` at a pace, where uvicorn itself would take all at once."""

    def __init__(self, config: uvicorn.Config, listening: socket.socket) -> None:
        super().__init__(config)
        self._listening = listening

    async def main_loop(self) -> None:
        accepting = asyncio.create_task(accept(self._listening, self._connection))
        try:
            await super().main_loop()
        finally:
            accepting.cancel()

    def _connection(self) -> asyncio.Protocol:
        made = self.config.http_protocol_class
        return made(    # type: ignore[call-arg]  # typed as any protocol
            config=self.config, server_state=self.server_state, app_state={},
        )


def _listening(bind: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no name"
        raise OutputError(f"{bind}: cannot be served at: {reason}: choose another --bind") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # What is accepted has these too.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _DEAD_S)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_S * 1000)
        listening.bind((bind, port))
        listening.listen(MOST_QUEUED)
    except OSError as error:
        listening.close()
        raise OutputError(f"{bind}:{port}: {error.strerror or error}: choose another --port or --bind") from None
    return listening
