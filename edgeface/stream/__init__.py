"""Cameras that are looked after: frames from a source, the faces in them, and where the results go.

``edgeface.stream("0", model="mos_s")`` is this module called: it holds the streaming half of edgeface, and its one
function of the same name is what users of the Python API need of it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from edgeface.stream.sources import make_spec
from edgeface.weights import DEFAULT_MODEL

if TYPE_CHECKING:
    from pathlib import Path

    from edgeface.runtime.detector import Detector
    from edgeface.stream.loop import Loop
    from edgeface.stream.results import TrackedFaces
    from edgeface.stream.shots import Shot
    from edgeface.stream.sources import SourceSpec
    from edgeface.stream.supervision import Deadlines, Supervisor
    from edgeface.stream.tracking import TrackerOptions

__all__ = ["stream"]


def stream(
    source: str | int | Path,
    *,
    model: str | Path = DEFAULT_MODEL,
    engine: str | None = None,
    threads: int | None = None,
    size: int | None = None,
    score: float | None = None,
    nms: float | None = None,
    refine: str | Path | None = None,
    min_face: float | None = None,
    thresholds: Sequence[float] | None = None,
    candidates: int | None = None,
    classes: bool = True,
    track: bool = True,
    detect_every: int = 1,
    width: int | None = None,
    height: int | None = None,
    fps: float | None = None,
    pixel_format: str | None = None,
    loop: bool = False,
    every_frame: bool = False,
    any_redirect: bool = False,
    any_certificate: bool = False,
    rotate_deg: int = 0,
    flip: bool = False,
    deadlines: Deadlines | None = None,
) -> Iterator[tuple[Shot, TrackedFaces]]:
    """Frames of a source with the faces in them, the newest frame each time: ``for frame, faces in stream("0"): ...``.

    ``source``: a camera (``0``, ``"/dev/video2"``, ``"picamera2"``), an address (rtsp://, http://), a video, a folder
    of pictures, or ``"demo"``. ``frame.image`` is the picture, uint8 (H, W, 3) BGR; ``faces`` are Faces with
    ``tracks``. A source that stops is tried again and again (``deadlines`` say how, the log "edgeface.stream" why); the
    iteration ends when a file does. ``model`` to ``classes`` are those of ``edgeface.load``; ``width`` to ``flip``
    those of ``edgeface.stream.sources.make_spec``; with ``track`` faces have numbers, and in all but every
    ``detect_every``-th frame the tracker fills in for the detector.

    The source's process starts with the first frame asked for, and ends when the iterator is closed: at the end, by
    ``close()``, or when a ``for`` is left and nothing else holds the iterator. Raises at once what ``load`` and
    ``make_spec`` raise and OptionError; while it runs, what ends a source for good (InputError for a damaged file,
    MissingExtraError), and the detector's error when it fails on every frame.
    """
    from edgeface.runtime.loading import load
    from edgeface.stream.loop import tracking_options

    spec = make_spec(
        str(source), width_px=width, height_px=height, fps=fps, pixel_format=pixel_format, loop=loop,
        every_frame=every_frame, any_redirect=any_redirect, any_certificate=any_certificate, rotate_deg=rotate_deg,
        flip=flip,
    )
    detector = load(
        model, engine=engine, threads=threads, size=size, nms=nms, score=score, refine=refine, min_face=min_face,
        thresholds=thresholds, candidates=candidates, classes=classes,
    )
    options = tracking_options(detector.score) if track else None
    if options is not None:
        detector.score = options.low_score
    return _started(spec, deadlines, detector, options, detect_every)


def _started(
    spec: SourceSpec, deadlines: Deadlines | None, detector: Detector, options: TrackerOptions | None,
    detect_every: int,
) -> Iterator[tuple[Shot, TrackedFaces]]:
    """What is looked after from the first frame asked for."""
    from edgeface.stream.loop import Loop
    from edgeface.stream.supervision import Supervisor
    from edgeface.stream.tracking import Tracker

    supervisor = Supervisor(spec, deadlines)
    tracker = None if options is None else Tracker(options)
    return _iterate(supervisor, Loop(supervisor, detector, tracker=tracker, detect_every=detect_every))


def _iterate(supervisor: Supervisor, running: Loop) -> Iterator[tuple[Shot, TrackedFaces]]:
    with supervisor:
        for shot, result in running.results(threading.Event(), lambda _status: None):
            yield shot, result.faces


class _Callable(ModuleType):
    # A package and a function of one name: whichever was imported last would hide the other.
    __call__ = staticmethod(stream)


sys.modules[__name__].__class__ = _Callable
