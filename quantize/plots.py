"""The report's picture: signal to noise and loss of every layer, worst ones to be seen at a glance."""

from __future__ import annotations

from pathlib import Path

from edgeface.atomic import refused, replacing
from edgeface.errors import MissingExtraError

from .report import Report

PICTURE = "layers.png"
_INPUT, _WEIGHT, _LOSS, _OTHER = "#3b6fb6", "#86a9d6", "#c2542d", "#7a7a7a"
_ROW_INCHES = 0.17


def require_plots() -> None:
    """Raises MissingExtraError without matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtraError('the report\'s plot needs matplotlib: pip install "edgeface[train]"') from None


def plot_layers(report: Report, directory: Path) -> Path:
    """Draw layers.png into ``directory`` and give its path.

    Raises MissingExtraError without matplotlib, OutputError when the disk refuses.
    """
    require_plots()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    layers, others = report.layers, report.tflite_only
    names = [row.name for row in layers] + [row.tensor.name for row in others]
    places = list(range(len(names)))
    figure = Figure(figsize=(13, 2 + _ROW_INCHES * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    noise, loss = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    here, there = places[: len(layers)], places[len(layers) :]
    noise.barh([p - 0.2 for p in here], [_height(row.input.sqnr_db) for row in layers], 0.4, color=_INPUT)
    noise.barh([p + 0.2 for p in here], [_height(row.weight_sqnr_db) for row in layers], 0.4, color=_WEIGHT)
    noise.barh(there, [_height(row.tensor.sqnr_db) for row in others], 0.4, color=_OTHER)
    noise.set(title="signal to quantisation noise", xlabel="dB: more is better")
    loss.barh(here, [row.loss_percent for row in layers], 0.7, color=_LOSS)
    loss.barh(there, [row.loss_percent for row in others], 0.7, color=_OTHER)
    loss.axvline(0, color="black", linewidth=0.6)
    loss.set(title="the task's loss, this one alone in int8", xlabel="% above float")
    noise.set_yticks(places, names, fontsize=7)
    noise.set_ylim(len(names) - 0.4, -0.6)
    for axes in (noise, loss):
        axes.grid(axis="x", alpha=0.3)
        axes.tick_params(top=True, labeltop=True, labelsize=7)
    for label, row in zip(noise.get_yticklabels(), layers, strict=False):
        if not row.int8:
            label.set_style("italic")
    figure.legend(
        handles=[
            Patch(color=_INPUT, label="layer's input"), Patch(color=_WEIGHT, label="layer's weights"),
            Patch(color=_LOSS, label="loss"), Patch(color=_OTHER, label="tensor that only TFLite rounds"),
        ],
        loc="outside lower center", ncols=4,
    )
    figure.suptitle(
        f"int8 by {report.method}: loss {report.float_loss:.3f} in float, {report.inputs_percent:+.2f} % as ncnn "
        f"rounds, {report.all_percent:+.2f} % as TFLite does" + _in_float(report)
    )
    path = directory / PICTURE
    with replacing(path) as temporary:
        try:
            figure.savefig(temporary, dpi=110)
        except OSError as error:
            raise refused(path, error) from None
    return path


def _height(decibels: float | None) -> float:
    """A bar's length; what loses nothing has none."""
    return 0.0 if decibels is None else decibels


def _in_float(report: Report) -> str:
    kept = sum(not row.int8 for row in report.layers)
    return f"; {kept} layers in float, in italics" if kept else ""
