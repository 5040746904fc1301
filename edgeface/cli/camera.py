"""``edgeface camera``: faces in what a camera sees, until it is told to stop."""

from __future__ import annotations

import logging
import os
import signal
import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING

import click

from edgeface.cli.detect import DEFAULT_MODEL, complete_model
from edgeface.cli.results import STDOUT, complain, say
from edgeface.errors import OptionError

if TYPE_CHECKING:
    from edgeface.stream.loop import Totals
    from edgeface.stream.results import Result
    from edgeface.stream.shots import Shot, Status
    from edgeface.stream.sinks import Sink

# From a signal to the end, whatever hangs.
_END_S = 1.8
_REPORT_S = 5.0
_log = logging.getLogger("edgeface.stream")


@dataclass(frozen=True)
class Options:
    """The command's options; None leaves a choice to the model or the source. ``sinks``: pairs of name and target."""

    source: str
    model: str = DEFAULT_MODEL
    size: int | None = None
    score: float | None = None
    nms: float | None = None
    threads: int | None = None
    engine: str | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    pixel_format: str | None = None
    loop: bool = False
    every_frame: bool = False
    track: bool = True
    detect_every: int = 1
    max_frames: int | None = None
    seconds: float | None = None
    give_up_s: float | None = None
    sinks: tuple[tuple[str, str], ...] = ()


def run(options: Options) -> Totals:
    """Run until the source ends, a limit is reached or a signal comes. Raises EdgefaceError."""
    from edgeface.runtime.loading import load
    from edgeface.stream.controls import Controls
    from edgeface.stream.loop import Limits, Loop, tracking_options
    from edgeface.stream.loop import run as run_loop
    from edgeface.stream.sinks import SinkContext, open_sink
    from edgeface.stream.sources import make_spec
    from edgeface.stream.supervision import Deadlines, Supervisor
    from edgeface.stream.tracking import Tracker

    spec = make_spec(
        options.source, width_px=options.width, height_px=options.height, fps=options.fps,
        pixel_format=options.pixel_format, loop=options.loop, every_frame=options.every_frame,
    )
    tracking = tracking_options(options.score) if options.track else None
    detector = load(
        options.model, engine=options.engine, threads=options.threads, size=options.size, nms=options.nms,
        score=options.score if tracking is None else tracking.low_score,
    )
    controls = Controls(
        detector.score if tracking is None else tracking.start_score,
        detector.size_px if isinstance(detector.size_px, int) else max(detector.size_px),
        smallest_px=detector.bundle.dense.multiple,
    )
    supervisor = Supervisor(spec, Deadlines(give_up_s=options.give_up_s))
    loop = Loop(
        supervisor, detector, tracker=None if tracking is None else Tracker(tracking),
        detect_every=options.detect_every, controls=controls,
    )
    context = SinkContext(spec.shown, options.fps, options.every_frame, controls)
    with ExitStack() as stack:
        stop = stack.enter_context(_signals())
        sinks: list[Sink] = []
        for name, target in options.sinks:
            sinks.append(open_sink(name, target, context))
            stack.callback(sinks[-1].close)
        if ("json", STDOUT) not in options.sinks:
            sinks.append(_Report())
        stack.enter_context(supervisor)
        return run_loop(loop, sinks, stop, Limits(options.max_frames, options.seconds))


class _Report:
    """A line for people every few seconds, on standard output."""

    def __init__(self) -> None:
        self._next_s = monotonic() + _REPORT_S
        self._latencies_ms: list[float] = []
        self._dropped_before = 0

    def put(self, shot: Shot, result: Result) -> None:
        self._latencies_ms.append(result.latency_ms)
        now_s = monotonic()
        if now_s < self._next_s:
            return
        rate = len(self._latencies_ms) / (now_s - self._next_s + _REPORT_S)
        say(
            f"{shot.source}: {rate:.1f} frames a second, {len(result.faces)} faces, capture to result "
            f"{statistics.median(self._latencies_ms):.0f} ms, {result.dropped - self._dropped_before} dropped"
        )
        self._next_s, self._latencies_ms, self._dropped_before = now_s + _REPORT_S, [], result.dropped

    def status(self, status: Status) -> None:
        """The log says it."""

    def close(self) -> None:
        """Nothing is held."""


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; 1.8 s later, or at the second, the process ends as it is.

    All files are whole then too: lines are written at once, and what has to be finished is not there yet.
    """
    stop = threading.Event()
    timers: list[threading.Timer] = []

    def end(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        timer = threading.Timer(_END_S, lambda: os._exit(128 + number))
        timer.daemon = True
        timer.start()
        timers.append(timer)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for timer in timers:
            timer.cancel()


class _Lines(logging.Handler):
    """The log of edgeface in the form of the command line's errors."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(record.getMessage())


@contextmanager
def _logged() -> Iterator[None]:
    log, handler = logging.getLogger("edgeface"), _Lines()
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def _summary(totals: Totals) -> str:
    import numpy as np

    if not totals.frames:
        return "no frame was looked at"
    median_ms, p95_ms = np.percentile(np.array(totals.latencies_ms), (50, 95))
    rate = f", {(totals.frames - 1) / totals.seconds:.1f} a second" if totals.seconds else ""
    failed = f", {totals.failed} failed" if totals.failed else ""
    return (
        f"{totals.frames} frames{rate}, faces in {totals.with_faces}, {totals.dropped} dropped{failed}; "
        f"capture to result: median {median_ms:.1f} ms, 95 % within {p95_ms:.1f} ms"
    )


def _one_source(argument: str | None, option: str | None) -> str:
    if (argument is None) == (option is None):
        raise OptionError("give one source: 0, /dev/video2, picamera2, rtsp://..., http://..., a file, a folder, demo")
    return argument or option or ""


Decorator = Callable[[Callable[..., None]], Callable[..., None]]


@click.command(short_help="Find faces in what a camera sees.")
@click.argument("source_argument", required=False, metavar="[SOURCE]")
@click.option("--source", metavar="SOURCE", help="The same, for those who like it named.")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, shell_complete=complete_model,
              help="A model's name ('edgeface models list'), a bundle's folder, or a checkpoint.")
@click.option("--size", type=click.IntRange(min=1), metavar="PIXELS",
              help="The longest side that the network sees a picture at; smaller is faster and misses small faces.")
@click.option("--score", type=click.FloatRange(0, 1), help="The least score of a face; of one that is tracked already, "
              "a lower one will do.")
@click.option("--nms", type=click.FloatRange(0, 1), help="The largest overlap (IoU) of two faces.")
@click.option("--threads", type=click.IntRange(min=1), help="Processors to use.  [default: all, at most 4]")
@click.option("--engine", help="The inference engine.  [default: the bundle's]")
@click.option("--width", type=click.IntRange(min=1), metavar="PIXELS", help="The camera's picture.")
@click.option("--height", type=click.IntRange(min=1), metavar="PIXELS", help="The camera's picture.")
@click.option("--fps", type=click.FloatRange(0, min_open=True), metavar="N",
              help="Frames a second: of a camera, or to play a file or folder at.")
@click.option("--pixel-format", metavar="NAME", help="Of a V4L2 camera: yuyv, nv12, mjpeg, grey or bgr.")
@click.option("--loop", is_flag=True, help="Play a file or folder again and again.")
@click.option("--every-frame", is_flag=True,
              help="Of a file, a folder or the demo: leave out no frame, as fast as they are looked at.")
@click.option("--track/--no-track", default=True, show_default=True, help="Number the faces and keep the numbers.")
@click.option("--detect-every", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Look for faces in every Nth frame; tracking fills in for the others.")
@click.option("--json", "json_target", metavar="FILE",
              help="Append one JSON line a frame; '-' is standard output, and replaces the lines for people.")
@click.option("--max-frames", type=click.IntRange(min=1), metavar="N", help="End after so many frames.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), metavar="N", help="End after so long.")
@click.option("--give-up", "give_up_s", type=click.FloatRange(0, min_open=True), metavar="SECONDS",
              help="End when the source is offline for so long.  [default: never]")
def command(
    source_argument: str | None,
    source: str | None,
    model: str,
    size: int | None,
    score: float | None,
    nms: float | None,
    threads: int | None,
    engine: str | None,
    width: int | None,
    height: int | None,
    fps: float | None,
    pixel_format: str | None,
    loop: bool,
    every_frame: bool,
    track: bool,
    detect_every: int,
    json_target: str | None,
    max_frames: int | None,
    seconds: float | None,
    give_up_s: float | None,
) -> None:
    """Find faces in what a camera sees, until Ctrl-C.

    A SOURCE is a camera (0, /dev/video2, picamera2), an address (rtsp://... or http://... with MJPEG), a video, a
    folder of pictures, or 'demo': two faces that move over a drawn room, for a first look without a camera.

    Only the newest frame is looked at: what a detector cannot keep up with is dropped and counted. A camera that is
    unplugged, hangs or is not reachable is tried again, after 1 second first and every 30 in the end; standard error
    says so, and the JSON lines do. A file ends the run when it ends.
    """
    options = Options(
        source=_one_source(source_argument, source), model=model, size=size, score=score, nms=nms, threads=threads,
        engine=engine, width=width, height=height, fps=fps, pixel_format=pixel_format, loop=loop,
        every_frame=every_frame, track=track, detect_every=detect_every, max_frames=max_frames, seconds=seconds,
        give_up_s=give_up_s, sinks=() if json_target is None else (("json", json_target),),
    )
    with _logged():
        totals = run(options)
    if json_target != STDOUT:
        say(_summary(totals))
