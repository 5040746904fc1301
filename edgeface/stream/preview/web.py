"""The sink behind ``--show`` and ``--metrics``: one server for the page and the figures."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.routing import BaseRoute

from edgeface.errors import OptionError
from edgeface.stream.machine import Machine
from edgeface.stream.metrics import Metrics
from edgeface.stream.preview.access import choose_token
from edgeface.stream.preview.board import Board
from edgeface.stream.preview.page import Page
from edgeface.stream.preview.server import Server
from edgeface.stream.results import Result
from edgeface.stream.shots import Shot, Status
from edgeface.stream.sinks import SinkContext

DEFAULT_BIND = "127.0.0.1"
DEFAULT_PORT = 8485
MOST_VIEWERS = 16


@dataclass(frozen=True)
class WebOptions:
    """``page``: whether there is one, or the figures alone; ``bind`` and ``port``: where; ``token``: what every request
    must show, see ``access.choose_token``; ``hide_faces`` blurs them in every picture."""

    page: bool = True
    bind: str = DEFAULT_BIND
    port: int = DEFAULT_PORT
    token: str | None = None
    most_viewers: int = MOST_VIEWERS
    hide_faces: bool = False


class Web:
    """Serves the page and the figures. ``url`` is where, with the token; ``asks_token``: whether there is one.

    Raises OutputError when the port cannot be had, and OptionError for a token that cannot work.
    """

    def __init__(self, options: WebOptions, context: SinkContext, machine: Machine) -> None:
        if not 0 <= options.port <= 65535 or options.most_viewers < 1:
            raise OptionError(
                f"port {options.port} for {options.most_viewers} viewers cannot work: choose 0 to 65535, and 1 or more"
            )
        # Again, whoever made the options: never without one where others can reach it.
        token = choose_token(options.bind, options.token)
        self.asks_token = token is not None
        self._metrics = Metrics(context.source, machine)
        self._board: Board | None = None
        routes: list[BaseRoute] = self._metrics.routes()
        if options.page:
            self._board = Board(context.source, context.controls, hide_faces=options.hide_faces, machine=machine)
            routes += Page(self._board, context.controls, most_viewers=options.most_viewers).routes()
        try:
            self._server = Server(
                routes, bind=options.bind, port=options.port, token=token,
                on_start=None if self._board is None else self._board.attach,
            )
        except BaseException:
            if self._board is not None:
                self._board.close()
            raise
        host = f"[{options.bind}]" if ":" in options.bind else options.bind
        path = "/" if options.page else "/metrics"
        self.port = self._server.port
        self.url = f"http://{host}:{self.port}{path}" + (f"?token={token}" if token else "")

    def put(self, shot: Shot, result: Result) -> None:
        self._metrics.put(shot, result)
        if self._board is not None:
            self._board.put(shot, result)

    def status(self, status: Status) -> None:
        self._metrics.status(status)
        if self._board is not None:
            self._board.status(status)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
        self._server.close()
