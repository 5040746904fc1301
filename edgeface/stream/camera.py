"""One run of ``edgeface camera``: the options, and everything put together."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgeface.errors import OptionError, OutputError
from edgeface.runtime.detector_options import DetectorOptions
from edgeface.stream.controls import Controls
from edgeface.stream.notify import Outlet
from edgeface.stream.sinks import SinkContext, open_sink
from edgeface.stream.sources import make_spec
from edgeface.stream.thermometer import Thermometer

if TYPE_CHECKING:
    from edgeface.runtime.detector import Detector
    from edgeface.stream.events.recorder import EventOptions
    from edgeface.stream.loop import Loop, Totals
    from edgeface.stream.notify.options import NotifyOptions
    from edgeface.stream.preview.web import Web, WebOptions
    from edgeface.stream.recordings import Recordings
    from edgeface.stream.sinks import Sink
    from edgeface.stream.sources import SourceSpec
    from edgeface.stream.supervision import Supervisor


@dataclass(frozen=True)
class CameraOptions:
    """The options of a run; None leaves a choice to the source or the page.

    ``sinks``: pairs of a sink's name and target. ``show``: serve the page; ``metrics``: serve the figures, which the
    page's server does as well. ``adapt_ms``: the latency to hold by a smaller input. ``best_shots``: a folder for the
    best face of every track. ``video_days``, ``video_mb``: what a folder of recordings keeps. ``events``: a folder for
    a row a track, within ``events_days`` and ``events_mb``, with best shots and attributes where they are wanted.
    ``blur``: hide faces in every picture that leaves the process. ``classes``: tell those that the model gives, such as
    age and gender.

    ``webhook``, ``exec``, ``zone``, ``on``, ``dwell_s`` and ``home_assistant``: who is told of faces that come and go
    (NotifyOptions).
    """

    source: str
    detector: DetectorOptions = field(default_factory=DetectorOptions)
    classes: bool = False
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    pixel_format: str | None = None
    loop: bool = False
    every_frame: bool = False
    any_redirect: bool = False
    any_certificate: bool = False
    rotate_deg: int = 0
    flip: bool = False
    track: bool = True
    detect_every: int = 1
    max_frames: int | None = None
    seconds: float | None = None
    patience_s: float | None = None
    give_up_s: float | None = None
    sinks: tuple[tuple[str, str], ...] = ()
    show: bool = False
    metrics: bool = False
    bind: str | None = None
    port: int | None = None
    token: str | None = None
    allow_host: tuple[str, ...] = ()
    viewers: int | None = None
    adapt_ms: float | None = None
    best_shots: Path | None = None
    video_days: float | None = None
    video_mb: float | None = None
    events: Path | None = None
    events_days: float | None = None
    events_mb: float | None = None
    events_shots: bool = True
    events_attributes: bool = False
    blur: bool = False
    webhook: str | None = None
    exec: tuple[str, ...] = ()
    zone: tuple[str, ...] = ()
    on: tuple[str, ...] = ()
    dwell_s: float | None = None
    home_assistant: bool = False


def check(options: CameraOptions) -> str:
    """Whether a run could start with these options, without starting it: one line that says what it would do.

    Raises what ``run`` would, as far as that can be known without the camera, the broker and the port.
    """
    ready = _prepared(options)
    if options.show or options.metrics:
        from edgeface.stream.preview.access import allowed_hosts, choose_token

        choose_token(_web_options(options).bind, options.token)
        allowed_hosts(options.allow_host)
    for name, target in options.sinks:
        _check_target(name, target)
    outlets = [name for name, _ in options.sinks]
    outlets += ["page"] if options.show else ["figures"] if options.metrics else []
    outlets += ["best shots"] if options.best_shots else []
    outlets += ["events"] if options.events else []
    outlets += ["webhook"] if options.webhook else []
    outlets += ["exec"] if options.exec else []
    return (
        f"{ready.spec.shown} by {ready.detector.bundle.name} at {ready.detector.size_px} pixels, "
        f"{'tracked' if options.track else 'not tracked'}, to {', '.join(outlets) or 'standard output'}"
    )


def run(
    options: CameraOptions,
    stop: threading.Event,
    *,
    extra: Sequence[Sink] = (),
    on_web: Callable[[Web], None] = lambda _web: None,
) -> Totals:
    """Run until the source ends, a limit is reached or ``stop`` is set. Raises EdgefaceError.

    ``extra`` sinks are closed with the others; ``on_web`` is called once the page or the figures can be reached.
    """
    from edgeface.stream.loop import Limits
    from edgeface.stream.loop import run as run_loop

    ready = _prepared(options)
    notify = _notify_options(options)
    context = SinkContext(
        ready.spec.shown, options.fps, options.every_frame, ready.controls, options.blur, notify.zone_names(),
        notify.kinds, options.home_assistant, _recordings(options),
    )
    with ExitStack() as stack:
        sinks = _opened(options, context, stack, on_web)
        for sink in extra:
            stack.callback(sink.close)
        stack.enter_context(ready.supervisor)
        return run_loop(ready.loop, [*sinks, *extra], stop, Limits(options.max_frames, options.seconds))


@dataclass(frozen=True)
class _Ready:
    """All that a run needs and that starts nothing yet."""

    spec: SourceSpec
    detector: Detector
    controls: Controls
    supervisor: Supervisor
    loop: Loop


def _prepared(options: CameraOptions) -> _Ready:
    from edgeface.stream.loop import Loop, tracking_options
    from edgeface.stream.supervision import Deadlines, Supervisor
    from edgeface.stream.tracking import Tracker

    spec = make_spec(
        options.source, width_px=options.width, height_px=options.height, fps=options.fps,
        pixel_format=options.pixel_format, loop=options.loop, every_frame=options.every_frame,
        any_redirect=options.any_redirect, any_certificate=options.any_certificate, rotate_deg=options.rotate_deg,
        flip=options.flip,
    )
    is_served = options.show or options.metrics
    if not is_served and any(
        (options.bind, options.port is not None, options.token, options.allow_host, options.viewers)
    ):
        raise OptionError("--bind, --port, --token, --allow-host and --viewers are the page's: add --show or --metrics")
    _check_kept(options)
    _check_told(options)
    detector = options.detector.open(classes=options.classes)
    own_score = detector.score
    tracking = tracking_options(own_score) if options.track else None
    if tracking is not None:
        detector.score = tracking.low_score
    upright = {"--best-shots": options.best_shots is not None, "--on best_shot": "best_shot" in options.on}
    for option in (option for option, is_given in upright.items() if is_given):
        if not detector.bundle.gives_landmarks:
            raise OptionError(
                f"{option} turns faces upright by their landmarks, and {detector.bundle.name} gives none: choose a "
                "model with landmarks, or add --refine tcnn"
            )
    if "mask_missing" in options.on and "mask" not in detector.bundle.attributes:
        raise OptionError(
            f"--on mask_missing needs a model that tells masks, and {detector.bundle.name} does not: choose one that "
            "does (edgeface models list), or add --refine tcnn"
        )
    controls = Controls(
        own_score,
        detector.size_px if isinstance(detector.size_px, int) else max(detector.size_px),
        smallest_px=detector.smallest_px,
    )
    supervisor = Supervisor(spec, Deadlines.patient(options.patience_s, options.give_up_s))
    loop = Loop(
        supervisor, detector, tracker=None if tracking is None else Tracker(tracking),
        detect_every=options.detect_every, controls=controls,
    )
    return _Ready(spec, detector, controls, supervisor, loop)


def _check_kept(options: CameraOptions) -> None:
    """Raises OptionError for what is to be kept of faces and cannot be."""
    recordings = _recordings(options)
    if (options.video_days, options.video_mb) != (None, None) and not (recordings and recordings.is_folder):
        raise OptionError(
            "--video-days and --video-mb say what a folder of recordings keeps: add --video DIR/, or leave them out"
        )
    if options.blur and options.best_shots is not None:
        raise OptionError("--blur hides faces and --best-shots stores them: choose one of them")
    if options.best_shots is not None and not options.track:
        raise OptionError("--best-shots keeps a face a track: leave --no-track out")
    if options.events is None:
        if (options.events_days, options.events_mb, options.events_shots, options.events_attributes) != (
            None, None, True, False,
        ):
            raise OptionError("options that begin with --events- say how --events keeps them: add it, or drop them")
        return
    _event_options(options)
    if not options.track:
        raise OptionError("--events keeps a row a track: leave --no-track out")
    if options.blur and options.events_shots:
        raise OptionError("--blur hides faces and --events stores them: add --no-events-shots, or drop --blur")


def _notify_options(options: CameraOptions) -> NotifyOptions:
    from edgeface.stream.notify.options import NotifyOptions

    # Without tracks nobody comes and goes; a broker gets the frames then.
    is_at_broker = options.track and any(name == "mqtt" for name, _ in options.sinks)
    return NotifyOptions(
        options.webhook, options.exec, is_at_broker, options.zone, options.on, options.dwell_s, options.home_assistant
    )


def _check_told(options: CameraOptions) -> None:
    """Raises OptionError and UnknownNameError for events that cannot be told."""
    notify = _notify_options(options)
    if notify.is_wanted and not options.track:
        raise OptionError("--webhook and --exec tell who comes and goes, by tracks: leave --no-track out")
    if options.blur and "best_shot" in options.on:
        raise OptionError("--blur hides faces and --on best_shot passes them on: choose one of them")


def _event_options(options: CameraOptions) -> EventOptions:
    from edgeface.stream.events.recorder import EventOptions

    assert options.events is not None
    return EventOptions(
        options.events, **_given(days=options.events_days, megabytes=options.events_mb),
        shots=options.events_shots, attributes=options.events_attributes,
    )


def _opened(
    options: CameraOptions, context: SinkContext, stack: ExitStack, on_web: Callable[[Web], None]
) -> list[Sink]:
    """Every sink that is asked for; ``stack`` closes them."""
    from edgeface.stream.adapt import Adapter
    from edgeface.stream.systemd import SystemdSink

    sinks: list[Sink] = []

    def add(sink: Sink) -> None:
        sinks.append(sink)
        stack.callback(sink.close)

    if options.adapt_ms is not None:
        assert context.controls is not None
        add(Adapter(context.controls, options.adapt_ms))
    for name, target in options.sinks:
        add(open_sink(name, target, context))
    notify = _notify_options(options)
    if notify.is_wanted:
        from edgeface.stream.notify.notifier import Notifier

        at_broker = [sink for sink in sinks if isinstance(sink, Outlet)]
        # The first to be closed, so that outlets hear of those who leave then.
        sinks.insert(0, Notifier(notify.visits(), [*notify.outlets(), *at_broker]))
        stack.callback(sinks[0].close)
    if options.best_shots is not None:
        from edgeface.stream.best_shot import BestShotFiles

        add(BestShotFiles(options.best_shots))
    if options.events is not None:
        from edgeface.stream.events.recorder import EventRecorder

        add(EventRecorder(_event_options(options)))
    if options.show or options.metrics:
        from edgeface.stream.preview.web import Web

        web = Web(_web_options(options), context, Thermometer())
        add(web)
        on_web(web)
    add(SystemdSink())
    return sinks


def _web_options(options: CameraOptions) -> WebOptions:
    from edgeface.stream.preview.web import DEFAULT_BIND, DEFAULT_PORT, MOST_VIEWERS, WebOptions

    return WebOptions(
        page=options.show,
        bind=DEFAULT_BIND if options.bind is None else options.bind,
        port=DEFAULT_PORT if options.port is None else options.port,
        token=options.token,
        allow_hosts=options.allow_host,
        most_viewers=MOST_VIEWERS if options.viewers is None else options.viewers,
        hide_faces=options.blur,
        events=options.events,
    )


def _recordings(options: CameraOptions) -> Recordings | None:
    target = dict(options.sinks).get("video")
    if target is None:
        return None
    from edgeface.stream.recordings import RecordingLimits, Recordings

    limits = RecordingLimits(**_given(days=options.video_days, megabytes=options.video_mb))
    # Those of other runs may show faces.
    return Recordings(target, own_only=options.blur, limits=limits)


def _given(**values: float | None) -> dict[str, float]:
    """Those that somebody chose."""
    return {name: value for name, value in values.items() if value is not None}


def _check_target(name: str, target: str) -> None:
    """Raises OptionError or OutputError for a sink's target that cannot work."""
    if name == "mqtt":
        from edgeface.stream.sinks.mqtt import Address

        Address.parse(target)
        return
    if name == "video":
        from edgeface.stream.recordings import Recordings

        Recordings(target)
    path = Path(target).absolute()
    folder = path if name == "video" and path.is_dir() else path.parent
    if name != "window" and target != "-" and not os.access(folder, os.W_OK):
        raise OutputError(f"{target}: its folder is not there or cannot be written: choose another place")
