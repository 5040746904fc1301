"""``edgeface detect``: faces in pictures and videos, drawn, as JSON lines, and as the files of other tools."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import NoReturn

import click

from edgeface.cli.cascade import cascade_options
from edgeface.cli.detecting import DEFAULT_OUT, Options, run
from edgeface.cli.result_targets import ResultTargets, result_options
from edgeface.errors import OptionError
from edgeface.image_headers import MAX_MEGAPIXELS
from edgeface.runtime import catalog
from edgeface.weights import DEFAULT_MODEL, DEFAULTS, SHIPPED

TERMINATED = 143
MODEL_HELP = (
    "A bundle's folder or a checkpoint here, or the name of a model that comes with edgeface ('edgeface models list')."
)


def _terminated(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(TERMINATED)


def complete_model(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[click.shell_completion.CompletionItem]:
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
@click.option("--rotate", "rotate_deg", type=click.Choice(("0", "90", "180", "270")), default="0", metavar="DEGREES",
              help="Turn every picture clockwise by 90, 180 or 270 first; coordinates are those of the turned one.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
              help=f"The folder for the drawn pictures and videos.  [default: {DEFAULT_OUT}]")
@click.option("--no-draw", is_flag=True, help="Draw nothing and make no folder.")
@click.option("--json", "json_target", metavar="FILE",
              help="Write one JSON line a picture or video frame; '-' is standard output, and replaces the summary.")
@result_options
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
    rotate_deg: str,
    out: Path | None,
    no_draw: bool,
    json_target: str | None,
    max_megapixels: float,
    results: ResultTargets,
) -> None:
    """Find faces in pictures and videos.

    A SOURCE is a picture, a video, a folder, or a pattern in quotes. Of a folder the pictures and videos in it are
    taken, by their suffix, and not those of the folders inside: for these write a pattern, 'photos/**/*.jpg'.

    What is drawn goes to a folder of its own under the source's file name, with a number when two sources share
    it; a source is never replaced. A video becomes one that browsers play, without sound: an MP4 with H.264 where
    ffmpeg or PyAV is installed, else a WebM with VP8. Each source has a line on standard output: its faces, and the
    time that they took beside the time that OpenCV took to read the file.

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
        max_megapixels, device, results, int(rotate_deg),
    )
    context.exit(run(sources, options))
