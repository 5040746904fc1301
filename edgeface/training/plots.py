"""Curves of a run's log: losses, their learned weights, dev figures, learning rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgeface.atomic import replacing
from edgeface.errors import DataError, MissingExtraError
from edgeface.training.state import LOG

# Of a log's line of dev figures: what is no figure, and by their ends those that lie far beyond 1.
NO_FIGURES = {"kind", "step", "minutes", "choose", "loss"}
IN_HUNDREDTHS = ("_percent", "_deg", "_years", "_in_100")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log.jsonl; raises DataError with the line's number when one is not JSON."""
    entries = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        try:
            entries.append(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.DecodeError as error:
            # A kill can cut the last line short; anywhere else the log is damaged.
            if number < len(lines):
                raise DataError(f"{path}:{number}: {error}: the log is damaged") from None
    return entries


def plot_curves(run: Path) -> Path | None:
    """Draw ``curves.png`` from the run's log and give its path, None where that has too few lines for a curve.

    Raises MissingExtraError without matplotlib, DataError for a damaged log, OutputError when the disk refuses.
    """
    entries = read_log(run / LOG)
    # Earlier versions named the losses of some nets otherwise.
    train = [e for e in entries if e["kind"] == "train" and "losses" in e and "learning_rate" in e]
    dev = [e for e in entries if e["kind"] == "dev"]
    if len(train) < 2:
        return None
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("plots need matplotlib: pip install 'edgeface[train]'") from None
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    losses, weights, accuracy, rate = figure.subplots(2, 2).flat
    steps = [e["step"] for e in train]
    for task in train[0]["losses"]:
        losses.plot(steps, [e["losses"].get(task, float("nan")) for e in train], label=task)
        if task in train[0].get("weights", {}):
            weights.plot(steps, [e["weights"].get(task, float("nan")) for e in train], label=task)
    losses.set(title="losses", xlabel="step", yscale="log")
    weights.set(title="weights of the losses", xlabel="step", yscale="log")
    for name in sorted({k for e in dev for k in e} - NO_FIGURES):
        points = [(e["step"], e[name]) for e in dev if name in e]
        scale = 0.01 if name.endswith(IN_HUNDREDTHS) else 1.0
        label = name if scale == 1.0 else f"{name} / 100"
        accuracy.plot([s for s, _ in points], [v * scale for _, v in points], marker=".", label=label)
    accuracy.set(title="dev", xlabel="step", ylim=(0, 1))
    rate.plot(steps, [e["learning_rate"] for e in train], label="learning rate")
    rate.set(title="learning rate", xlabel="step")
    for axes in (losses, weights, accuracy):
        if axes.lines:
            axes.legend()
    for axes in (losses, weights, accuracy, rate):
        axes.grid(alpha=0.3)
    path = run / "curves.png"
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return path
