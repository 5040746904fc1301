"""``edgeface detect``: faces in pictures and videos, drawn and as JSON lines."""

from __future__ import annotations

import os
import signal
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, current_thread, main_thread
from time import perf_counter
from typing import TYPE_CHECKING, NoReturn

import click

from edgeface.addresses import redacted
from edgeface.cli.cascade import cascade_options
from edgeface.cli.progress import progress
from edgeface.cli.results import STDOUT, JsonLines, json_lines, picture_record
from edgeface.cli.writing import ResultsLostError, complain, say
from edgeface.errors import EdgefaceError, InputError, OptionError, OutputError
from edgeface.image_headers import MAX_MEGAPIXELS
from edgeface.media_files import PICTURE_SUFFIXES, VIDEO_SUFFIXES, drawn_name, expand, unique
from edgeface.regular_files import real_path
from edgeface.weights import DEFAULT_MODEL, SHIPPED

if TYPE_CHECKING:
    from edgeface.runtime.detector import Detector

DEFAULT_OUT = Path("edgeface-out")
INTERRUPTED = 130
TERMINATED = 143
MODEL_HELP = (
    "A bundle's folder or a checkpoint here, or the name of a model that comes with edgeface ('edgeface models list')."
)


@dataclass(frozen=True)
class Options:
    """The command's options; None leaves a choice to the model. ``out`` None: nothing is drawn."""

    model: str = DEFAULT_MODEL
    size: int | None = None
    score: float | None = None
    nms: float | None = None
    threads: int | None = None
    engine: str | None = None
    refine: str | None = None
    min_face: float | None = None
    thresholds: tuple[float, ...] | None = None
    candidates: int | None = None
    out: Path | None = DEFAULT_OUT
    json: str | None = None
    max_megapixels: float = MAX_MEGAPIXELS
    device: str = "cpu"


@dataclass
class _Batch:
    """One run over the sources: what is done with a file, and what failed so far."""

    options: Options
    sources: frozenset[Path]
    detector: Detector
    lines: JsonLines | None
    bar_per_video: bool
    drawn: set[str] = field(default_factory=set)
    stop: Event = field(default_factory=Event)

    def one(self, path: Path) -> None:
        from edgeface.file_kinds import file_kind

        if file_kind(path) == "video":
            self._video(path)
        else:
            self._picture(path)

    def _picture(self, path: Path) -> None:
        from edgeface.cli.decoder_notes import check_notes, decoder_notes
        from edgeface.drawing import draw_faces
        from edgeface.images import read_image, write_image

        target = self._target(path, is_video=False)
        start = perf_counter()
        with decoder_notes() as notes:
            image = read_image(path, max_megapixels=self.options.max_megapixels)
            check_notes(path, notes())
        read_ms = (perf_counter() - start) * 1e3
        faces, timing = self.detector.timed(image)
        if target is not None:
            write_image(target, draw_faces(image, faces))
        if self.lines is not None:
            self.lines.write(picture_record(path, image, faces, timing))
        parts = f"preprocess {timing.preprocess_ms:.1f}, network {timing.network_ms:.1f}, decode {timing.decode_ms:.1f}"
        self._say(
            f"{path}: {_count(len(faces), 'face')} in {timing.total_ms:.1f} ms ({parts}; "
            f"OpenCV read the file in {read_ms:.1f} ms)",
            target,
        )

    def _video(self, path: Path) -> None:
        from edgeface.drawing import draw_faces
        from edgeface.videos import Video, writing_video

        target = self._target(path, is_video=True)
        video = Video(path, max_megapixels=self.options.max_megapixels)
        times_ms: list[float] = []
        most = with_faces = 0
        with nullcontext() if target is None else writing_video(target, video.fps) as sink:
            frames = video.frames()
            if self.bar_per_video:
                frames = progress(frames, path.name, video.frames_claimed or None)
            for frame in frames:
                faces, timing = self.detector.timed(frame.image)
                times_ms.append(timing.total_ms)
                most, with_faces = max(most, len(faces)), with_faces + bool(len(faces))
                if sink is not None:
                    sink.write(draw_faces(frame.image, faces))
                if self.lines is not None:
                    record = picture_record(path, frame.image, faces, timing)
                    self.lines.write(record | {"frame": frame.index, "time_s": round(frame.time_s, 3)})
                if self.stop.is_set():
                    break
        stopped = "stopped: " if self.stop.is_set() else ""
        self._say(
            f"{path}: {stopped}faces in {with_faces} of {_count(len(times_ms), 'frame')}, at most {most} at once; "
            f"median {statistics.median(times_ms):.1f} ms a frame, slowest {max(times_ms):.1f} ms",
            target,
            () if sink is None else sink.remarks,
        )
        if video.damaged:
            complain(f"{path}: {_count(video.damaged, 'damaged frame')} left out")

    def _target(self, path: Path, *, is_video: bool) -> Path | None:
        if self.options.out is None:
            return None
        target = self.options.out / drawn_name(path, is_video=is_video, taken=self.drawn)
        if real_path(target) in self.sources:
            raise OutputError(f"{path}: what is drawn would replace the source {target}: choose another --out")
        return target

    def _say(self, summary: str, target: Path | None, remarks: Sequence[str] = ()) -> None:
        if self.options.json != STDOUT:
            say(f"{summary} -> {target}" if target is not None else summary)
        for remark in remarks:
            complain(f"{target}: {remark}")


def run(sources: Sequence[str], options: Options) -> int:
    """Detect in every file that ``sources`` mean; the exit code, 0 when every one of them could be used.

    A file that cannot be used is reported in one line and does not stop the others. Raises EdgefaceError when nothing
    can start: a model, an option or the output folder that cannot work.
    """
    failures: list[tuple[str, EdgefaceError]] = []
    paths: list[Path] = []
    for source in sources:
        try:
            paths += expand(source)
        except InputError as error:
            _fail(failures, redacted(source), error)
    paths = unique(paths)
    resolved = frozenset(map(real_path, paths))
    _check_targets(options, resolved)
    if paths:
        detector = _load(options)
        with output_folder(options.out), json_lines(options.json) as lines:
            # Lines that people see run by are progress enough, and a bar among them would be in the way.
            is_seen = sys.stdout.isatty()
            bar_over_files = not is_seen and len(paths) > 1
            bar_per_video = options.json != STDOUT if is_seen else not bar_over_files
            batch = _Batch(options, resolved, detector, lines, bar_per_video)
            with _first_interrupt(batch.stop):
                for path in progress(paths, "detect", len(paths)) if bar_over_files else paths:
                    if batch.stop.is_set():
                        break
                    try:
                        batch.one(path)
                    except ResultsLostError:
                        raise
                    except EdgefaceError as error:
                        _fail(failures, str(path), error)
        if batch.stop.is_set():
            complain("stopped")
            return INTERRUPTED
    tried = len({*map(str, paths), *(name for name, _ in failures)})
    if failures and tried > 1:
        complain(f"{len(failures)} of {tried} failed: {', '.join(name for name, _ in failures)}")
    return failures[0][1].exit_code if failures else 0


@contextmanager
def _first_interrupt(stop: Event) -> Iterator[None]:
    """In the block the first Ctrl-C sets ``stop``, so that what is done is kept; the second one interrupts."""

    def note(_signal: int, _frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    is_usual = before is signal.default_int_handler and current_thread() is main_thread()
    if is_usual:
        signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        if is_usual:
            signal.signal(signal.SIGINT, before)


def _fail(failures: list[tuple[str, EdgefaceError]], name: str, error: EdgefaceError) -> None:
    failures.append((name, error))
    complain(str(error))


def _check_targets(options: Options, sources: frozenset[Path]) -> None:
    if options.json not in (None, STDOUT) and real_path(Path(options.json)) in sources:
        raise OptionError(f"--json {options.json}: is one of the sources: choose another name")
    if options.out is None:
        return
    if options.out.exists() and not options.out.is_dir():
        raise OptionError(f"--out {options.out}: is a file: give a folder")
    if not options.out.exists() and options.out.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES:
        raise OptionError(f"--out {options.out}: looks like a file: give a folder, files are named after the sources")


@contextmanager
def output_folder(folder: Path | None) -> Iterator[None]:
    """The output folder, made and known to be writable, so that one that is not is one error and not one a picture.

    If it was made here and nothing came to lie in it, it goes again. Raises OutputError.
    """
    from edgeface.atomic import refused

    if folder is None:
        yield
        return
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(folder, error) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: cannot be written: no permission: choose another --out")
    try:
        yield
    finally:
        if is_new:
            with suppress(OSError):
                folder.rmdir()


def _load(options: Options) -> Detector:
    # OpenCV and OpenMP read these when they are loaded, and never again.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(int(options.max_megapixels * 1e6)))
    import cv2

    from edgeface.runtime.loading import load

    if options.threads is not None:
        cv2.setNumThreads(options.threads)
    return load(
        options.model,
        engine=options.engine,
        threads=options.threads,
        size=options.size,
        score=options.score,
        nms=options.nms,
        refine=options.refine,
        min_face=options.min_face,
        thresholds=options.thresholds,
        candidates=options.candidates,
        device=options.device,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _terminated(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(TERMINATED)


def complete_model(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[click.shell_completion.CompletionItem]:
    from edgeface.runtime import catalog
    from edgeface.weights import DEFAULTS

    names = sorted({*DEFAULTS, *(entry.name for entry in catalog.shipped())})
    paths = click.shell_completion.CompletionItem(incomplete, type="file")
    return [*(click.shell_completion.CompletionItem(n) for n in names if n.startswith(incomplete)), paths]


@click.command(short_help="Find faces in pictures and videos.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=click.Path())
@click.option("--model", default=DEFAULT_MODEL, show_default=DEFAULT_MODEL.removeprefix(SHIPPED),
              shell_complete=complete_model, help=MODEL_HELP)
@click.option("--size", type=click.IntRange(min=1), metavar="PIXELS",
              help="The longest side that the network sees a picture at; smaller is faster and misses small faces.")
@click.option("--score", type=click.FloatRange(0, 1), help="The least score of a face.")
@click.option("--nms", type=click.FloatRange(0, 1), help="The largest overlap (IoU) of two faces.")
@click.option("--threads", type=click.IntRange(min=1),
              help="Threads of the network.  [default: all processors but one, at most 4, fewer beside other work]")
@click.option("--engine", help="The inference engine.  [default: the bundle's]")
@cascade_options
@click.option("--device", default="cpu", show_default=True, help="Where the engine torch computes: cpu, cuda, cuda:1.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
              help=f"The folder for the drawn pictures and videos.  [default: {DEFAULT_OUT}]")
@click.option("--no-draw", is_flag=True, help="Draw nothing and make no folder.")
@click.option("--json", "json_target", metavar="FILE",
              help="Write one JSON line a picture or video frame; '-' is standard output, and replaces the summary.")
@click.option("--max-megapixels", type=click.FloatRange(0, min_open=True), default=MAX_MEGAPIXELS, show_default=True,
              help="Refuse larger pictures, before they are decoded.")
@click.pass_context
def command(
    context: click.Context,
    sources: tuple[str, ...],
    model: str,
    size: int | None,
    score: float | None,
    nms: float | None,
    threads: int | None,
    engine: str | None,
    refine: str | None,
    min_face: float | None,
    thresholds: tuple[float, ...] | None,
    candidates: int | None,
    device: str,
    out: Path | None,
    no_draw: bool,
    json_target: str | None,
    max_megapixels: float,
) -> None:
    """Find faces in pictures and videos.

    A SOURCE is a picture, a video, a folder, or a pattern in quotes. Of a folder the pictures and videos in it are
    taken, by their suffix, and not those of the folders inside: for these write a pattern, 'photos/**/*.jpg'.

    What is drawn goes to a folder of its own under the source's file name, with a number when two sources share
    it; a source is never replaced. A video becomes an MP4 without sound. Each source has a line on standard output:
    its faces, and the time that they took beside the time that OpenCV took to read the file.

    Coordinates are pixels of the picture as viewers show it, turned as its EXIF data say. Transparent parts count as
    grey; of 16 bits a channel the upper 8 are used; of an animation the first picture.

    A source that cannot be used is named on standard error and does not stop the others; the exit code is then not 0.
    Ctrl-C keeps what is done, the video up to there and the JSON lines, and exits with 130; a second one keeps nothing.
    """
    if no_draw and out is not None:
        raise OptionError("--out and --no-draw exclude each other: drop one")
    # Stopped by a service manager, the temporary files are removed as after Ctrl-C.
    signal.signal(signal.SIGTERM, _terminated)
    drawn = None if no_draw else out or DEFAULT_OUT
    options = Options(
        model, size, score, nms, threads, engine, refine, min_face, thresholds, candidates, drawn, json_target,
        max_megapixels, device,
    )
    context.exit(run(sources, options))
