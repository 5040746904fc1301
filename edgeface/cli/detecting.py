"""What ``edgeface detect`` does: every source read, its faces found, drawn and written."""

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
from typing import TYPE_CHECKING

from edgeface.addresses import redacted
from edgeface.cli.decoder_notes import check_notes, decoder_notes
from edgeface.cli.progress import progress
from edgeface.cli.result_targets import ResultTargets, output_folder
from edgeface.cli.results import STDOUT
from edgeface.cli.writing import ResultsLostError, complain, say
from edgeface.errors import EdgefaceError, InputError, OptionError, OutputError
from edgeface.file_kinds import file_kind
from edgeface.image_headers import MAX_MEGAPIXELS
from edgeface.media_files import PICTURE_SUFFIXES, VIDEO_SUFFIXES, drawn_name, expand, unique
from edgeface.regular_files import real_path
from edgeface.runtime.detector_options import DetectorOptions
from edgeface.wording import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeface.cli.result_writing import Results
    from edgeface.runtime.detector import Detector

DEFAULT_OUT = Path("edgeface-out")
INTERRUPTED = 130


@dataclass(frozen=True)
class DetectOptions:
    """The command's options. ``out`` None: nothing is drawn."""

    detector: DetectorOptions = field(default_factory=DetectorOptions)
    out: Path | None = DEFAULT_OUT
    json: str | None = None
    max_megapixels: float = MAX_MEGAPIXELS
    device: str = "cpu"
    results: ResultTargets = field(default_factory=ResultTargets)
    rotate_deg: int = 0


@dataclass
class _Batch:
    """One run over the sources: what is done with a file, and what failed so far."""

    options: DetectOptions
    sources: frozenset[Path]
    detector: Detector
    results: Results
    bar_per_video: bool
    drawn: set[str] = field(default_factory=set)
    stop: Event = field(default_factory=Event)

    def one(self, path: Path) -> None:
        if file_kind(path) == "video":
            self._video(path)
        else:
            self._picture(path)

    def _picture(self, path: Path) -> None:
        from edgeface.drawing import draw_faces
        from edgeface.images import read_image, write_image

        target = self._target(path)
        start = perf_counter()
        with decoder_notes() as notes:
            image = self._upright(read_image(path, max_megapixels=self.options.max_megapixels))
            check_notes(path, notes())
        read_ms = (perf_counter() - start) * 1e3
        faces, timing = self.detector.timed(image)
        if target is not None:
            write_image(target, draw_faces(image, faces))
        self.results.write(path, image, faces, timing)
        parts = f"preprocess {timing.preprocess_ms:.1f}, network {timing.network_ms:.1f}, decode {timing.decode_ms:.1f}"
        self._say(
            f"{path}: {counted(len(faces), 'face')} in {timing.total_ms:.1f} ms ({parts}; "
            f"OpenCV read the file in {read_ms:.1f} ms)",
            target,
        )

    def _video(self, path: Path) -> None:
        from edgeface.drawing import draw_faces
        from edgeface.video_encoders import MP4, video_encoding
        from edgeface.video_writing import writing_video
        from edgeface.videos import Video

        encoding = None if self.options.out is None else video_encoding()
        target = self._target(path, video_suffix=MP4 if encoding is None else encoding.suffix)
        video = Video(path, max_megapixels=self.options.max_megapixels)
        times_ms: list[float] = []
        most = with_faces = 0
        writing = nullcontext() if target is None or encoding is None else writing_video(target, video.fps, encoding)
        with writing as sink:
            frames = video.frames()
            if self.bar_per_video:
                frames = progress(frames, path.name, video.frames_claimed or None)
            for frame in frames:
                image = self._upright(frame.image)
                faces, timing = self.detector.timed(image)
                times_ms.append(timing.total_ms)
                most, with_faces = max(most, len(faces)), with_faces + bool(len(faces))
                if sink is not None:
                    sink.write(draw_faces(image, faces))
                self.results.write(path, image, faces, timing, frame)
                if self.stop.is_set():
                    break
        stopped = "stopped: " if self.stop.is_set() else ""
        self._say(
            f"{path}: {stopped}faces in {with_faces} of {counted(len(times_ms), 'frame')}, at most {most} at once; "
            f"median {statistics.median(times_ms):.1f} ms a frame, slowest {max(times_ms):.1f} ms",
            target,
            () if sink is None else sink.remarks,
            "" if encoding is None else f", {encoding}",
        )
        if video.damaged:
            complain(f"{path}: {counted(video.damaged, 'damaged frame')} left out")

    def _upright(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if not self.options.rotate_deg:
            return image
        from edgeface.frames import Frame
        from edgeface.stream.sources.orientation import turned

        return turned(Frame(image), self.options.rotate_deg, flip=False).pixels

    def _target(self, path: Path, *, video_suffix: str | None = None) -> Path | None:
        if self.options.out is None:
            return None
        target = self.options.out / drawn_name(path, video_suffix=video_suffix, taken=self.drawn)
        if real_path(target) in self.sources:
            raise OutputError(f"{path}: what is drawn would replace the source {target}: choose another --out")
        return target

    def _say(self, summary: str, target: Path | None, remarks: Sequence[str] = (), made: str = "") -> None:
        if self.options.json != STDOUT:
            say(f"{summary} -> {target}{made}" if target is not None else summary)
        for remark in remarks:
            complain(f"{target}: {remark}")


def run(sources: Sequence[str], options: DetectOptions) -> int:
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
        from edgeface.cli.result_writing import results

        with (
            suppress(_NothingUsableError),
            output_folder(options.out, "--out"),
            results(options.results, options.json, detector.bundle, resolved) as written,
        ):
            # Lines that people see run by are progress enough, and a bar among them would be in the way.
            is_seen = sys.stdout.isatty()
            bar_over_files = not is_seen and len(paths) > 1
            bar_per_video = options.json != STDOUT if is_seen else not bar_over_files
            batch = _Batch(options, resolved, detector, written, bar_per_video)
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
            if failures and not written.pictures:
                raise _NothingUsableError
        if batch.stop.is_set():
            complain("stopped")
            return INTERRUPTED
    tried = len({*map(str, paths), *(name for name, _ in failures)})
    if failures and tried > 1:
        complain(f"{len(failures)} of {tried} failed: {', '.join(name for name, _ in failures)}")
    return failures[0][1].exit_code if failures else 0


class _NothingUsableError(Exception):
    """No source could be used: result files that were there stay as they were."""


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


def _check_targets(options: DetectOptions, sources: frozenset[Path]) -> None:
    options.results.check(options.json, options.out, sources)
    out = options.out
    if out is not None and not out.exists() and out.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES:
        raise OptionError(f"--out {out}: looks like a file: give a folder, files are named after the sources")


def _load(options: DetectOptions) -> Detector:
    # OpenCV and OpenMP read these when they are loaded, and never again.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(int(options.max_megapixels * 1e6)))
    import cv2

    if options.detector.threads is not None:
        cv2.setNumThreads(options.detector.threads)
    return options.detector.open(device=options.device)
