"""``edgeface evaluate``: a model's AP, landmark and head pose errors and attributes on annotated pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

import edgeface
from edgeface.cli.cascade import cascade_options, numbers
from edgeface.cli.progress import progress
from edgeface.cli.results import STDOUT, json_lines
from edgeface.cli.writing import say

if TYPE_CHECKING:
    from edgeface.evaluation.evaluation import Evaluation
    from edgeface.evaluation.multi_scale import Merge
    from edgeface.evaluation.parts import Part

GPU_BATCH = 16
WANTED_PRECISION = 0.95


@click.command("evaluate", short_help="Measure a model on annotated pictures.")
@click.argument("model")
@click.option(
    "--data", "sets", required=True, multiple=True, type=click.Path(path_type=Path),
    help="A data set's folder, with annotations.jsonl in it; several times for several sets.",
)
@click.option(
    "--split", default="dev", show_default=True, type=click.Choice(["train", "dev", "test"]), help="Part of the set."
)
@click.option(
    "--size",
    default=640,
    show_default=True,
    type=click.IntRange(min=1),
    help="Longest side in pixels that every picture is brought to, up or down.",
)
@click.option(
    "--score", default=0.02, show_default=True, type=click.FloatRange(0, 1), help="Least score of a detection."
)
@click.option("--nms", default=0.4, show_default=True, type=click.FloatRange(0, 1), help="Largest IoU of two faces.")
@click.option("--engine", help="Engine to run with; torch for a checkpoint.")
@cascade_options
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Threads of the engine.")
@click.option("--device", default="cpu", show_default=True, help="Where the engine torch computes: cpu, cuda, cuda:1.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many pictures, spread evenly over the part.")
@click.option(
    "--scales", type=click.UNPROCESSED, callback=numbers, metavar="A,B",
    help="Show every picture at these sizes, in units of --size, as in 0.5,1,2, and merge the faces.",
)
@click.option("--flip", is_flag=True, help="Show every picture mirrored too, and merge the faces.")
@click.option(
    "--merge", default="vote", show_default=True, type=click.Choice(["vote", "nms"]),
    help="With --scales or --flip: the mean of overlapping boxes by their scores, or the best of them.",
)
@click.option(
    "--close-ups", is_flag=True,
    help="Show single faces of the sets at 50, 70, 90 and 120 % of a frame's height, 240 pictures in all, and count "
    "those with exactly one box.",
)
@click.option(
    "--errors", "errors_folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False),
    help="Write what is missed and what is invented into DIR/SET: a table, every error, contact sheets of the worst.",
)
@click.option(
    "--errors-at", metavar="SCORE", type=click.FloatRange(0, 1),
    help="Least score of the detections judged by --errors.  [default: the model's own]",
)
@click.option(
    "--suggest-score", "precision", type=click.FloatRange(0, 1), is_flag=False, flag_value=WANTED_PRECISION,
    metavar="[PRECISION]", help="Say the least score from which the precision is 0.95, or PRECISION, and its recall.",
)
@click.option(
    "--json",
    "json_target",
    metavar="FILE",
    help="Write the report as one JSON line a set; '-' is standard output, which then holds nothing else.",
)
def command(
    model: str,
    sets: tuple[Path, ...],
    split: str,
    size: int,
    score: float,
    nms: float,
    engine: str | None,
    refine: str | None,
    min_face: float | None,
    thresholds: tuple[float, ...] | None,
    candidates: int | None,
    threads: int,
    device: str,
    limit: int | None,
    scales: tuple[float, ...] | None,
    flip: bool,
    merge: Merge,
    close_ups: bool,
    errors_folder: Path | None,
    errors_at: float | None,
    precision: float | None,
    json_target: str | None,
) -> None:
    """Measure MODEL on data sets, as far as their annotations allow.

    MODEL is a name, a bundle's directory or a checkpoint (.pt), also one of a training run that still goes on.

    AP by WIDER FACE's protocol where pictures are completely annotated: easy, medium and hard where the set has these
    subsets, over all faces elsewhere, and by face height; precision and recall at the model's own score. Landmark and
    head pose errors where the source annotated them, each beside the error of a constant, with its correlation and
    slope; what detectors annotated is never scored on. Masks and sunglasses where the set has them and the model tells
    them: accuracy, balanced accuracy and area under the ROC curve, by face size, at the model's own thresholds; and how
    many of the masked faces are found at all. False faces on a set without faces.

    Where one face of a picture is annotated, the detection that overlaps it best is evaluated (IoU at least 0.3), and
    a face that nothing overlaps is reported as not found. Sets of face crops are scaled like all others: --size 320
    shows a face that fills half of its crop at 160 pixels, whatever the crop's own size, and a smaller --size measures
    smaller faces.
    """
    _require_goes_together(close_ups, precision, score, errors_folder, errors_at)
    # Imported here, so that --help does not wait for them.
    from edgeface.evaluation.error_files import error_folders
    from edgeface.evaluation.evaluation import Evaluation
    from edgeface.evaluation.parts import close_up_part, data_part

    parts = [close_up_part(sets, split, limit)] if close_ups else [data_part(data, split, limit) for data in sets]
    scales = scales or (1.0,)
    detectors = [
        edgeface.load(
            model, engine=engine, threads=threads, size=round(size * scale), score=score, nms=nms, refine=refine,
            min_face=min_face, thresholds=thresholds, candidates=candidates, device=device,
        )
        for scale in scales
    ]
    evaluation = Evaluation(detectors, size, score, nms, scales, flip, merge, 1 if device == "cpu" else GPU_BATCH)
    folders = [None] * len(parts) if errors_folder is None else error_folders(errors_folder, parts)
    errors_at = evaluation.default_score if errors_at is None else errors_at
    _report(evaluation, list(zip(parts, folders, strict=True)), errors_at, precision, json_target)


def _require_goes_together(
    close_ups: bool, precision: float | None, score: float, errors_folder: Path | None, errors_at: float | None
) -> None:
    """Raises UsageError for options that contradict one another."""
    if close_ups and precision is not None:
        raise click.UsageError("--suggest-score needs completely annotated pictures, which close-ups are not")
    if errors_at is not None and (errors_folder is None or errors_at < score):
        raise click.UsageError("--errors-at goes with --errors, and is at least --score")


def _report(
    evaluation: Evaluation, parts: Sequence[tuple[Part, Path | None]], errors_at: float, precision: float | None,
    json_target: str | None,
) -> None:
    """Evaluate part by part, each with the folder for its errors, and write what comes of it."""
    from edgeface.evaluation.error_files import judge
    from edgeface.evaluation.report_text import report_lines

    with json_lines(json_target) as lines:
        for number, (part, folder) in enumerate(parts):
            shown = progress(part.pictures, f"evaluating {part.name}", len(part.pictures))
            detections = evaluation.detect(part, shown)
            report = evaluation.report(part, detections, precision)
            text = [] if folder is None else judge(folder, part, detections, errors_at)
            if json_target != STDOUT:
                for line in (*([""] if number else []), *report_lines(report), *text):
                    say(line)
            if lines is not None:
                lines.write(report.to_record())
