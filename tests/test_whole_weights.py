"""Weights of int8 layers kept as whole numbers: nothing that a layer computes may change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edgeface import weights
from edgeface.int8.fake import fake_quantise_weight, weight_scales
from edgeface.int8.modules import convolutions
from edgeface.int8.whole_weights import packed, restored, rounded, unpacked, whole
from edgeface.models.checkpoint import PLAIN, WHOLE, finished, load_checkpoint, save_checkpoint


def _weights() -> list[Tensor]:
    """Of layers of all sizes: usual ones, a channel of zeros, one of equal values, one with values of all sizes."""
    generator = torch.Generator().manual_seed(3)
    found = [torch.randn(shape, generator=generator) * 0.1 for shape in ((24, 3, 3, 3), (58, 1, 3, 3), (16, 58, 1, 1))]
    odd = torch.randn((5, 4, 1, 1), generator=generator)
    odd[0] = 0
    odd[2] = 0.3
    odd[3] = torch.tensor([0.5, -0.5, 1e-30, 0.25])[:, None, None]
    return [*found, odd]


@pytest.mark.parametrize("weight", _weights())
def test_a_rounded_weight_computes_the_same_and_is_kept_whole(weight: Tensor) -> None:
    new = rounded(weight)
    assert torch.equal(weight_scales(new), weight_scales(weight))
    assert torch.equal(fake_quantise_weight(new), fake_quantise_weight(weight))
    assert torch.equal(restored(*whole(new)), new)
    assert torch.equal(rounded(new), new)
    state, largest = packed({"a.weight": new, "b.weight": weight, "a.bias": new[:, 0, 0, 0]})
    assert state["a.weight"].dtype == torch.int8
    assert {name for name, kept in state.items() if kept.dtype == torch.float32} == {"b.weight", "a.bias"}
    assert torch.equal(unpacked(state, largest)["a.weight"], new)


def test_a_weight_that_would_compute_otherwise_stays_as_it_is() -> None:
    weight = torch.ones((2, 1, 1, 1))
    weight[1] = 1e-10       # rounded to zero, where its scale would be another
    assert rounded(weight) is weight
    assert packed({"a": weight})[1] == {}


def test_a_quantised_checkpoint_is_a_quarter_and_builds_the_same_network(tmp_path: Path) -> None:
    old = load_checkpoint(weights.directory() / "tcnn_int8.pt")
    before = old.build()
    save_checkpoint(tmp_path / "new.pt", finished(old, old.build()))
    assert (tmp_path / "new.pt").stat().st_size < 600_000
    assert torch.load(tmp_path / "new.pt", weights_only=True)["version"] == WHOLE
    again = load_checkpoint(tmp_path / "new.pt")
    after = again.build()
    for (name, one), (_, other) in zip(convolutions(before), convolutions(after), strict=True):
        assert torch.equal(weight_scales(one.weight), weight_scales(other.weight)), name
        assert torch.equal(fake_quantise_weight(one.weight), fake_quantise_weight(other.weight)), name
    x = torch.randn((2, 3, 48, 48), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        one, other = before(x), after(x)
    assert torch.equal(one.score, other.score)
    assert torch.equal(one.landmarks, other.landmarks)
    assert torch.equal(one.attributes, other.attributes)

    save_checkpoint(tmp_path / "float.pt", replace(again, quantisation=None))
    assert torch.load(tmp_path / "float.pt", weights_only=True)["version"] == PLAIN
