"""Write what serves each board best into devices/boards/*.toml, from docs/results/estimates/serving.json.

    python docs/make_best.py                       the descriptions, from the estimates as they are
    python docs/make_best.py --check               whether the descriptions are what the estimates say
    python docs/make_best.py --estimate [BOARD...] first estimate every bundle that ships on the boards again, as
                                                   'edgeface bench MODEL --all --device BOARD' does
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import msgspec
from edgeface.devices import boards
from edgeface.devices.estimate import calibration
from edgeface.devices.estimate.estimates import Question, estimate
from edgeface.devices.serving import Choice, bundles_of, with_best

from edgeface import weights
from edgeface.atomic import write_bytes
from edgeface.cli.bench_all import best_estimated
from edgeface.cli.bench_pictures import choose_pictures

SERVING = Path(__file__).parent / "results" / "estimates" / "serving.json"
SIZE_PX, FRAME_PX = (320, 256), (640, 480)
COMMAND = "edgeface bench MODEL --all --device BOARD --size 320x256 --frame 640x480"
BOARDS = ("rk3399", "rpi4", "rpi5", "rk3588")

Record = dict[str, Any]


def estimated(name: str) -> Record:
    """Of one board: what was chosen of every model, and what the estimates rest on."""
    board = boards.find(name)
    pictures = choose_pictures(None, 1, FRAME_PX)
    question = Question(pictures.images[0], pictures.source, SIZE_PX, board.fastest.core, layers=False)
    models: Record = {}
    for model in sorted(weights.DEFAULTS):
        report = estimate(board, bundles_of(model), question, progress=click.echo)
        models[model] = msgspec.to_builtins(best_estimated(report))
    factors = calibration.load_calibration(name)
    threads = next((fit for fit in factors.threads if (fit.core, fit.threads) == (report.core, board.threads)), None)
    return {
        "core": report.core, "mhz": report.mhz, "mean_error": report.mean_error,
        "int8_error": msgspec.to_builtins(report.int8_error), "float_error": msgspec.to_builtins(report.float_error),
        "threads": board.threads, "speedup": threads and threads.speedup,
        "speedup_error": threads and threads.mean_error, "models": models,
    }


def description(name: str, record: Record) -> str:
    """The shipped description of a board with what the record says of the best."""
    path = boards.shipped_directory() / f"{name}.toml"
    choices = msgspec.convert(record["models"], dict[str, Choice])
    return with_best(path.read_text(), {model: choice.best for model, choice in choices.items()})


@click.command(help=__doc__)
@click.argument("names", nargs=-1, metavar="BOARD...")
@click.option("--check", "is_checked", is_flag=True, help="Write nothing; fail where a description is another one.")
@click.option("--estimate", "is_estimated", is_flag=True, help="First estimate again.")
def main(names: tuple[str, ...], is_checked: bool, is_estimated: bool) -> None:
    content: Record = json.loads(SERVING.read_text()) if SERVING.is_file() else {"command": COMMAND, "boards": {}}
    for name in (names or BOARDS) if is_estimated else ():
        content["boards"][name] = estimated(name)
        write_bytes(SERVING, json.dumps(content, indent=1).encode() + b"\n")
    for name, record in content["boards"].items():
        path, text = boards.shipped_directory() / f"{name}.toml", description(name, record)
        if not is_checked:
            write_bytes(path, text.encode())
        elif path.read_text() != text:
            raise click.ClickException(f"{path.name} is not what the estimates say: python docs/make_best.py")


if __name__ == "__main__":
    main()
