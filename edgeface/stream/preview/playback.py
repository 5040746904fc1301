"""The page's routes for what was recorded: a list, and each video by HTTP ranges, so that a browser seeks in it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

if TYPE_CHECKING:
    from edgeface.stream.recordings import Recording, Recordings

# Of the list, the newest first.
MOST_LISTED = 200
_PIECE_BYTES = 64 * 1024
_TYPES = {".mp4": "video/mp4", ".webm": "video/webm"}


class Playback:
    """Serves ``recordings``: ``/recordings.json`` and ``/recordings/NAME``, of which the first says the names.

    In the list ``time`` is when a recording was last written to, in Unix seconds, and ``unfinished`` means that it goes
    on. What there is of such a one is asked for with ``?bytes=N``, its size in the list: a browser takes no video that
    grows between its requests. No other file is served, whatever its name.
    """

    def __init__(self, recordings: Recordings) -> None:
        self._recordings = recordings

    def routes(self) -> list[BaseRoute]:
        """For a Server."""
        return [Route("/recordings.json", self._list), Route("/recordings/{name}", self._video)]

    async def _list(self, _request: Request) -> Response:
        try:
            listed = await asyncio.to_thread(self._recordings.listed)
        except OSError:
            listed = []
        rows = [
            {"name": _text(one), "time": one.time_s, "bytes": one.size_bytes, "unfinished": one.is_unfinished}
            for one in listed[:MOST_LISTED]
        ]
        return Response(msgspec.json.encode(rows), media_type="application/json")

    async def _video(self, request: Request) -> Response:
        name = request.path_params["name"]
        try:
            listed = await asyncio.to_thread(self._recordings.listed)
            one = next(one for one in listed if _text(one) == name)
            seen = one.path.stat()
        except (OSError, StopIteration):
            raise HTTPException(404, "No such recording.") from None
        given = request.query_params.get("bytes", "")
        is_given = given.isascii() and given.isdigit() and len(given) < 16
        size = min(int(given), seen.st_size) if is_given else seen.st_size
        kind = _TYPES[one.path.suffix.lower()]
        if "range" not in request.headers:
            # Up to its size now, which a FileResponse would read on from where the file grows.
            headers = {"Content-Length": str(size), "Accept-Ranges": "bytes"}
            return StreamingResponse(_start(one.path, size), headers=headers, media_type=kind)
        # With a time that stays, for the browser compares those of its requests.
        time_s = 0.0 if is_given else seen.st_mtime
        fixed = os.stat_result((seen.st_mode, 0, 0, 0, 0, 0, size, time_s, time_s, time_s))
        return FileResponse(one.path, media_type=kind, stat_result=fixed)


async def _start(path: Path, size_bytes: int) -> AsyncIterator[bytes]:
    """The first bytes of a file, piece by piece."""
    with await asyncio.to_thread(path.open, "rb") as stream:
        left = size_bytes
        while left and (piece := await asyncio.to_thread(stream.read, min(left, _PIECE_BYTES))):
            left -= len(piece)
            yield piece


def _text(one: Recording) -> str:
    """Its name as valid Unicode: Linux allows any bytes in one, JSON does not."""
    return os.fsencode(one.name).decode("utf-8", "replace")
