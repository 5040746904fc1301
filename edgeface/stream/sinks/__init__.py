"""Where results go: the registry ``sink``, and what lets a slow one not slow the loop.

A sink is written in three steps. A class with ``put``, ``status`` and ``close`` (the protocol ``Sink``); an opener
that makes one from its target's text and is registered under the sink's name; the module's name in ``_HOMES``. The
opener of a sink that may wait for a disk, a network or a reader returns it in ``Queued``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from edgeface.errors import UnknownSinkError
from edgeface.registry import Registry

if TYPE_CHECKING:
    from edgeface.stream.controls import Controls
    from edgeface.stream.recordings import Recordings
    from edgeface.stream.results import Result
    from edgeface.stream.shots import Shot, Status


@runtime_checkable
class Sink(Protocol):
    """Takes results, in order, all from one thread."""

    def put(self, shot: Shot, result: Result) -> None:
        """Take one result. The loop waits for this call, so it takes microseconds: what may wait goes into ``Queued``.

        Raises EdgefaceError, or BrokenPipeError where a reader went away, to end the run. What can pass, such as a
        broker that is down, is logged and counted by the sink and does not raise.
        """

    def status(self, status: Status) -> None:
        """Take a change of the source's state; as ``put``."""

    def close(self) -> None:
        """Finish within a second and let go of everything; safe to call twice. Raises as ``put`` does."""


@dataclass(frozen=True)
class SinkContext:
    """What an opener may know of the run: the ``source`` as people may see it, and the rate that it announces.

    ``lossless``: the source waits for the loop (every frame of a file is wanted), so a full queue waits as well
    instead of dropping. ``controls`` are the settings that may be changed while it runs. ``hide_faces``: no picture
    leaves the process with a face that can be recognised. ``zones`` and ``event_kinds`` are those that events tell of,
    and ``home_assistant``: a broker is told of them as Home Assistant wants it. ``recordings``: where this run's videos
    go, for the page.
    """

    source: str
    fps: float | None = None
    lossless: bool = False
    controls: Controls | None = None
    hide_faces: bool = False
    zones: tuple[str, ...] = ()
    event_kinds: tuple[str, ...] = ()
    home_assistant: bool = False
    recordings: Recordings | None = None


SinkOpener = Callable[[str, SinkContext], Sink]

sink: Registry[SinkOpener] = Registry("sink", UnknownSinkError)

# Where a name is registered, imported when it is asked for: a sink's library is loaded when the sink is used.
_HOMES: Mapping[str, str] = MappingProxyType({
    "json": "edgeface.stream.sinks.json_lines",
    "mqtt": "edgeface.stream.sinks.mqtt",
    "video": "edgeface.stream.sinks.video",
    "window": "edgeface.stream.sinks.window",
})


def open_sink(name: str, target: str, context: SinkContext) -> Sink:
    """The sink of that name for ``target``: a file, ``-``, or an address, as the sink says.

    Raises UnknownSinkError with the choices, and what the sink's opener raises: OptionError for a target that cannot
    work, OutputError, MissingExtraError.
    """
    if name in _HOMES:
        importlib.import_module(_HOMES[name])
    return sink.get(name)(target, context)
