"""What int8 does to every layer: scale, clipping, signal to noise, and what the task loses; as JSON and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from edgeface.int8.clipping import BINS, Seen, squared_error
from edgeface.int8.fake import fake_quantise_weight, weight_scales
from edgeface.int8.modules import FoldedConv, convolutions, points
from edgeface.int8.scales import Q_MAX

from .calibrated import Calibrated
from .sensitivity import Losses, input_points


class TensorRow(msgspec.Struct, frozen=True):
    """One tensor in int8: the share of calibration values beyond 127 ``scale``, and their signal to noise ratio in dB.

    ``sqnr_db`` is None where rounding loses nothing.
    """

    name: str
    scale: float
    clipped_share: float
    sqnr_db: float | None


class LayerRow(msgspec.Struct, frozen=True):
    """One convolution, in the order of the network.

    ``int8`` is False where it stays in float; the other fields say what int8 does or would do. The smallest and the
    largest weight scale are of its output channels. ``loss_percent``: how much the task's loss grows when this layer
    alone is in int8.
    """

    name: str
    kind: str
    int8: bool
    input: TensorRow
    smallest_weight_scale: float
    largest_weight_scale: float
    weight_sqnr_db: float | None
    loss_percent: float


class PointRow(msgspec.Struct, frozen=True):
    """A tensor that no convolution reads, so that only TFLite rounds it; ``loss_percent``: from it alone."""

    tensor: TensorRow
    loss_percent: float


class Report(msgspec.Struct, frozen=True):
    """All of it. ``inputs_percent`` and ``all_percent``: growth of the loss with all int8 layers' inputs rounded, as
    ncnn does, and with every tensor rounded, as TFLite does."""

    method: str
    float_loss: float
    inputs_percent: float
    all_percent: float
    layers: list[LayerRow]
    tflite_only: list[PointRow]

    def to_json(self) -> bytes:
        """The report as indented JSON, UTF-8."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    def to_summary(self) -> str:
        """The losses, and the layers that lose most, in two lines."""
        worst = sorted(self.layers, key=lambda row: -row.loss_percent)[:3]
        loss = f"{self.inputs_percent:+.2f} % above float's as ncnn rounds, {self.all_percent:+.2f} % as TFLite does"
        names = ", ".join(f"{row.name} {row.loss_percent:+.2f} %" for row in worst)
        return f"loss in int8: {loss}\nmost from: {names}"

    def to_text(self) -> str:
        """The report as a Markdown document."""
        in_float = sum(not row.int8 for row in self.layers)
        head = [
            f"# int8, layer by layer: scales by {self.method}",
            "",
            f"Loss of the task on crops of the dev parts: {self.float_loss:.4f} in float, "
            f"{self.inputs_percent:+.2f} % with the inputs of the int8 layers rounded (as ncnn does), "
            f"{self.all_percent:+.2f} % with every tensor rounded (as TFLite does). "
            f"{len(self.layers)} layers, {in_float} of them in float.",
            "",
            "Clipped: share of the input's values on the calibration pictures beyond 127 scales. SQNR: signal to "
            "quantisation noise. Loss: how much the task's loss grows when only that layer is in int8; "
            "small figures of either sign are chance.",
            "",
        ]
        layers = [
            (
                row.name, row.kind, "int8" if row.int8 else "float", f"{row.input.scale:.3g}",
                _share(row.input.clipped_share), _db(row.input.sqnr_db),
                f"{row.smallest_weight_scale:.2g} to {row.largest_weight_scale:.2g}", _db(row.weight_sqnr_db),
                f"{row.loss_percent:+.3f}",
            )
            for row in self.layers
        ]
        titles = (
            "layer", "kind", "runs in", "input scale", "clipped %", "input SQNR dB", "weight scales", "weight SQNR dB",
            "loss %",
        )
        others = [
            (
                row.tensor.name, f"{row.tensor.scale:.3g}", _share(row.tensor.clipped_share), _db(row.tensor.sqnr_db),
                f"{row.loss_percent:+.3f}",
            )
            for row in self.tflite_only
        ]
        between = ["", "## Tensors that only TFLite rounds", ""]
        return "\n".join([
            *head, *_table(titles, layers, 3), *between,
            *_table(("tensor", "scale", "clipped %", "SQNR dB", "loss %"), others, 1), "",
        ])


def make_report(calibrated: Calibrated, losses: Losses) -> Report:
    """Measure every layer of a calibrated network; takes one run of the loss a layer."""
    kept = calibrated.quantisation.keep_float
    scales = {name: point.scale for name, point in points(calibrated.net)}
    tensors = {name: _tensor(name, scale, calibrated.seen[name]) for name, scale in scales.items()}
    convs = dict(convolutions(calibrated.net))
    return Report(
        calibrated.quantisation.method,
        losses.float_loss,
        losses.increase_percent(losses.quantised("inputs", kept)),
        losses.increase_percent(losses.quantised("all", kept)),
        [
            _layer(name, convs[name], tensors[point], losses.increase_percent(losses.layers[name]))
            for name, point in input_points(calibrated.net).items()
        ],
        [PointRow(tensors[name], losses.increase_percent(loss)) for name, loss in losses.other_points.items()],
    )


def clipped_share(seen: Seen, scale: float) -> float:
    """Share of the values that a point held that lie beyond 127 ``scale``."""
    total = float(seen.counts.sum())
    if not total:
        return 0.0
    edges = np.linspace(0, seen.largest, BINS + 1)
    below = np.concatenate(([0.0], np.cumsum(seen.counts)))
    return 1 - float(np.interp(Q_MAX * scale, edges, below)) / total


def _tensor(name: str, scale: float, seen: Seen) -> TensorRow:
    return TensorRow(name, scale, clipped_share(seen, scale), _decibels(squared_error(seen, scale)))


def _layer(name: str, conv: FoldedConv, tensor: TensorRow, loss_percent: float) -> LayerRow:
    weight = conv.weight.detach()
    # Channels that only fill up the layout are all zero, and have no scale of their own.
    used = weight.flatten(1).abs().amax(1) > 0
    scales = weight_scales(weight)[used] if bool(used.any()) else weight_scales(weight)
    noise = float((fake_quantise_weight(weight) - weight).square().sum())
    power = float(weight.square().sum())
    side = weight.shape[2]
    kind = f"depthwise {side}x{side}" if conv.groups > 1 else f"{side}x{side}"
    return LayerRow(
        name, kind, conv.int8, tensor, float(scales.min()), float(scales.max()),
        _decibels(noise / power if power else 0.0), loss_percent,
    )


def _decibels(noise_share: float) -> float | None:
    return -10 * math.log10(noise_share) if noise_share > 0 else None


def _db(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f}"


def _share(share: float) -> str:
    return f"{100 * share:.3f}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> list[str]:
    """A Markdown table that is aligned as plain text as well; the first ``words`` columns are not numbers."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i < words else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if i < words else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return [line(titles), line(rule), *map(line, rows)]
