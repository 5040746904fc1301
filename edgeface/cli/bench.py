"""``edgeface bench``: bundles timed side by side, here or on a board, or estimated, in one table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from edgeface.atomic import write_bytes
from edgeface.cli.bench_all import best_estimated, best_measured, choice_lines, with_choice
from edgeface.cli.bench_calibration import calibration_lines
from edgeface.cli.bench_estimate import estimate_lines
from edgeface.cli.bench_measured import text_lines
from edgeface.cli.bench_pictures import choose_pictures
from edgeface.cli.cascade import cascade_options
from edgeface.cli.progress import is_loud, is_shown
from edgeface.cli.writing import note, say
from edgeface.devices import boards
from edgeface.devices.links import open_link
from edgeface.devices.serving import bundles_of, keep_best
from edgeface.errors import DeviceError, OutputError
from edgeface.wording import counted

if TYPE_CHECKING:
    from edgeface.devices.boards import Board
    from edgeface.devices.estimate.estimates import EstimateReport
    from edgeface.devices.progress import Progress
    from edgeface.devices.serving import Choice
    from edgeface.runtime.benchmark import Pictures, Report

# All are held in memory, so that no file is read between two runs that are compared.
MAX_PICTURES = 16
_FRAME = re.compile(r"(\d{1,5})(?:[xX](\d{1,5}))?")


def _size(_context: click.Context, _option: click.Parameter, value: str) -> int | tuple[int, int]:
    found = _FRAME.fullmatch(value)
    if found is None:
        raise click.BadParameter(f"{value!r} is not a size: write 640, or 640x480")
    width, height = found.groups()
    return int(width) if height is None else (int(width), int(height))


def _frame(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    size = None if value is None else _size(context, option, value)
    if isinstance(size, int):
        raise click.BadParameter(f"{value!r} is no frame: write 640x480")
    return size


@click.command("bench", short_help="Time bundles side by side, here or on a board.")
@click.argument("bundles", nargs=-1, metavar="BUNDLE...")
@click.option("--device", default="host", show_default=True, metavar="NAME",
              help="Where: see 'edgeface devices list'. On a board by ssh its worker times; one that is only emulated "
              "gets an estimate.")
@click.option("--engine", help="Where BUNDLE is a model's name: the engine, as in ncnn or tflite.")
@click.option("--all", "is_all", is_flag=True,
              help="BUNDLE is a model's name, or a folder of bundles of one: compare every engine and precision that "
              "there is of it, with its AP, and say which serves best.")
@click.option("--estimate", "is_estimated", is_flag=True,
              help="Estimate for a board that could be measured as well.")
@click.option("--keep-best", is_flag=True,
              help="With --all: write the answer into your own description of the board, where 'edgeface deploy' takes "
              "it from; for this host, what the model's name alone means from then on.")
@click.option("--size", "size_px", callback=_size, default="640x480", show_default=True, metavar="N | WxH",
              help="Input size in pixels: the longest side, or a frame that every picture is fitted into.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1),
              help="Threads of each engine and of the resize.")
@cascade_options
@click.option("--rounds", default=50, show_default=True, type=click.IntRange(min=1),
              help="Rounds to measure; each runs every BUNDLE once. An estimate needs one.")
@click.option("--pictures", "folder", metavar="DIR",
              help=f"Folder of pictures, or a pattern; one a round is used, at most {MAX_PICTURES}, spread evenly; an "
              "estimate takes the first.  [default: scikit-image's astronaut, or a drawn scene where that is missing]")
@click.option("--frame", "frame_px", callback=_frame, metavar="WxH",
              help="Fit each picture into a frame of this size before anything is timed, as if a camera gave it.")
@click.option("--core", metavar="NAME",
              help="Of an estimate: the core, as in cortex-a53.  [default: the board's fastest]")
@click.option("--layers", default=10, show_default=True, type=click.IntRange(min=0),
              help="Of an estimate: how many of the slowest layers are shown; the JSON has all.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the report here as well, as JSON with more in it.")
@click.option("--plot", "plot_path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Of an estimate: draw a bar for each layer here, a PNG.")
@click.option("--calibrate", "calibrated_board", metavar="BOARD",
              help="Instead: find the factors that estimates for BOARD rest on. On a board with an address a dozen of "
              "ncnn's networks are timed, and the factors written into its description; else it is ncnn's published "
              "times again. Counting the networks takes half an hour, once.")
def command(
    bundles: tuple[str, ...],
    device: str,
    engine: str | None,
    is_all: bool,
    is_estimated: bool,
    keep_best: bool,
    size_px: int | tuple[int, int],
    threads: int,
    refine: str | None,
    min_face: float | None,
    thresholds: tuple[float, ...] | None,
    candidates: int | None,
    rounds: int,
    folder: str | None,
    frame_px: tuple[int, int] | None,
    core: str | None,
    layers: int,
    json_path: Path | None,
    plot_path: Path | None,
    calibrated_board: str | None,
) -> None:
    """Time each BUNDLE, a name, a bundle's directory or a checkpoint (.pt), from picture to faces.

    \b
    edgeface bench mos_s-fp16-ncnn my/mos_s-int8-ncnn edgeface/weights/mos_s.pt
    edgeface bench mos_s --engine tflite --device robot1 --threads 2
    edgeface bench mos_s-int8-ncnn --device rk3399 --size 320x256 --plot layers.png
    edgeface bench mos_s --all --device rpi5 --size 320x256
    edgeface bench --calibrate robot1

    Several are interleaved: each round runs every one once on the same picture, in an order that is shuffled with a
    fixed seed. A few rounds of warm-up come first; after them no run is left out. The same bundle given twice shows how
    much the machine alone makes of a difference. With more than one thread an engine's idle threads may spin into the
    next one's time.

    An estimate is made of the instructions that an emulated board executes and of a model of its core, times a factor
    calibrated on published times. It is never a wall time of the emulator.
    """
    _require_possible(bundles, calibrated_board, json_path, plot_path)
    if calibrated_board is not None:
        _calibrate(calibrated_board, json_path)
        return
    bundles = _all_of(bundles, is_all, keep_best, engine, plot_path)
    limits = {"refine": refine, "min_face": min_face, "thresholds": thresholds, "candidates": candidates}
    board = _board(device, plot_path, core, limits, is_estimated)
    pictures = choose_pictures(folder, min(rounds, MAX_PICTURES), frame_px)
    progress = _log if is_all else _progress
    if board.link == "emulated":
        estimated = _estimate(
            board, bundles, pictures, size_px, core, threads, engine, plot_path, progress, shows_layers=not is_all
        )
        lines, json = estimate_lines(estimated, layers), estimated.to_json()
        choice = best_estimated(estimated) if is_all else None
    else:
        report = _measure(board, bundles, pictures, size_px, threads, rounds, engine, limits, progress)
        lines, json, choice = text_lines(report), report.to_json(), best_measured(report) if is_all else None
    _give(lines, json, json_path, choice)
    _keep(board, choice if keep_best else None)


def _measure(
    board: Board, bundles: Sequence[str], pictures: Pictures, size_px: int | tuple[int, int], threads: int, rounds: int,
    engine: str | None, limits: dict[str, Any], progress: Progress,
) -> Report:
    """Timed here or on the board; ``limits`` are more arguments of ``edgeface.load``, and None on a board."""
    if board.link != "local":
        from edgeface.devices.timing import time_on_board

        return time_on_board(
            open_link(board, progress), bundles, pictures, threads=threads, size_px=size_px, rounds=rounds,
            engine=engine, progress=progress,
        )
    from edgeface.runtime.benchmark import WARM_UP_ROUNDS, benchmark, open_subject

    subjects = []
    for number, name in enumerate(bundles, 1):
        subjects.append(open_subject(name, threads=threads, size_px=size_px, engine=engine, **limits))
        progress(f"{name}: opened, {number} of {len(bundles)}")
    # Not a bar: it would be redrawn during the runs, by a thread of its own.
    progress(f"{counted(len(subjects), 'bundle')}, {WARM_UP_ROUNDS} + {rounds} rounds ...")
    return benchmark(subjects, pictures, threads=threads, size_px=size_px, rounds=rounds)


def _all_of(
    bundles: tuple[str, ...], is_all: bool, keep_best: bool, engine: str | None, plot_path: Path | None
) -> tuple[str, ...]:
    """With --all every bundle of the one that is given; raises UsageError for options that do not fit."""
    if plot_path is not None and is_all:
        raise click.UsageError("--plot draws layers, which --all does not count: leave one of the two out")
    if keep_best and not is_all:
        raise click.UsageError("--keep-best keeps what --all finds: give --all as well")
    if not is_all:
        return bundles
    if len(bundles) > 1 or engine is not None:
        raise click.UsageError("--all compares the engines of one model: give one BUNDLE, and no --engine")
    return tuple(bundles_of(bundles[0]))


def _keep(board: Board, choice: Choice | None) -> None:
    if choice is not None:
        note(f"{choice.model}: {', then '.join(choice.best)} -> {keep_best(board, choice)}")


def _require_possible(
    bundles: Sequence[str], calibrated_board: str | None, json_path: Path | None, plot_path: Path | None
) -> None:
    """Raises OutputError for a file in a folder that is not there, before minutes of work, and UsageError for bundles
    that are missing or not wanted."""
    for path, option in ((json_path, "--json"), (plot_path, "--plot")):
        if path is not None and not path.parent.is_dir():
            raise OutputError(f"{path.parent}: no such folder: make it, or choose another {option}")
    if calibrated_board is not None and bundles:
        raise click.UsageError("--calibrate takes no BUNDLE: its networks are ncnn's")
    if calibrated_board is None and not bundles:
        raise click.UsageError("Missing argument 'BUNDLE...'.")


def _board(
    name: str, plot_path: Path | None, core: str | None, limits: Mapping[str, object], is_estimated: bool
) -> Board:
    """The board of that name; raises UsageError for options of an estimate that it gets none of, or of this host that
    it is not."""
    board = boards.find(name)
    if is_estimated:
        if not board.emulated_cpus:
            raise click.UsageError(f"--estimate: {board.name} has no processor that is emulated: leave it out")
        board = msgspec.structs.replace(board, address=None)
    if plot_path is not None and board.link != "emulated":
        raise click.UsageError(f"--plot draws the layers of an estimate: {board.name} is measured")
    if board.link != "local" and any(value is not None for value in limits.values()):
        raise click.UsageError(
            "--refine, --min-face, --thresholds and --candidates are for this host: for a board make a bundle with "
            "'edgeface models combine'"
        )
    if core is not None and board.link != "emulated":
        raise click.UsageError(f"--core is for estimates: {board.name} is measured")
    return board


def _estimate(
    board: Board, bundles: Sequence[str], pictures: Pictures, size_px: int | tuple[int, int], core: str | None,
    threads: int, engine: str | None, plot_path: Path | None, progress: Progress, *, shows_layers: bool,
) -> EstimateReport:
    from edgeface.devices.estimate.estimates import Question, estimate
    from edgeface.devices.estimate.plots import layer_bars, require_plots

    if plot_path is not None:
        require_plots()
    chosen = core or board.fastest.core
    question = Question(pictures.images[0], pictures.source, size_px, chosen, threads, shows_layers)
    report = estimate(board, bundles, question, engine=engine, progress=progress)
    if plot_path is not None:
        write_bytes(plot_path, layer_bars(report))
    return report


def _calibrate(name: str, json_path: Path | None) -> None:
    board = boards.find(name)
    if board.link == "ssh":
        from edgeface.devices.estimate.own import calibrate_own, keep_own

        calibration = calibrate_own(open_link(board, _log), progress=_log)
        _give(calibration_lines(calibration), calibration.to_json(), json_path)
        note(f"{name}: factors of {counted(len(calibration.cores), 'core')} -> {keep_own(board, calibration)}")
        return
    from edgeface.devices.estimate.calibrate import calibrate

    calibration = calibrate(board, progress=_log)
    _give(calibration_lines(calibration), calibration.to_json(), json_path)
    missed = calibration.missed()
    if missed:
        raise DeviceError(f"estimates for {name} cannot be relied on: {'; '.join(missed)}")


def _give(lines: Iterable[str], json: bytes, json_path: Path | None, choice: Choice | None = None) -> None:
    for line in lines:
        say(line)
    for line in choice_lines(choice) if choice is not None else ():
        say(line)
    if json_path is not None:
        write_bytes(json_path, json if choice is None else with_choice(json, choice))


def _progress(line: str) -> None:
    """Each step that takes a while, for whoever watches."""
    if is_shown():
        note(line)


def _log(line: str) -> None:
    """A step of what takes many minutes: said in a pipe or a file too."""
    if is_loud():
        note(line)
