"""The sink behind ``--show`` and ``--metrics``: one server for the page and the figures."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from starlette.routing import BaseRoute

from edgeface.errors import OptionError
from edgeface.stream.metrics import Metrics
from edgeface.stream.preview.access import choose_token
from edgeface.stream.preview.broadcaster import Broadcaster
from edgeface.stream.preview.events import KeptEvents
from edgeface.stream.preview.page import Page
from edgeface.stream.preview.playback import Playback
from edgeface.stream.preview.server import Server
from edgeface.stream.results import Result
from edgeface.stream.shots import Shot, Status
from edgeface.stream.sinks import SinkContext
from edgeface.stream.thermometer import Thermometer

DEFAULT_BIND = "127.0.0.1"
DEFAULT_PORT = 8485
MOST_VIEWERS = 16
# With the other connections of their browsers these are as many as the server takes.
LARGEST_VIEWERS = 64


@dataclass(frozen=True)
class WebOptions:
    """``page``: whether there is one, or the figures alone; ``bind`` and ``port``: where; ``token``: what every request
    must show, None for what ``access.choose_token`` says; ``allow_hosts``: names under which it may be asked for beside
    this machine's own; ``most_viewers``, up to LARGEST_VIEWERS; ``hide_faces`` blurs them in every picture; ``events``:
    the folder of what is kept, which the page lists."""

    page: bool = True
    bind: str = DEFAULT_BIND
    port: int = DEFAULT_PORT
    token: str | None = None
    allow_hosts: tuple[str, ...] = ()
    most_viewers: int = MOST_VIEWERS
    hide_faces: bool = False
    events: Path | None = None


class Web:
    """Serves the page and the figures. ``url`` is where, with the token where it was made here; ``asks_token``: whether
    there is one.

    Raises OutputError when the port cannot be had, and OptionError for a token that cannot work.
    """

    def __init__(self, options: WebOptions, context: SinkContext, thermometer: Thermometer) -> None:
        if not 0 <= options.port <= 65535 or not 1 <= options.most_viewers <= LARGEST_VIEWERS:
            raise OptionError(
                f"port {options.port} for {options.most_viewers} viewers cannot work: choose 0 to 65535, and 1 to "
                f"{LARGEST_VIEWERS}"
            )
        # Again, whoever made the options: never without one where others can reach it.
        token = choose_token(options.bind, options.token)
        self.asks_token = token is not None
        self._metrics = Metrics(context.source, thermometer)
        self._broadcaster: Broadcaster | None = None
        routes: list[BaseRoute] = self._metrics.routes()
        if options.page:
            self._broadcaster = Broadcaster(
                context.source, context.controls, hide_faces=options.hide_faces, thermometer=thermometer
            )
            routes += Page(self._broadcaster, context.controls, most_viewers=options.most_viewers).routes()
            if context.recordings is not None:
                routes += Playback(context.recordings).routes()
            routes += KeptEvents(options.events, hide_faces=options.hide_faces).routes()
        try:
            self._server = Server(
                routes, bind=options.bind, port=options.port, token=token, allow_hosts=options.allow_hosts,
                on_start=None if self._broadcaster is None else self._broadcaster.attach,
            )
        except BaseException:
            if self._broadcaster is not None:
                self._broadcaster.close()
            raise
        host = _reached_at(options.bind)
        host = f"[{host}]" if ":" in host else host
        path = "/" if options.page else "/metrics"
        self.port = self._server.port
        self.url = f"http://{host}:{self.port}{path}"
        # One that the user chose is a secret that the log need not have.
        if token is not None and options.token is None:
            self.url += f"?token={token}"

    def put(self, shot: Shot, result: Result) -> None:
        self._metrics.put(shot, result)
        if self._broadcaster is not None:
            self._broadcaster.put(shot, result)

    def status(self, status: Status) -> None:
        self._metrics.status(status)
        if self._broadcaster is not None:
            self._broadcaster.status(status)

    def close(self) -> None:
        if self._broadcaster is not None:
            self._broadcaster.close()
        self._server.close()


def _reached_at(bind: str) -> str:
    """The address to type elsewhere: for all addresses of this machine, the one that it has in its network."""
    with suppress(ValueError):
        if bind and not ipaddress.ip_address(bind).is_unspecified:
            return bind
        # Nothing is sent: the system only looks up the way to an address that nobody has (RFC 5737).
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        return socket.gethostname()
    return bind
