"""``edgeface convert``: from a checkpoint to a bundle for an engine, with a parity report."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from edgeface.cli.bundle_written import write_bundle
from edgeface.cli.progress import progress
from edgeface.runtime.catalog import check_file


@click.command("convert", short_help="Make a bundle for an engine from a checkpoint.")
@click.argument("model")
@click.option("--target", "target_name", required=True, help="What to make: ncnn, onnx or tflite.")
@click.option(
    "--precision",
    help="int8, fp16 or fp32.  [default: int8 for a quantised checkpoint, else fp16, fp32 for onnx]",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="The bundle's directory.  [default: MODEL-PRECISION-ENGINE here]"
)
@click.option(
    "--pictures",
    type=click.Path(path_type=Path),
    help="Folder of pictures to compare on.  [default: pictures that are at hand]",
)
@click.option(
    "--size", "sizes_px", type=click.IntRange(min=1), multiple=True,
    help="Input size, longest side in pixels; given several times, the comparison is made at each, and the first is "
    "the bundle's default.",
)
@click.option(
    "--fast", is_flag=True,
    help="int8 as the engine is fastest with: results differ a little between processors, and faces are compared "
    "instead of bits.",
)
@click.option("--force", is_flag=True, help="Write the bundle even if it finds other faces, marked as not verified.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the report here as well, as JSON.",
)
def command(
    model: str,
    target_name: str,
    precision: str | None,
    out: Path | None,
    pictures: Path | None,
    sizes_px: tuple[int, ...],
    fast: bool,
    force: bool,
    json_path: Path | None,
) -> None:
    """Convert MODEL, a checkpoint (.pt) or the name of one that comes with edgeface, and compare it with torch.

    \b
    edgeface convert mos_s.pt --target ncnn
    edgeface convert mos_s --target onnx --out door
    edgeface convert mos_s_qat.pt --target tflite --size 640 --size 320
    edgeface convert mos_s_qat.pt --target ncnn --fast

    A quantised checkpoint, made by 'edgeface quantize', converts to int8 and a float one to fp16 or fp32.

    The comparison says which pictures it was made on. A bundle whose raw outputs or faces are too far from torch's is
    not written, unless with --force.
    """
    check_file(Path(model))
    # Imported here, so that --help does not wait for them.
    from edgeface.convert import Conversion, convert

    def make() -> Conversion:
        with _cleaning_up():
            return convert(
                model, target_name, precision=precision, out=out, pictures=pictures, size_px=sizes_px or None,
                fast=fast, force=force, watch=progress,
            )

    write_bundle(make, json_path, say_licence=False)


@contextmanager
def _cleaning_up() -> Iterator[None]:
    """SIGTERM leaves the block as an exception does; by default it ends Python at once, and unfinished files stay."""

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
