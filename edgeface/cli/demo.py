"""``edgeface demo``: the whole way once, on a photograph that needs no download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeface.cli import detecting
from edgeface.cli.cascade import complete_refinement
from edgeface.cli.detector_options import MODEL_HELP, complete_model
from edgeface.cli.result_targets import output_folder
from edgeface.cli.writing import say
from edgeface.errors import MissingExtraError
from edgeface.runtime.detector_options import DetectorOptions
from edgeface.weights import DEFAULT_MODEL, SHIPPED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT_OUT = Path("edgeface-demo")
PHOTOGRAPH = "astronaut.jpg"
DRAWN = "faces"


def photograph() -> NDArray[np.uint8]:
    """scikit-image's photograph of Eileen Collins (NASA, public domain), uint8 (512, 512, 3) BGR.

    Raises MissingExtraError when scikit-image is not installed.
    """
    import numpy as np

    try:
        from skimage import data
    except ImportError:
        raise MissingExtraError(
            'the demo takes its photograph from scikit-image, which is not installed: pip install "edgeface[demo]", '
            "or run 'edgeface detect photo.jpg' on a photograph of yours"
        ) from None
    rgb: NDArray[np.uint8] = data.astronaut()  # type: ignore[no-untyped-call]  # scikit-image is untyped
    return np.ascontiguousarray(rgb[:, :, ::-1])


@click.command(short_help="Find the face in a photograph that is at hand.")
@click.option("--out", type=click.Path(path_type=Path), default=DEFAULT_OUT, show_default=True, metavar="DIR",
              help="The folder for the photograph and the drawn picture.")
@click.option("--model", default=DEFAULT_MODEL, show_default=DEFAULT_MODEL.removeprefix(SHIPPED),
              shell_complete=complete_model, help=MODEL_HELP)
@click.option("--refine", metavar="MODEL", shell_complete=complete_refinement,
              help="A refinement to look at every face once more, as in 'edgeface detect'.")
@click.pass_context
def command(context: click.Context, out: Path, model: str, refine: str | None) -> None:
    """Find the face in a photograph that is at hand, and draw it.

    The photograph is NASA's of the astronaut Eileen Collins, in the public domain, from the package scikit-image
    (pip install "edgeface[demo]"); 'edgeface detect photo.jpg' does the same with a photograph of yours.
    """
    image = photograph()
    with output_folder(out, "--out"):
        from edgeface.images import write_image

        write_image(out / PHOTOGRAPH, image)
        say(f"photograph -> {out / PHOTOGRAPH}")
        drawn = out / DRAWN
        wanted = detecting.DetectOptions(DetectorOptions(model=model, refine=refine), out=drawn)
        exit_code = detecting.run([str(out / PHOTOGRAPH)], wanted)
    if not exit_code:
        say(f"Look at {drawn / PHOTOGRAPH}: the box with its score, five landmarks, and the axes of the head's pose.")
    context.exit(exit_code)
