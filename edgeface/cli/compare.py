"""``edgeface compare``: two models on the same pictures, side by side."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeface.addresses import redacted
from edgeface.atomic import refused, replacing
from edgeface.cli.detector_options import complete_model
from edgeface.cli.progress import progress
from edgeface.cli.writing import complain, say
from edgeface.errors import EdgefaceError, InputError, OptionError
from edgeface.file_kinds import file_kind
from edgeface.media_files import expand, unique
from edgeface.regular_files import real_path
from edgeface.wording import counted

if TYPE_CHECKING:
    from edgeface.evaluation.side_by_side import Compared
    from edgeface.evaluation.side_by_side_report import Side
    from edgeface.runtime.detector import Detector

DEFAULT_REPORT = Path("edgeface-compare.html")
_SHOWN = 40


@dataclass
class _Comparison:
    """What came of the pictures so far. The HTML of pictures that differ is kept, ``most`` of them; so is the first of
    those that do not, where none does."""

    detectors: tuple[Detector, Detector]
    names: tuple[str, str]
    iou: float
    most: int
    done: list[Compared] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)
    first_same: str = ""
    times_ms: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    differ: int = 0

    def one(self, path: Path) -> None:
        from edgeface.evaluation.side_by_side import compared, difference_lines
        from edgeface.evaluation.side_by_side_report import report_section
        from edgeface.images import read_image

        if file_kind(path) == "video":
            raise InputError(f"{path}: is a video, and compare takes pictures: save some of its frames")
        image = read_image(path)
        found = []
        for i, detector in enumerate(self.detectors):
            faces, timing = detector.timed(image)
            self.times_ms[i].append(timing.total_ms)
            found.append(faces)
        each = compared(path, found[0], found[1], self.iou)
        self.done.append(each)
        if each.found:
            self.differ += 1
            if len(self.sections) < self.most:
                self.sections.append(report_section(each, image, self.names))
            counts = f"{len(each.one)} and {len(each.other)} faces"
            for line in [f"{path}: {counts}", *(f"  {text}" for text in difference_lines(each, self.names))]:
                say(line)
        elif not self.first_same:
            self.first_same = report_section(each, image, self.names)

    def summary(self) -> list[str]:
        """In words, a line each."""
        same = sum(each.same for each in self.done)
        lines = [
            f"{counted(len(self.done), 'picture')}: {counted(same, 'face')} of both, "
            + ", ".join(f"{alone} of {name} alone" for name, alone in zip(self.names, self.alone(), strict=True)),
            f"{self.differ} of them differ" if self.differ else "no picture differs",
        ]
        if self.differ > len(self.sections):
            lines.append(f"the first {len(self.sections)} of these are in the report; --most shows more")
        return lines

    def alone(self) -> tuple[int, int]:
        """Faces that only the one model has, and only the other."""
        return (
            sum(len(each.alone(False)) for each in self.done), sum(len(each.alone(True)) for each in self.done)
        )

    def sides(self) -> tuple[Side, Side]:
        from edgeface.evaluation.side_by_side_report import Side

        def side(i: int, faces: int) -> Side:
            detector = self.detectors[i]
            settings = f"{detector.bundle.name}, size {detector.size_px}, score {detector.score:g}"
            return Side(self.names[i], settings, faces, self.alone()[i], statistics.median(self.times_ms[i]))

        return (
            side(0, sum(len(each.one) for each in self.done)), side(1, sum(len(each.other) for each in self.done))
        )


def _names(one: str, other: str) -> tuple[str, str]:
    """The models as they were given, without folders where that tells them apart."""
    names = Path(one).name, Path(other).name
    if names[0] != names[1]:
        return names
    return (one, other) if one != other else (f"{one} (A)", f"{other} (B)")


@click.command(short_help="Show two models side by side on the same pictures.")
@click.argument("one", metavar="A", shell_complete=complete_model)
@click.argument("other", metavar="B", shell_complete=complete_model)
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...", type=click.Path())
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=DEFAULT_REPORT, show_default=True,
              metavar="FILE", help="The report, one HTML file.")
@click.option("--most", type=click.IntRange(min=1), default=_SHOWN, show_default=True, metavar="N",
              help="Pictures in the report.")
@click.option("--iou", type=click.FloatRange(0, 1, min_open=True), default=0.5, show_default=True,
              help="Boxes that overlap by so much are the same face.")
@click.option("--size", type=click.IntRange(min=1), metavar="PIXELS",
              help="The longest side that both networks see a picture at.  [default: each its own]")
@click.option("--score", type=click.FloatRange(0, 1),
              help="The least score of a face, of both.  [default: each its own]")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the networks.")
@click.pass_context
def command(
    context: click.Context, one: str, other: str, pictures: tuple[str, ...], out: Path, most: int, iou: float,
    size: int | None, score: float | None, threads: int | None,
) -> None:
    """Show what A and B find in the same pictures, and list where they differ.

    A and B are models as --model takes them elsewhere: names, bundles or checkpoints. A PICTURE is a file, a folder, or
    a pattern in quotes.

    Listed are faces that only one of them has, boxes that overlap by less than an IoU of 0.75, landmarks more than a
    tenth of the face apart, angles of the head by more than 10 degrees, and attributes such as a mask that one sees and
    the other does not. Which of the two is right is for you to see: 'edgeface evaluate' measures it.
    """
    from edgeface.runtime.loading import load

    failures: list[EdgefaceError] = []
    paths = _expanded(pictures, failures)
    if real_path(out) in map(real_path, paths):
        raise OptionError(f"--out {redacted(str(out))}: is one of the pictures: choose another name")
    if not paths:
        context.exit(failures[0].exit_code)
    detectors = (
        load(one, size=size, score=score, threads=threads), load(other, size=size, score=score, threads=threads)
    )
    comparison = _Comparison(detectors, _names(one, other), iou, most)
    with replacing(out) as temporary:
        for path in progress(paths, "compare", len(paths)):
            try:
                comparison.one(path)
            except EdgefaceError as error:
                complain(str(error))
                failures.append(error)
        if not comparison.done:
            raise InputError("none of the pictures could be used: the lines above say why")
        _write(temporary, out, comparison)
    for line in comparison.summary():
        say(line)
    say(f"report -> {out}")
    context.exit(failures[0].exit_code if failures else 0)


def _expanded(pictures: tuple[str, ...], failures: list[EdgefaceError]) -> list[Path]:
    """The files that are meant; what is none is said, and joins ``failures``."""
    paths = []
    for source in pictures:
        try:
            paths += expand(source)
        except InputError as error:
            complain(str(error))
            failures.append(error)
    return unique(paths)


def _write(temporary: Path, out: Path, comparison: _Comparison) -> None:
    from edgeface.evaluation.side_by_side_report import report_page

    sections = comparison.sections or [comparison.first_same]
    try:
        temporary.write_bytes(report_page(comparison.sides(), comparison.summary(), sections))
    except OSError as error:
        raise refused(out, error) from None
