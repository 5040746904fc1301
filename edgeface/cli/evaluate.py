"""``edgeface evaluate``: a model's AP, landmark and head pose errors and attributes on annotated pictures."""

from __future__ import annotations

from pathlib import Path

import click

from edgeface.cli.cascade import cascade_options

GPU_BATCH = 16


@click.command("evaluate", short_help="Measure a model on annotated pictures.")
@click.argument("model")
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="A data set's folder, with annotations.jsonl in it."
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
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the engine.  [default: processors, at most 4]")
@click.option("--device", default="cpu", show_default=True, help="Where the engine torch computes: cpu, cuda, cuda:1.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many pictures, spread evenly over the part.")
@click.option(
    "--json",
    "json_target",
    metavar="FILE",
    help="Write the report as one JSON line; '-' is standard output, which then holds nothing else.",
)
def command(
    model: str,
    data: Path,
    split: str,
    size: int,
    score: float,
    nms: float,
    engine: str | None,
    refine: str | None,
    min_face: float | None,
    thresholds: tuple[float, ...] | None,
    candidates: int | None,
    threads: int | None,
    device: str,
    limit: int | None,
    json_target: str | None,
) -> None:
    """Measure MODEL on a data set, as far as the set's annotations allow.

    MODEL is a name, a bundle's directory or a checkpoint (.pt).

    AP by WIDER FACE's protocol where pictures are completely annotated: easy, medium and hard where the set has these
    subsets, over all faces elsewhere, and by face height. Landmark and head pose errors where the source annotated
    them; what detectors annotated is never scored on. Masks and sunglasses where the set has them and the model tells
    them: accuracy, balanced accuracy and area under the ROC curve, by face size, at the model's own thresholds. False
    faces on a set without faces.

    Where one face of a picture is annotated, the detection that overlaps it best is evaluated (IoU at least 0.3), and
    a face that nothing overlaps is reported as not found. Sets of face crops are scaled like all others: --size 320
    shows a face that fills half of its crop at 160 pixels, whatever the crop's own size, and a smaller --size measures
    smaller faces.
    """
    # Imported here, so that --help does not wait for them.
    import edgeface
    from edgeface.cli.progress import progress
    from edgeface.cli.results import STDOUT, json_lines, say
    from edgeface.data.annotations import ANNOTATIONS, read_annotations
    from edgeface.errors import DataError
    from edgeface.evaluation.measure import detect_all, detect_batches, measure, reasons_against, spread
    from edgeface.evaluation.report import Measures, Report
    from edgeface.images import read_image

    whole = read_annotations(data, split)
    pictures = spread(whole, limit)
    reasons = reasons_against(pictures)
    if set(reasons) == Measures.names():
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise DataError(f"{data / ANNOTATIONS}: nothing to measure in its {split} part ({why}): choose another set")
    detector = edgeface.load(
        model, engine=engine, threads=threads, size=size, score=score, nms=nms, refine=refine, min_face=min_face,
        thresholds=thresholds, candidates=candidates, device=device,
    )
    with json_lines(json_target) as lines:
        shown = progress(pictures, "evaluating", len(pictures))
        if device == "cpu":
            detections = detect_all(detector, shown, read_image)
        else:
            detections = detect_batches(detector.batch, shown, read_image, GPU_BATCH)
        report = Report(
            model=detector.bundle.name,
            engine=detector.bundle.engine,
            data=data.resolve().name,
            split=split,
            pictures=len(pictures),
            pictures_of_split=len(whole),
            size_px=size,
            score=score,
            nms_iou=nms,
            measures=measure(pictures, detections),
        )
        if json_target != STDOUT:
            for line in report.to_text().splitlines():
                say(line)
        if lines is not None:
            lines.write(report.to_record())
