"""The page's server: starlette and uvicorn in a thread of the process, so that the loop waits for no viewer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from edgeface.errors import OptionError, OutputError
from edgeface.stream.controls import Controls
from edgeface.stream.preview.access import Guard
from edgeface.stream.preview.board import Board

PAGE = Path(__file__).parent / "page"
FILES = {"/": "index.html", "/page.js": "page.js", "/overlay.js": "overlay.js", "/page.css": "page.css"}
START_S = 10.0
CLOSE_S = 1.0
# Pictures that may be on their way to one viewer. Two keep the line busy while the page draws; more would be delay.
MOST_CREDITS = 2
_SEND_S = 10.0              # a viewer that takes no byte for so long is gone
_LONGEST_MESSAGE = 4096
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_TRY_LATER = 1013           # a WebSocket's close code


class PreviewServer:
    """Serves the page for ``board`` at ``bind``:``port`` until it is closed; port 0 takes a free one.

    ``token``: None lets everybody in who reaches the server (see ``access``); ``most_viewers`` may look at a time;
    ``routes`` are further ones, guarded alike. Raises OutputError when the port cannot be had.
    """

    def __init__(
        self,
        board: Board,
        controls: Controls | None,
        *,
        bind: str,
        port: int,
        token: str | None,
        most_viewers: int = 16,
        routes: Sequence[BaseRoute] = (),
    ) -> None:
        self._board = board
        self._controls = controls
        self._most_viewers = most_viewers
        self._socket = _listening(bind, port)
        self.port: int = self._socket.getsockname()[1]
        app = Starlette(
            routes=[
                *(Route(path, _file(name)) for path, name in FILES.items()),
                Route("/faces.json", self._faces),
                WebSocketRoute("/live", self._live),
                *routes,
            ],
            middleware=[Middleware(Guard, hosts={"localhost", bind, socket.gethostname()}, token=token)],
            lifespan=self._lifespan,
        )
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="on", ws_max_size=_LONGEST_MESSAGE, ws="websockets-sansio",
            timeout_graceful_shutdown=1, limit_concurrency=4 * most_viewers + 16,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="edgeface-preview", daemon=True)
        self._thread.start()
        deadline = monotonic() + START_S
        while not self._server.started:
            if not self._thread.is_alive() or monotonic() > deadline:
                self.close()
                raise OutputError(f"{bind}:{self.port}: the page's server did not start: choose another --port")
            threading.Event().wait(0.01)

    def close(self) -> None:
        """Let the viewers go and free the port; safe to call twice."""
        self._server.should_exit = True
        self._board.close()
        self._thread.join(CLOSE_S)
        self._socket.close()

    def _serve(self) -> None:
        # Signals are the loop's: the thread must not take them, and uvicorn's run() would.
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._server.serve(sockets=[self._socket]))

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        self._board.attach(asyncio.get_running_loop())
        yield

    async def _faces(self, _request: Request) -> Response:
        return JSONResponse(self._board.record(), headers=_HEADERS)

    async def _live(self, viewer: WebSocket) -> None:
        if self._board.viewers >= self._most_viewers:
            await viewer.close(_TRY_LATER, f"{self._most_viewers} viewers are the most")
            return
        self._board.viewers += 1
        credits = asyncio.Semaphore(0)
        sending: asyncio.Task[None] | None = None
        try:
            await viewer.accept()
            sending = asyncio.create_task(self._send(viewer, credits))
            await self._listen(viewer, credits, sending)
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass        # the viewer went away, in the middle of a word or not
        finally:
            self._board.viewers -= 1
            if sending is not None:
                sending.cancel()

    async def _send(self, viewer: WebSocket, credits: asyncio.Semaphore) -> None:
        """Pictures as long as the viewer asks for them, the newest at each time."""
        shown = 0
        while True:
            await credits.acquire()
            picture = await self._board.newer(shown)
            if picture is None:
                await viewer.close()
                return
            shown = picture.number
            await asyncio.wait_for(viewer.send_bytes(picture.message), _SEND_S)

    async def _listen(self, viewer: WebSocket, credits: asyncio.Semaphore, sending: asyncio.Task[None]) -> None:
        """What the viewer says: ``{"more": n}`` asks for n pictures, ``{"score": s}`` and ``{"size_px": n}`` set."""
        while not sending.done():
            try:
                wish = msgspec.json.decode(await viewer.receive_text(), type=_Wish)
            except (msgspec.DecodeError, KeyError):
                await viewer.close(1003, "not a message of this page")
                return
            for _ in range(min(wish.more, MOST_CREDITS)):
                credits.release()
            if self._controls is not None and (wish.score is not None or wish.size_px is not None):
                try:
                    self._controls.set(score=wish.score, size_px=wish.size_px)
                except OptionError as error:
                    await viewer.send_text(msgspec.json.encode({"error": str(error)}).decode())


class _Wish(msgspec.Struct, forbid_unknown_fields=True):
    more: int = 0
    score: float | None = None
    size_px: int | None = None


def _file(name: str) -> Callable[[Request], Any]:
    async def answer(_request: Request) -> Response:
        return FileResponse(PAGE / name, headers=_HEADERS)

    return answer


def _listening(bind: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise OutputError(f"{bind}: cannot be served at: {error.strerror or error}: choose another --bind") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((bind, port))
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise OutputError(f"{bind}:{port}: {error.strerror or error}: choose another --port or --bind") from None
    return listening
