"""``edgeface data``: pictures of one's own, from another tool's labels to a set that models train on."""

from __future__ import annotations

from pathlib import Path

import click

import edgeface
from edgeface.cli.progress import progress
from edgeface.cli.results import next_step
from edgeface.cli.writing import complain, say
from edgeface.errors import DataError
from edgeface.weights import DEFAULT_MODEL, SHIPPED
from edgeface.wording import counted

_PROBLEMS = 20


@click.group(short_help="Import, check and label pictures of your own.")
def command() -> None:
    """Import, check and label pictures of your own.

    \b
    edgeface data import coco instances.json --out mydata
    edgeface data check mydata
    edgeface train mos_s --data mydata --out runs/mine
    """


@command.command("import")
@click.argument("kind")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the new set.")
@click.option("--images", type=click.Path(path_type=Path), help="Where the pictures lie, if not beside SOURCE.")
@click.option("--label", "labels", multiple=True, help="The class that is a face; may be given more than once.")
@click.option(
    "--split", default="train", type=click.Choice(["train", "dev", "test"]),
    help="The part for pictures that the export puts in none [train].",
)
@click.option(
    "--boxes", default="forehead-to-chin", type=click.Choice(["forehead-to-chin", "other"]),
    help="How the boxes are drawn; the edges of others are not learned.",
)
@click.option("--incomplete", is_flag=True, help="Some faces have no box: the rest of a picture is no background.")
@click.option("--licence", help="What the terms of the data allow; goes into set.toml.")
@click.option("--skip-bad", is_flag=True, help="Leave out what is wrong, and say it, instead of stopping.")
def import_(
    kind: str, source: Path, out: Path, images: Path | None, labels: tuple[str, ...], split: str, boxes: str,
    incomplete: bool, licence: str | None, skip_bad: bool,
) -> None:
    """Bring an export into the project's format. KIND is one of:

    \b
    wider         WIDER FACE's wider_face_*_bbx_gt.txt
    coco          COCO's instances JSON
    yolo          a folder of pictures and YOLO's text files
    voc           a folder of Pascal VOC's XML files
    cvat          the XML of "CVAT for images 1.1"
    label-studio  Label Studio's "JSON"
    """
    from edgeface.data.exports.importing import Wanted, import_export, write_description

    wanted = Wanted(images, labels, split, not incomplete, skip_bad)
    imported = import_export(kind, source, out, wanted, progress)
    write_description(out, boxes, licence)
    _complain(imported.left_out, "left out")
    say(f"{out}: {counted(imported.pictures, 'picture')}, {counted(imported.faces, 'face')}")
    say(next_step("data", "check", str(out)))


@command.command("check")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--sheet", type=click.Path(path_type=Path), metavar="FILE",
    help="A picture of up to 64 faces with their boxes; of several sets one file each, the set's name put in.",
)
@click.pass_context
def check(context: click.Context, data: Path, sheet: Path | None) -> None:
    """Count what is in DATA, a set or a folder of sets, and say everything that is wrong with it in one go.

    Ends with 4 where something is wrong.
    """
    from edgeface.data.checking import check_set, report_lines, sheet_of
    from edgeface.data.sets import open_data
    from edgeface.images import write_image

    folder = open_data(data)
    problems = 0
    for name in folder.sets:
        report = check_set(folder.directory(name), progress)
        problems += len(report.problems)
        for line in report_lines(report, _PROBLEMS):
            say(line)
        if sheet is not None:
            picture = sheet_of(folder.directory(name))
            path = sheet if len(folder.sets) == 1 else sheet.with_name(f"{sheet.stem}-{name}{sheet.suffix}")
            if picture is not None:
                write_image(path, picture)
                say(f"  faces: {path}")
    if problems:
        complain(f"{data}: {counted(problems, 'problem')}: mend what the lines above name")
        context.exit(DataError.exit_code)


@command.command("label")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--model", default=DEFAULT_MODEL, show_default=DEFAULT_MODEL.removeprefix(SHIPPED),
              help="A model's name, or a bundle's folder.")
@click.option("--score", type=click.FloatRange(0, 1), help="Least score of a face [the model's own].")
@click.option("--force", is_flag=True, help="Replace annotations that are there.")
def label(folder: Path, model: str, score: float | None, force: bool) -> None:
    """Label the pictures of FOLDER with a model, for a person to correct.

    Writes annotations.jsonl and label-studio.json into FOLDER. In Label Studio, serve FOLDER as local storage and
    import label-studio.json; when the boxes are right, export as JSON and run edgeface data import label-studio.
    """
    from edgeface.data.prelabels import LABEL_STUDIO, label_pictures

    detector = edgeface.load(model) if score is None else edgeface.load(model, score=score)
    pictures, faces, left_out = label_pictures(folder, detector, model, force=force, progress=progress)
    _complain(left_out, "left out")
    say(f"{folder}: {counted(pictures, 'picture')}, {counted(faces, 'face')}, also as {LABEL_STUDIO}")
    say(next_step("data", "check", str(folder)))


def _complain(texts: list[str], what: str) -> None:
    for text in texts[:_PROBLEMS]:
        complain(f"{what}: {text}")
    if len(texts) > _PROBLEMS:
        complain(f"{what}: {len(texts) - _PROBLEMS} more")
