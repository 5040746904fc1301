"""``edgeface camera``: faces in what a camera sees, until it is told to stop."""

from __future__ import annotations

import os
import signal
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgeface.addresses import redacted
from edgeface.cli.detector_options import detector_options
from edgeface.cli.results import STDOUT
from edgeface.cli.verbosity import told
from edgeface.cli.writing import complain, say
from edgeface.errors import OptionError
from edgeface.stream.camera import CameraOptions, check, run
from edgeface.stream.config import read_config
from edgeface.stream.notify.execute import split_command
from edgeface.stream.sources import make_spec
from edgeface.wording import counted

if TYPE_CHECKING:
    from edgeface.stream.loop import Totals
    from edgeface.stream.preview.web import Web
    from edgeface.stream.results import Result
    from edgeface.stream.shots import Shot, Status

# From a signal to the end, whatever hangs.
_END_S = 1.8
_REPORT_S = 5.0


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
            f"{shot.source}: {rate:.1f} frames a second, {counted(len(result.faces), 'face')}, capture to result "
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


def _summary(totals: Totals) -> str:
    if not totals.frames:
        return "no frame was looked at"
    # NumPy's percentile would import masked arrays: 3 MB at the end of a run.
    at_least_two = [*totals.latencies_ms] * (2 if totals.frames == 1 else 1)
    twentieths = statistics.quantiles(at_least_two, n=20, method="inclusive")
    median_ms, p95_ms = twentieths[9], twentieths[18]
    rate = f", {(totals.frames - 1) / totals.seconds:.1f} a second" if totals.seconds else ""
    failed = f", {totals.failed} failed" if totals.failed else ""
    return (
        f"{counted(totals.frames, 'frame')}{rate}, faces in {totals.with_faces}, {totals.dropped} dropped{failed}; "
        f"capture to result: median {median_ms:.1f} ms, 95 % within {p95_ms:.1f} ms"
    )


def _configured(context: click.Context, _option: click.Parameter, value: Path | None) -> Path | None:
    """The file's settings as the defaults of the options: what is given on the command line goes before them."""
    if value is not None:
        context.default_map = {**(context.default_map or {}), **read_config(value)}
    return value


def _command(_context: click.Context, _option: click.Parameter, value: Any) -> tuple[str, ...]:
    """The arguments of a command: a list from a file of settings, or a text."""
    if value is None:
        return ()

    return split_command(value)


def _first_camera(context: click.Context, options: CameraOptions) -> str:
    from edgeface.stream.first_camera import first_camera

    wanted = make_spec(
        "demo", width_px=options.width, height_px=options.height, fps=options.fps, pixel_format=options.pixel_format,
    )
    for option, given in (("--loop", options.loop), ("--every-frame", options.every_frame)):
        if given:
            raise OptionError(f"{option} is for a file or folder: name one")
    with told(context, "edgeface.stream"):
        return first_camera(wanted)


def _announce(web: Web, is_stdout_taken: bool) -> None:
    what = "watch" if web.url.partition("?")[0].endswith("/") else "figures"
    hint = ", with your token: ?token=..." if web.asks_token and "?token=" not in web.url else ""
    (complain if is_stdout_taken else say)(f"{what} at {web.url}{hint}")


@click.command(short_help="Find faces in what a camera sees.")
@click.argument("source_argument", required=False, metavar="[SOURCE]")
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), is_eager=True, callback=_configured,
              metavar="FILE", help="Settings from a TOML file (docs/camera.md); options given here go before them.")
@click.option("--check", "check_only", is_flag=True, help="Check all settings, say what a run would do, and end.")
@click.option("--source", metavar="SOURCE", help="The same as SOURCE, for those who like it named.")
@detector_options("The least score of a face; of one that is tracked already, a lower one will do.")
@click.option("--classes/--no-classes", default=False, help="Tell what classes a face seems to be of, such as age and "
              "gender, where the model does; on their worth see docs/tfn.md.")
@click.option("--width", type=click.IntRange(min=1), metavar="PIXELS", help="The camera's picture.")
@click.option("--height", type=click.IntRange(min=1), metavar="PIXELS", help="The camera's picture.")
@click.option("--fps", type=click.FloatRange(0, min_open=True), metavar="N",
              help="Frames a second: of a camera, or to play a file or folder at.")
@click.option("--pixel-format", metavar="NAME", help="Of a V4L2 camera: yuyv, nv12, mjpeg, grey or bgr.")
@click.option("--loop/--no-loop", default=False, help="Play a file or folder again and again.")
@click.option("--every-frame/--no-every-frame", default=False,
              help="Of a file, a folder or the demo: leave out no frame, as fast as they are looked at.")
@click.option("--rotate", "rotate_deg", type=int, default=0, metavar="DEGREES",
              help="Turn the picture clockwise by 90, 180 or 270: for a camera that hangs on its side or upside down.")
@click.option("--flip/--no-flip", default=False, help="Mirror the picture from left to right, once it is turned.")
@click.option("--any-redirect/--no-any-redirect", default=False,
              help="Follow an http camera's redirects to other hosts and ports too.")
@click.option("--any-certificate/--no-any-certificate", default=False,
              help="Take any certificate of an https camera, such as one that it made itself.")
@click.option("--track/--no-track", default=True, show_default=True, help="Number the faces and keep the numbers.")
@click.option("--detect-every", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Look for faces in every Nth frame; tracking fills in for the others.")
@click.option("--show/--no-show", default=False, help="Serve a page with the live picture; the address is printed.")
@click.option("--metrics/--no-metrics", default=False,
              help="Serve /metrics for Prometheus and /health; --show does as well.")
@click.option("--bind", metavar="ADDRESS", help="Where to serve them: 0.0.0.0 for all of the network, with a token.  "
              "[default: 127.0.0.1, this machine alone]")
@click.option("--port", type=click.IntRange(0, 65535), help="Its port; 0 takes a free one.  [default: 8485]")
@click.option("--token", envvar="EDGEFACE_TOKEN", help="What viewers must know; read from EDGEFACE_TOKEN too.  "
              "[default: one that is made and printed, where others can reach the page]")
@click.option("--allow-host", multiple=True, metavar="NAME", help="A name that the page may be asked for under, beside "
              "this machine's own, such as robot1.lan or '*.fritz.box'; may be given more than once.")
@click.option("--viewers", type=click.IntRange(min=1), metavar="N", help="Viewers at a time.  [default: 16]")
@click.option("--json", metavar="FILE",
              help="Append one JSON line a frame; '-' is standard output, and replaces the lines for people.")
@click.option("--mqtt", metavar="ADDRESS",
              help="Publish every result: mqtt://[USER@]HOST[:PORT][/PREFIX]; password in EDGEFACE_MQTT_PASSWORD.")
@click.option("--video", metavar="FILE", help="Record with what was found drawn in: an .mp4 or .webm, "
              "or a folder (DIR/) of them, which --show plays back.")
@click.option("--video-days", type=click.FloatRange(0, min_open=True), metavar="N",
              help="Delete a folder's recordings after so many days.  [default: 30]")
@click.option("--video-mb", type=click.FloatRange(1), metavar="MB",
              help="Delete the oldest where all of a folder take more.  [default: 10000]")
@click.option("--window/--no-window", default=False,
              help="Show a window, where this machine has a display and OpenCV has windows.")
@click.option("--best-shots", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Keep the best face of every track, upright at 112 x 112 pixels; on the law see docs/camera.md.")
@click.option("--events", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Keep a row a track in SQLite, and its best shot: see 'edgeface events'; on the law docs/events.md")
@click.option("--events-days", type=click.FloatRange(0, min_open=True), metavar="N",
              help="Delete events after so many days.  [default: 30]")
@click.option("--events-mb", type=click.FloatRange(1), metavar="MB",
              help="Delete the oldest events where all take more.  [default: 1000]")
@click.option("--events-shots/--no-events-shots", default=True, help="Keep no picture with an event.")
@click.option("--events-attributes/--no-events-attributes", default=False,
              help="Keep with an event what the model tells of a face besides a mask.")
@click.option("--blur/--no-blur", default=False, help="Hide the faces in every picture that leaves the process.")
@click.option("--webhook", metavar="URL",
              help="POST a JSON object for every face that enters or leaves (docs/notify.md).")
@click.option("--exec", type=click.UNPROCESSED, callback=_command, metavar="COMMAND",
              help="Run a command for every face that enters or leaves, JSON on its standard input; no shell.")
@click.option("--on", multiple=True, metavar="EVENT",
              help="What --webhook, --exec and --mqtt tell: enter, leave, mask_missing or best_shot; may be given more "
              "than once.  [default: the first three]")
@click.option("--zone", multiple=True, metavar="NAME=X1,Y1,X2,Y2",
              help="Tell of faces in this part of the picture, in shares of it; may be given more than once.")
@click.option("--dwell", "dwell_s", type=click.FloatRange(0), metavar="SECONDS",
              help="A face has entered once it has stayed so long.  [default: 0]")
@click.option("--home-assistant/--no-home-assistant", default=False,
              help="Have the entities of --mqtt appear in Home Assistant by themselves.")
@click.option("--adapt", "adapt_ms", type=click.FloatRange(0, min_open=True), metavar="MS",
              help="Hold the time from capture to result by a smaller input, when heat or load slow the machine down.")
@click.option("--max-frames", type=click.IntRange(min=1), metavar="N", help="End after so many frames.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), metavar="N", help="End after so long.")
@click.option("--patience", "patience_s", type=click.FloatRange(0, min_open=True), metavar="SECONDS",
              help="How long a source may give no frame before it is started anew.  [default: 2]")
@click.option("--give-up", "give_up_s", type=click.FloatRange(0, min_open=True), metavar="SECONDS",
              help="End when the source is offline for so long.  [default: never]")
@click.pass_context
def command(
    context: click.Context,
    /,
    source_argument: str | None,
    config: Path | None,
    check_only: bool,
    source: str | None,
    json: str | None,
    mqtt: str | None,
    video: str | None,
    window: bool,
    **settings: Any,
) -> None:
    """Find faces in what a camera sees, until Ctrl-C.

    Without a SOURCE it is the Raspberry Pi's camera, else the first V4L2 device that gives pictures.

    A SOURCE is a camera (0, /dev/video2, picamera2), an address (rtsp://... or http://... with MJPEG), a video, a
    folder of pictures, or 'demo': two faces that move over a drawn room, for a first look without a camera.

    Only the newest frame is looked at: what a detector cannot keep up with is dropped and counted. A camera that is
    unplugged, hangs or is not reachable is tried again, after 1 second first and every 30 in the end; standard error
    says so, and the JSON lines do. A file ends the run when it ends.
    """
    given = context.get_parameter_source
    if source_argument is not None and given("source") is ParameterSource.COMMANDLINE:
        raise OptionError(f"two sources, {redacted(source_argument)} and {redacted(source or '')}: give one")
    if given("token") is ParameterSource.ENVIRONMENT and not (settings["show"] or settings["metrics"]):
        settings["token"] = None    # it waits there for runs that have a page
    wanted = {"json": json, "mqtt": mqtt, "video": video, "window": "" if window else None}
    options = CameraOptions(
        source=source_argument or source or "",
        sinks=tuple((name, target) for name, target in wanted.items() if target is not None),
        **settings,
    )
    if not options.source:
        options = replace(options, source=_first_camera(context, options))
    if check_only:
        say(check(options))
        return
    with told(context, "edgeface.stream"), _signals() as stop:
        extra = () if json == STDOUT else (_Report(),)
        totals = run(options, stop, extra=extra, on_web=lambda web: _announce(web, json == STDOUT))
    if json != STDOUT:
        say(_summary(totals))
