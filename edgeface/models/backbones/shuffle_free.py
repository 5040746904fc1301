"""ShuffleNetV2 (Ma et al. 2018) without its channel shuffle: the same function from slices and permuted weights.

A unit passes half of its channels on untouched and interleaves them with the half that it computed, so every channel
stays where it is until the unit that reads it. Here no channel moves at all: the last convolution of a branch gives its
channels in the order of the units that will read them, and each unit reads the concatenation of its slices. What is
left of a channel's logical number is the order of the weights. Per unit this copies a half of the channels instead of
the whole map three times (split, concatenation, shuffle), and all slices of a stage share one int8 scale, so that no
engine has to rescale one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from torch import nn

from edgeface.int8.modules import FoldedConv, Point, Signal, concatenated
from edgeface.models.blocks import conv_of, folded
from edgeface.models.layout import Layout, filled, read_through, written_to


class _Origin(NamedTuple):
    """Where a channel was computed: unit, whether by unit 0's shortcut, and number in that convolution's output."""

    unit: int
    shortcut: bool
    channel: int


@dataclass(frozen=True)
class _Fates:
    """``reads[u]``: the channels that unit u's branch reads, in logical order, for u = 1..; ``left``: the stage's
    output; ``reader`` of a channel: its unit, or the number of units for the output."""

    reads: list[list[_Origin]]
    left: list[_Origin]
    reader: dict[_Origin, int]


def _fates(units: int, half: int) -> _Fates:
    state = [_Origin(0, shortcut, i) for i in range(half) for shortcut in (True, False)]
    reads: list[list[_Origin]] = [[]]
    for unit in range(1, units):
        kept, read = state[:half], state[half:]
        reads.append(read)
        state = [origin for i in range(half) for origin in (kept[i], _Origin(unit, False, i))]
    reader = {origin: unit for unit, read in enumerate(reads) for origin in read}
    return _Fates(reads, state, reader | dict.fromkeys(state, units))




class _Branch(nn.Module):
    """1x1, depthwise 3x3, and a 1x1 whose output is cut into ``slices``; without ``first`` it is unit 0's shortcut."""

    def __init__(
        self, first: FoldedConv | None, depthwise: FoldedConv, last: FoldedConv, slices: Sequence[tuple[int, int]]
    ) -> None:
        super().__init__()
        if first is not None:
            self.conv1, self.middle1 = first, Point()
        self.depthwise, self.middle2, self.conv2 = depthwise, Point(), last
        self.has_first = first is not None
        self.slices = list(slices)      # (unit that reads it, channels)

    def forward(self, signal: Signal, stream: Point) -> list[tuple[int, Signal]]:
        if self.has_first:
            signal = self.middle1(self.conv1(signal))
        out: Signal = stream(self.conv2(self.middle2(self.depthwise(signal))))
        parts = out.split([channels for _, channels in self.slices]) if len(self.slices) > 1 else [out]
        return [(reader, part) for (reader, _), part in zip(self.slices, parts, strict=True)]


class ShuffleFreeStage(nn.Module):
    """One stage: a Signal of the layout it was built for -> a Signal of ``layout``, at half the size.

    Slices, and the channels inside the branches, are filled up to multiples of ``multiple`` with channels of zeros,
    because engines pack so many channels together.
    """

    def __init__(self, units: Sequence[nn.Module], layout: Layout, multiple: int) -> None:
        super().__init__()
        half = len(folded(_blocks(units[0])[-1])[1])
        fates = _fates(len(units), half)
        inner = filled(half, multiple)
        order: dict[int, list[_Origin | None]] = {unit: [] for unit in range(1, len(units) + 1)}
        self.stream = Point()
        self.branches = nn.ModuleList()
        for number, unit in enumerate(units):
            blocks = _blocks(unit)
            if number == 0:
                shortcut = cast(nn.Sequential, unit.shortcut)
                weight, bias = written_to(*folded(shortcut[0]), layout)
                depthwise = FoldedConv(weight, bias, 2, 1, len(layout), relu=False)
                last, slices = _last(shortcut[1], layout, fates, 0, True, multiple, order)
                self.shortcut = _Branch(None, depthwise, last, slices)
                source: Layout = layout
            else:
                logical = {origin: i for i, origin in enumerate(fates.reads[number])}
                source = [None if origin is None else logical[origin] for origin in order[number]]
            weight, bias = folded(blocks[0])
            first = FoldedConv(*written_to(read_through(weight, source), bias, inner))
            weight, bias = written_to(*folded(blocks[1]), inner)
            depthwise = FoldedConv(weight, bias, 1 if number else 2, 1, len(inner), relu=False)
            last, slices = _last(blocks[2], inner, fates, number, False, multiple, order)
            self.branches.append(_Branch(first, depthwise, last, slices))
        logical = {origin: i for i, origin in enumerate(fates.left)}
        self.layout: Layout = [None if origin is None else logical[origin] for origin in order[len(units)]]

    def forward(self, signal: Signal) -> Signal:
        waiting: dict[int, list[Signal]] = {}

        def give(parts: list[tuple[int, Signal]]) -> None:
            for reader, part in parts:
                waiting.setdefault(reader, []).append(part)

        give(self.shortcut(signal, self.stream))
        for number, branch in enumerate(self.branches):
            give(branch(concatenated(waiting[number]) if number else signal, self.stream))
        return concatenated(waiting[len(self.branches)])


def _blocks(unit: nn.Module) -> list[nn.Module]:
    """The three ConvBN of a unit's branch."""
    return list(cast(nn.Sequential, unit.branch))


def _last(
    block: nn.Module, source: Layout, fates: _Fates, unit: int, shortcut: bool, multiple: int,
    order: dict[int, list[_Origin | None]],
) -> tuple[FoldedConv, list[tuple[int, int]]]:
    """A branch's last convolution with its outputs in the order of their readers, and the slices (reader, channels).

    Appends the slices' channels to what each reader finds in ``order``.
    """
    weight, bias = folded(block)
    by_reader: dict[int, list[int | None]] = {}
    for channel in range(len(bias)):
        by_reader.setdefault(fates.reader[_Origin(unit, shortcut, channel)], []).append(channel)
    layout: list[int | None] = []
    slices = []
    for reader in sorted(by_reader):
        part = by_reader[reader] + [None] * (-len(by_reader[reader]) % multiple)
        order[reader] += [None if channel is None else _Origin(unit, shortcut, channel) for channel in part]
        slices.append((reader, len(part)))
        layout += part
    return FoldedConv(*written_to(read_through(weight, source), bias, layout)), slices


class ShuffleFreeNet(nn.Module):
    """The whole trunk, of its stem and its stages; ``layouts``: the orders of the channels at strides 8, 16, 32."""

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], multiple: int) -> None:
        super().__init__()
        self.stem = conv_of(stem, 2)
        self.stem_out = Point()
        layout: Layout = list(range(len(self.stem.bias)))
        self.stages = nn.ModuleList()
        self.layouts: list[Layout] = []
        for units in stages:
            assert isinstance(units, nn.Sequential)
            stage = ShuffleFreeStage(list(units), layout, multiple)
            layout = stage.layout
            self.stages.append(stage)
            self.layouts.append(layout)

    def forward(self, signal: Signal) -> list[Signal]:
        signal = self.stem_out(self.stem(signal)).mapped(lambda x: nn.functional.max_pool2d(x, 2, 2))
        maps = []
        for stage in self.stages:
            signal = stage(signal)
            maps.append(signal)
        return maps
