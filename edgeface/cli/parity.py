"""``edgeface parity``: how far a bundle's results are from those of the checkpoint it was made from."""

from __future__ import annotations

from pathlib import Path

import click

from edgeface.atomic import write_bytes
from edgeface.cli.progress import progress
from edgeface.cli.writing import say_lines
from edgeface.errors import OutputError


@click.command("parity", short_help="Compare a bundle with a checkpoint.")
@click.argument("bundle")
@click.option("--reference", required=True, metavar="CHECKPOINT", help="The checkpoint (.pt), or its model's name.")
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="DIR",
    help="Folder of pictures; the dev part of one with annotations.jsonl, which gives AP as well.  [default: pictures "
    "that are at hand]",
)
@click.option("--engine", help="Where BUNDLE is a model's name: its bundle for this engine.")
@click.option(
    "--size", "sizes_px", type=click.IntRange(min=1), multiple=True,
    help="Input size, longest side in pixels; can be given several times.  [default: the bundle's]",
)
@click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(min=1),
    help="Pictures at most, spread evenly over the folder.",
)
@click.option("--device", default="cpu", show_default=True, help="Where torch computes: cpu, cuda, cuda:1.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path),
    help="Write the report here as well, as JSON.",
)
def command(
    bundle: str,
    reference: str,
    data: Path | None,
    engine: str | None,
    sizes_px: tuple[int, ...],
    limit: int,
    device: str,
    json_path: Path | None,
) -> None:
    """Compare BUNDLE, a bundle's or a model's name or a bundle's directory, with the checkpoint it was made from.

    \b
    edgeface parity mos_s-int8-ncnn --reference mos_s_qat.pt --data data/wider --size 640 --size 320

    Raw outputs, faces and, where the pictures are annotated, AP are compared with torch's. An int8 bundle is held
    against the same int8 computed in torch, rounded where its engine rounds, if CHECKPOINT is quantised; against a
    float CHECKPOINT only its AP counts. The exit code is not 0 when the bundle's tolerance is missed; the network is
    then walked for the first layer that departs.
    """
    # Imported here, so that --help does not wait for them.
    from edgeface.convert import DepartedError, check_parity

    if json_path is not None and not json_path.parent.is_dir():
        raise OutputError(f"{json_path.parent}: no such folder: make it, or choose another --json")
    report = check_parity(
        bundle, reference, engine=engine, pictures=data, limit=limit, size_px=sizes_px, device=device, watch=progress
    )
    say_lines(report.to_text())
    if json_path is not None:
        write_bytes(json_path, report.to_json())
    if not report.passed:
        raise DepartedError(report, "convert the checkpoint again, or give the one that the bundle was made from")
