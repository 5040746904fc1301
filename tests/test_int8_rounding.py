"""The rounding of int8 engines by blocks, against what it is by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeface.int8 import rounding
from edgeface.int8.rounding import rounded_away, rounded_even, scale_sums

# Halves, their neighbours, numbers beyond the range, zeros of both signs.
_HALVES = np.arange(-130, 131, dtype=np.float32) / 2
_VALUES = torch.from_numpy(np.concatenate([
    _HALVES, np.nextafter(_HALVES, np.float32(np.inf)), np.nextafter(_HALVES, np.float32(-np.inf)),
    np.array([0.0, -0.0, 1e-40, 126.5, 127.5, -127.5, 3e9, -3e9], np.float32),
]))
shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))


@pytest.fixture(autouse=True, params=[7, 1 << 16])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a channel or two, and maps that are one block."""
    monkeypatch.setattr(rounding, "_BLOCK", request.param)


def test_halves_go_away_from_zero() -> None:
    x = _VALUES.reshape(1, -1, 1, 1)
    expected = np.array([np.sign(v) * min(127, np.floor(abs(v) + 0.5)) for v in _VALUES.double().tolist()])
    assert rounded_away(x, torch.tensor(1.0)).flatten().tolist() == expected.tolist()


def test_halves_go_to_even() -> None:
    x = _VALUES.reshape(1, -1, 1, 1)
    expected = np.rint(_VALUES.numpy()).clip(-128, 127)
    assert rounded_even(x, torch.tensor(1.0)).flatten().tolist() == expected.tolist()


def test_what_is_no_number_stays_so() -> None:
    nan = torch.full((1, 1, 1, 1), torch.nan)
    assert rounded_away(nan, torch.tensor(1.0)).isnan().all()
    assert rounded_even(nan, torch.tensor(1.0)).isnan().all()


@given(shape=shapes, seed=st.integers(0, 99))
def test_channels_have_factors_of_their_own(shape: tuple[int, int, int, int], seed: int) -> None:
    """Of a map that has gaps between its pictures, as a slice of another's channels has."""
    rng = torch.Generator().manual_seed(seed)
    n, channels, height, width = shape
    x = torch.randn((n, channels + 2, height, width), generator=rng)[:, 1:-1] * 50
    factors = torch.rand(channels, generator=rng)
    expected = (x * factors[:, None, None]).round().clamp(-128, 127)
    assert torch.equal(rounded_even(x, factors), expected)
    assert torch.equal(rounded_away(x, factors[0]), rounded_away(x.contiguous(), factors[0]))


@given(shape=shapes, seed=st.integers(0, 99), relu=st.booleans())
def test_sums_are_scaled_and_rounded_once(shape: tuple[int, int, int, int], seed: int, relu: bool) -> None:
    rng = torch.Generator().manual_seed(seed)
    sums = torch.randint(-(1 << 24), 1 << 24, shape, generator=rng).float()
    steps, bias = torch.rand(shape[1], generator=rng), torch.randn(shape[1], generator=rng)
    expected = (sums.double() * steps.double()[:, None, None] + bias.double()[:, None, None]).float()
    expected = expected.relu() if relu else expected
    assert torch.equal(scale_sums(sums, steps, bias, relu=relu), expected)
