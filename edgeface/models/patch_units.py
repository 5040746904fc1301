"""What patch nets are made of, and beside each how it is deployed: a convolution with its pooling, and a head.

ReLU becomes a part of its convolution. PReLU, which is no part of one in any engine, stays a layer of its own behind
the pooling, as in training, and keeps a net in float (docs/quantisation.md says what it would cost).
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from edgeface.int8.modules import FoldedConv, Point, Signal
from edgeface.models.blocks import folded
from edgeface.models.deploy import SCORE_LIMIT, deploy

Activation = Literal["prelu", "relu"]
ACTIVATIONS: tuple[Activation, ...] = ("prelu", "relu")


class ConvUnit(nn.Sequential):
    """Convolution without padding, batch norm, max pooling by 2 of ``pool`` pixels (0 for none), and PReLU (a slope a
    channel) or ReLU: (N, I, H, W) -> (N, O, ...)."""

    def __init__(
        self, cin: int, cout: int, kernel: int, activation: Activation, pool: int = 0, stride: int = 1
    ) -> None:
        super().__init__(
            nn.Conv2d(cin, cout, kernel, stride, bias=False),
            nn.BatchNorm2d(cout),
            nn.PReLU(cout) if activation == "prelu" else nn.ReLU(),
        )
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = self[1](self[0](x))
        # Before the activation, which gives the same where slopes are not negative, and costs a quarter in training.
        out: Tensor = self[2](_pooled(x, self.pool))
        return out

    @torch.no_grad()
    def keep_slopes_positive(self) -> None:
        """Make negative slopes 0, so that the activation does not fall and max pooling may stand on either side of it.
        """
        if isinstance(self[2], nn.PReLU):
            self[2].weight.clamp_(min=0)


class FoldedUnit(nn.Module):
    """A ``ConvUnit``: its convolution, its point, and PReLU where it has one."""

    def __init__(self, unit: ConvUnit) -> None:
        super().__init__()
        weight, bias = folded(unit)
        slopes = unit[2].weight.detach().clone() if isinstance(unit[2], nn.PReLU) else None
        self.conv = FoldedConv(weight, bias, cast(nn.Conv2d, unit[0]).stride[0], relu=slopes is None)
        self.out, self.pool, self.prelu = Point(), unit.pool, None
        if slopes is not None:
            self.prelu = nn.PReLU(len(slopes))
            self.prelu.weight = nn.Parameter(slopes)

    def forward(self, signal: Signal) -> Signal:
        if self.prelu is None:
            done: Signal = self.out(self.conv(signal))
            return done.mapped(lambda x: _pooled(x, self.pool))
        return cast(Signal, self.out(self.prelu(_pooled(self.conv(signal), self.pool))))


class Output(nn.Conv2d):
    """The 1x1 convolution of one output: (N, I, H, W) -> (N, O, H, W). ``logits`` are clipped as MOS's score is when
    they are calibrated."""

    def __init__(self, cin: int, cout: int, *, logits: bool) -> None:
        super().__init__(cin, cout, 1)
        self.logits = logits


class FoldedOutput(nn.Module):
    """An ``Output``, and its point."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        assert output.bias is not None
        self.conv = FoldedConv(output.weight, output.bias, relu=False)
        self.out = Point(limit=SCORE_LIMIT) if output.logits else Point()

    def forward(self, signal: Signal) -> Tensor:
        out: Signal = self.out(self.conv(signal))
        return out.value


def _pooled(x: Tensor, size: int) -> Tensor:
    return nn.functional.max_pool2d(x, size, 2) if size else x


@deploy.register
def _unit(block: ConvUnit, multiple: int = 1) -> nn.Module:
    return FoldedUnit(block)


@deploy.register
def _output(block: Output, multiple: int = 1) -> nn.Module:
    return FoldedOutput(block)
