"""Stages without channel shuffle compute what stages with it do: any length, any width, any filling of slices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgeface.int8.modules import FoldedConv, Point, Signal
from edgeface.models.backbones.shuffle_free import ShuffleFreeStage
from edgeface.models.backbones.shufflenetv2 import ShuffleUnit
from edgeface.models.layout import Layout, filled, read_through, written_to


def random_stage(units: int, cin: int, cout: int, seed: int) -> list[ShuffleUnit]:
    """Units with random weights and random running figures, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    stage = [ShuffleUnit(cin, cout, 2)] + [ShuffleUnit(cout, cout, 1) for _ in range(units - 1)]
    for unit in stage:
        for module in unit.eval().modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_mean, module.bias.data):
                    assert tensor is not None
                    tensor.normal_(0, 0.5, generator=generator)
                for tensor in (module.running_var, module.weight.data):
                    assert tensor is not None
                    tensor.uniform_(0.5, 1.5, generator=generator)
            elif isinstance(module, nn.Conv2d):
                module.weight.data.normal_(0, 0.5, generator=generator)
    return stage


def in_order(signal: Signal, layout: Layout) -> Tensor:
    """A signal's channels by their logical numbers; those that only fill up must be zero."""
    places = {channel: place for place, channel in enumerate(layout) if channel is not None}
    assert sorted(places) == list(range(len(places)))
    for place, channel in enumerate(layout):
        if channel is None:
            assert not signal.value[:, place].any()
    return signal.value[:, [places[channel] for channel in range(len(places))]]


@given(
    units=st.integers(2, 8), cin=st.integers(1, 6), half=st.integers(1, 9), multiple=st.sampled_from([1, 2, 3, 4, 8]),
    seed=st.integers(0, 1000), data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_a_stage_equals_the_shuffled_one(
    units: int, cin: int, half: int, multiple: int, seed: int, data: st.DataObject
) -> None:
    stage = random_stage(units, cin, 2 * half, seed)
    order = data.draw(st.permutations(range(cin)))
    layout: list[int | None] = [*order, *[None] * data.draw(st.integers(0, 3))]
    x = torch.rand(1, cin, 8, 8, generator=torch.Generator().manual_seed(seed))
    laid_out = torch.zeros(1, len(layout), 8, 8)
    laid_out[:, : len(order)] = x[:, order]
    free = ShuffleFreeStage(stage, layout, multiple).eval()
    with torch.no_grad():
        expected = nn.Sequential(*stage)(x)
        found = free(Signal(laid_out, Point()))
    assert found.value.shape[1] % multiple == 0
    assert found.value.shape[2:] == (4, 4)
    scale = float(expected.abs().max())
    assert float((in_order(found, free.layout) - expected).abs().max()) <= 1e-5 * max(1.0, scale)


def test_two_stages_in_a_row_equal_the_shuffled_ones() -> None:
    first, second = random_stage(4, 5, 12, 1), random_stage(8, 12, 22, 2)
    x = torch.rand(2, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    one = ShuffleFreeStage(first, list(range(5)), 4)
    two = ShuffleFreeStage(second, one.layout, 8)
    with torch.no_grad():
        expected = nn.Sequential(*first, *second)(x)
        found = two(one(Signal(x, Point())))
    assert torch.allclose(in_order(found, two.layout), expected, atol=1e-5 * float(expected.abs().max()))


def test_a_stage_copies_only_what_it_must() -> None:
    """No channel moves: besides convolutions, there are slices of their outputs and concatenations of these."""
    stage = ShuffleFreeStage(random_stage(4, 4, 16, 0), list(range(4)), 1)
    signal = Signal(torch.zeros(1, 4, 8, 8), Point())
    with torch.no_grad(), _Operators() as operators:
        stage(signal)
    assert operators.names == {"convolution", "relu", "split_with_sizes", "cat"}


class _Operators(TorchDispatchMode):
    """Notes what torch computes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_every_slice_of_a_stage_has_the_scale_of_its_stream() -> None:
    stage = ShuffleFreeStage(random_stage(4, 4, 16, 0), list(range(4)), 1)
    seen: list[Signal] = []
    for branch in stage.branches[1:]:
        assert isinstance(branch.conv1, FoldedConv)
        branch.conv1.register_forward_hook(lambda _m, inputs, _out: seen.append(inputs[0]))
    with torch.no_grad():
        out = stage(Signal(torch.zeros(1, 4, 8, 8), Point()))
    assert len(seen) == 3
    assert all(signal.point is stage.stream for signal in [*seen, out])


def test_weights_read_and_write_layouts() -> None:
    weight = torch.arange(6.0).reshape(2, 3, 1, 1)
    assert read_through(weight, [2, None, 0, 1])[:, :, 0, 0].tolist() == [[2, 0, 0, 1], [5, 0, 3, 4]]
    written, bias = written_to(weight, torch.tensor([10.0, 20.0]), [1, None, 0])
    assert written[:, :, 0, 0].tolist() == [[3, 4, 5], [0, 0, 0], [0, 1, 2]]
    assert bias.tolist() == [20, 0, 10]


@pytest.mark.parametrize(("channels", "multiple", "length"), [(24, 8, 24), (58, 8, 64), (5, 1, 5)])
def test_layouts_are_filled_up(channels: int, multiple: int, length: int) -> None:
    layout = filled(channels, multiple)
    assert layout[:channels] == list(range(channels))
    assert layout[channels:] == [None] * (length - channels)
