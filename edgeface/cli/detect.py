"""``edgeface detect``: faces in pictures and videos, drawn, as JSON lines, and as the files of other tools."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import NoReturn

import click

from edgeface.cli.detecting import DEFAULT_OUT, DetectOptions, run
from edgeface.cli.detector_options import detector_options
from edgeface.cli.result_targets import ResultTargets, result_options
from edgeface.errors import OptionError
from edgeface.image_headers import MAX_MEGAPIXELS
from edgeface.runtime.detector_options import DetectorOptions

TERMINATED = 143

def _terminated(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(TERMINATED)


@click.command(short_help="Find faces in pictures and videos.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=click.Path())
@detector_options()
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
    detector: DetectorOptions,
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
    options = DetectOptions(detector, drawn, json_target, max_megapixels, device, results, int(rotate_deg))
    context.exit(run(sources, options))
