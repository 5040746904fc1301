"""The page's routes: its files, the newest faces as JSON, and the pictures by WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from edgeface.errors import OptionError
from edgeface.stream.controls import Controls
from edgeface.stream.preview.broadcaster import Broadcaster

STATIC = Path(__file__).parent / "static"
_SCRIPTS = ("start.js", "page.js", "overlay.js", "events.js", "recordings.js", "page.css")
FILES = {"/": "index.html", **{f"/{name}": name for name in _SCRIPTS}}
# Pictures that may be on their way to one viewer. Two keep the line busy while the page draws; more would be delay.
MOST_CREDITS = 2
_SEND_S = 10.0              # a viewer that takes no byte for so long is gone
_TRY_LATER = 1013           # a WebSocket's close code


class Page:
    """The page that shows what ``broadcaster`` sends; ``controls``: None leaves the settings out; ``most_viewers`` may
    look at once."""

    def __init__(self, broadcaster: Broadcaster, controls: Controls | None, *, most_viewers: int = 16) -> None:
        self._broadcaster = broadcaster
        self._controls = controls
        self._most_viewers = most_viewers

    def routes(self) -> list[BaseRoute]:
        """For a Server whose ``on_start`` is the broadcaster's ``attach``."""
        return [
            *(Route(path, _file(name)) for path, name in FILES.items()),
            Route("/faces.json", self._faces),
            WebSocketRoute("/live", self._live),
        ]

    async def _faces(self, _request: Request) -> Response:
        # As in the JSON lines, which know null where a number is none.
        return Response(msgspec.json.encode(self._broadcaster.record()), media_type="application/json")

    async def _live(self, viewer: WebSocket) -> None:
        with suppress(WebSocketDisconnect, RuntimeError, OSError):      # it went away, in the middle of a word or not
            # Even one too many: of a refusal before that the browser tells the page nothing.
            await viewer.accept()
            if self._broadcaster.viewers >= self._most_viewers:
                await viewer.close(_TRY_LATER, f"{self._most_viewers} viewers are the most")
                return
            self._broadcaster.viewers += 1
            try:
                await self._look(viewer)
            finally:
                self._broadcaster.viewers -= 1

    async def _look(self, viewer: WebSocket) -> None:
        """Send and listen until one of them ends; raises what that raised."""
        wanted = _Wanted()
        tasks = [asyncio.create_task(self._send(viewer, wanted)), asyncio.create_task(self._listen(viewer, wanted))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _send(self, viewer: WebSocket, wanted: _Wanted) -> None:
        """Pictures as long as the viewer asks for them, the newest at each time; ends when it does not take them."""
        shown = 0
        while True:
            await wanted.some()
            picture = await self._broadcaster.newer(shown)
            if picture is None:
                await viewer.close()
                return
            wanted.take()
            shown = picture.number
            try:
                await asyncio.wait_for(viewer.send_bytes(picture.message), _SEND_S)
            except asyncio.TimeoutError:
                return

    async def _listen(self, viewer: WebSocket, wanted: _Wanted) -> None:
        """What the viewer says: ``{"more": n}`` asks for n pictures, ``{"score": s}`` and ``{"size_px": n}`` set."""
        while True:
            try:
                wish = msgspec.json.decode(await viewer.receive_text(), type=_Wish)
            except (msgspec.DecodeError, KeyError):
                await viewer.close(1003, "not a message of this page")
                return
            wanted.add(wish.more)
            if self._controls is not None and (wish.score is not None or wish.size_px is not None):
                try:
                    self._controls.set(score=wish.score, size_px=wish.size_px)
                except OptionError as error:
                    await viewer.send_text(msgspec.json.encode({"error": str(error)}).decode())


class _Wanted:
    """How many pictures a viewer waits for: MOST_CREDITS at most, however often it asks."""

    def __init__(self) -> None:
        self._count = 0
        self._some = asyncio.Event()

    def add(self, more: int) -> None:
        self._count = min(MOST_CREDITS, self._count + max(0, more))
        if self._count:
            self._some.set()

    async def some(self) -> None:
        """Wait until there is one."""
        await self._some.wait()

    def take(self) -> None:
        self._count -= 1
        if not self._count:
            self._some.clear()


class _Wish(msgspec.Struct, forbid_unknown_fields=True):
    more: int = 0
    score: float | None = None
    size_px: int | None = None


def _file(name: str) -> Callable[[Request], Any]:
    async def answer(_request: Request) -> Response:
        return FileResponse(STATIC / name)

    return answer
