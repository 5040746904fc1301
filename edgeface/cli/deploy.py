"""``edgeface deploy``: a bundle on a board, checked there and compared with this machine."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from edgeface.cli.bench_pictures import choose_pictures
from edgeface.cli.detector_options import complete_model
from edgeface.cli.devices import complete_device
from edgeface.cli.progress import step
from edgeface.cli.writing import print_json, say
from edgeface.devices import boards
from edgeface.devices.links import open_link
from edgeface.wording import counted


@click.command(short_help="Copy a bundle to a board, and compare what it finds there.")
@click.argument("bundle", shell_complete=complete_model)
@click.option("--device", required=True, metavar="NAME", shell_complete=complete_device,
              help="The board: 'edgeface devices list' names them.")
@click.option("--out", metavar="DIR",
              help="The bundle's folder there, ~ for its user's home.  [default: ~/.local/share/edgeface/bundles/NAME]")
@click.option("--picture", type=click.Path(path_type=Path), metavar="FILE",
              help="The picture that is looked at here and there.  "
              "[default: scikit-image's astronaut, or a drawn scene where that is not installed]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
def command(bundle: str, device: str, out: str | None, picture: Path | None, as_json: bool) -> None:
    """Copy BUNDLE, a name or a bundle's directory, to a board, and compare what it finds there with this machine.

    \b
    edgeface deploy mos_s-int8-ncnn --device robot1

    The files go to a folder beside their place. There every sha256 is compared with bundle.json's and one picture is
    looked at; only when the faces are the same is the bundle put in its place, and an old one of that name removed.
    When anything fails, or the connection is lost, the board is as it was.
    """
    # Imported here, so that --help does not wait for them.
    from edgeface.devices.deploy import deploy

    board = boards.find(device)
    pictures = choose_pictures(None if picture is None else str(picture), 1)
    done = deploy(open_link(board, step), bundle, pictures.images[0], directory=out, progress=step)
    if as_json:
        print_json(done)
        return
    say(f"{done.bundle} -> {done.device} ({done.where}): {done.directory}")
    replaced = "; the one that was there is gone" if done.replaced else ""
    say(f"{counted(done.files, 'file')}, {done.size_bytes / 1e6:.2f} MB, every sha256 there is bundle.json's{replaced}")
    say(f"{pictures.source}: {done.agreement.text}")
    if not done.agreement.here:
        say("No face was found: a --picture with one would say more.")
    path = shlex.quote(done.directory)
    say(f"there: edgeface detect --model {path} photo.jpg, or edgeface.load({done.directory!r}) in Python")
