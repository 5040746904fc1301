"""What the TFLite writer has in float alone, against torch: minimum and maximum of maps, and the L2 norm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from edgeface.convert.targets import target
from torch import Tensor, nn

from edgeface.errors import ConversionError
from edgeface.models.family import Graph
from edgeface.runtime.engines import Options
from edgeface.runtime.engines.registry import engine


class Normalised(nn.Module):
    """A map over its norm, and the extremes of three of its channels."""

    def __init__(self, least: float = 1e-6, axis: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.conv.bias.data.fill_(-0.3)     # many positions are all zeros
        self.least, self.axis = least, axis

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = nn.functional.normalize(torch.relu(self.conv(x)), dim=self.axis, eps=self.least)
        a, b, c, _ = y.split([2, 2, 2, 2], 1)
        return y, torch.minimum(torch.minimum(a, b), c), torch.maximum(a, b)


class Norm(Normalised):
    """The norm itself."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.conv(x)
        return y, y.norm(dim=1, keepdim=True), y + 1


def graph(module: nn.Module) -> Graph:
    shapes = (1, 3, 16, 24), (1, 3, 8, 32)
    return Graph("net", module.eval(), "data", ("y", "low", "high"), shapes, {2: "height", 3: "width"})


def test_norm_and_extremes_at_every_size(tmp_path: Path) -> None:
    module = Normalised()
    target.get("tflite").write(graph(module), [tmp_path / "net.tflite"], "fp32")
    session = engine.get("tflite")(tmp_path, ["net.tflite"], "data", Options())
    for height, width in ((16, 24), (8, 32), (5, 7)):
        x = np.random.default_rng(height).uniform(-1, 1, (3, height, width)).astype(np.float32)
        x[:, :2, :2] = 0
        run = session.run(x)
        with torch.inference_mode():
            expected = module(torch.from_numpy(x)[None])
        for name, values in zip(("y", "low", "high"), expected, strict=True):
            # A short vector has its convolution's rounding errors stretched with it.
            np.testing.assert_allclose(run.output(name), values[0].numpy(), atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Normalised(least=1e-3), "its least norm must be 1e-06"),
        (Normalised(axis=2), "only a map divided by its own norm over the channels"),
        (Norm(), "ReduceL2 .*: alone it is not written"),
    ],
)
def test_a_norm_that_tflite_has_not_is_refused(module: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=f"net: .*{message}"):
        target.get("tflite").write(graph(module), [tmp_path / "net.tflite"], "fp32")
