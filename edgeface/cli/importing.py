"""``edgeface import``: from somebody else's ONNX file or ncnn pair to a bundle, with a comparison against the file."""

from __future__ import annotations

from pathlib import Path

import click

from edgeface.cli.bundle_written import write_bundle
from edgeface.cli.progress import progress
from edgeface.errors import OptionError

_ANCHORS = "16,32/64,128/256,512"


class _Anchors(click.ParamType):  # type: ignore[type-arg]  # generic in some versions alone
    """Prior boxes' sides in pixels: commas within a level, slashes between levels."""

    name = "anchors"

    def convert(
        self, value: str, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[tuple[float, ...], ...]:
        try:
            found = tuple(tuple(float(side) for side in level.split(",")) for level in value.split("/"))
        except ValueError:
            found = ((0.0,),)
        if not all(0 < side <= 1e4 for level in found for side in level):
            self.fail(f"{value!r} are no sides in pixels: write them as in {_ANCHORS}", param, context)
        return found


@click.command("import", short_help="Make a bundle of a detector that you have.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--as", "kind_name", metavar="KIND",
              help="What it is: yunet, scrfd, retinaface, yolov5face or ultralight.")
@click.option("--engine", default="ncnn", show_default=True, help="What to make: ncnn, tflite or onnx.")
@click.option("--precision", default="fp32", show_default=True,
              help="fp32; fp16: half the file; int8: a quarter, for ncnn and tflite, with --calibrate.")
@click.option("--calibrate", type=click.Path(path_type=Path), metavar="DIR",
              help="For int8: a folder of pictures with faces, 64 of which say the scales.")
@click.option("--anchors", type=_Anchors(), metavar="SIDES",
              help=f"Of retinaface and ultralight: the sides of the prior boxes in pixels, as in {_ANCHORS}.  "
              "[default: the published ones that fit]")
@click.option("--size", "size_px", type=click.IntRange(32, 8192), metavar="PIXELS",
              help="The bundle's input size, the longest side.  [default: the file's]")
@click.option("--out", type=click.Path(path_type=Path),
              help="The bundle's directory.  [default: FILE-PRECISION-ENGINE here]")
@click.option("--pictures", type=click.Path(path_type=Path),
              help="Folder of pictures to compare on.  [default: pictures that are at hand]")
@click.option("--force", is_flag=True, help="Write the bundle even if it finds other faces, marked as not verified.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path),
              help="Write the report here as well, as JSON.")
def command(
    file: Path,
    kind_name: str | None,
    engine: str,
    precision: str,
    calibrate: Path | None,
    anchors: tuple[tuple[float, ...], ...] | None,
    size_px: int | None,
    out: Path | None,
    pictures: Path | None,
    force: bool,
    json_path: Path | None,
) -> None:
    """Make a bundle of FILE, a detector of other people as ONNX or as an ncnn pair's .param, and compare it
    with FILE itself, run by onnxruntime or ncnn.

    \b
    edgeface import scrfd_500m_kps.onnx --as scrfd
    edgeface import yunet.onnx --as yunet --engine tflite --precision fp16
    edgeface import retinaface.onnx --as retinaface --anchors 16,32/64,128/256,512
    edgeface import scrfd_500m_kps.onnx --as scrfd --precision int8 --calibrate photos

    The decoding of its outputs goes into the bundle, so that detect, camera, evaluate, bench and deploy take it by its
    folder, and --refine puts T-CNN behind it. A bundle that finds other faces than FILE is not written, unless with
    --force. The file's licence holds for the bundle.
    """
    # Imported here, so that --help does not wait for them.
    from edgeface.convert.targets import require

    require(("onnx", "onnxsim", "onnxruntime"))
    from edgeface.convert.foreign import import_detector, looks_like

    if kind_name is None:
        raise OptionError(f"{file}: {looks_like(file)}")
    write_bundle(
        lambda: import_detector(
            file, kind_name, engine=engine, precision=precision, out=out, anchors=anchors, pictures=pictures,
            calibrate=calibrate, size_px=size_px, force=force, watch=progress,
        ),
        json_path,
        say_licence=True,
    )
