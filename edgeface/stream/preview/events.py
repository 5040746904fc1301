"""The page's list of what was kept by --events: the newest rows as JSON, and their best shots."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from edgeface.errors import InputError, OutputError
from edgeface.stream.events.store import EventStore

_NEWEST = 12


class KeptEvents:
    """The events of ``folder``; None: nothing is kept, which the page is told. With ``hide_faces`` it has no shots."""

    def __init__(self, folder: Path | None, *, hide_faces: bool) -> None:
        self._folder = folder
        self._hide_faces = hide_faces

    def routes(self) -> list[BaseRoute]:
        # Not coroutines: the server runs them in threads, and a disk may be slow.
        return [Route("/events.json", self._list), Route("/shots/{number:int}", self._shot)]

    def _list(self, _request: Request) -> Response:
        if self._folder is None:
            return Response(status_code=204)
        try:
            with closing(EventStore(self._folder)) as store:
                newest = list(store.events(most=_NEWEST))
        except (InputError, OutputError) as error:
            return Response(msgspec.json.encode({"error": str(error)}), 503, media_type="application/json")
        rows = [
            {
                "id": event.id, "first_seen": event.first_seen, "last_seen": event.last_seen,
                "has_mask": None if event.has_mask is None else bool(event.has_mask),
                "has_shot": event.shot is not None and not self._hide_faces,
            }
            for event in newest
        ]
        return Response(msgspec.json.encode(rows), media_type="application/json")

    def _shot(self, request: Request) -> Response:
        if self._folder is None or self._hide_faces:
            return Response(status_code=404)
        try:
            with closing(EventStore(self._folder)) as store:
                shot = store.event(request.path_params["number"]).shot
        except (InputError, OutputError):
            return Response(status_code=404)
        path = None if shot is None else self._folder / shot
        if path is None or not path.is_file():
            return Response(status_code=404)
        return FileResponse(path)       # its type is that of its name: older folders have PNGs
