"""Scales find their layers by the weights alone, and say so when they cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from edgeface.convert.matching import match_by_content
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeface.errors import ConversionError
from edgeface.int8.scales import LayerScales

Floats = NDArray[np.float32]

SHAPES = [(4, 3, 3, 3), (4, 4, 1, 1), (4, 1, 3, 3), (6, 8), (3, 2, 2, 2), (4, 3, 3, 3)]


def scales(number: int, shape: tuple[int, ...] | None = None) -> LayerScales:
    """A layer with weights of its own, for every number."""
    rng = np.random.default_rng(number)
    shape = SHAPES[number % len(SHAPES)] if shape is None else shape
    step = rng.uniform(0.01, 0.1, shape[0]).astype(np.float32)
    integers = rng.integers(-127, 128, shape)
    weight = (integers * step.reshape(-1, *(1,) * (len(shape) - 1))).astype(np.float32)
    return LayerScales(f"net.{number}", weight, step, float(rng.uniform(0.01, 0.1)))


@st.composite
def files(draw: st.DrawFn) -> tuple[list[LayerScales], dict[str, Floats], dict[str, str]]:
    """Layers, a file that holds them under other names, in another order, some of them several times, among layers that
    nobody wants; and the layer that each name in the file stands for."""
    wanted = [scales(n) for n in range(draw(st.integers(1, 8)))]
    strangers = [scales(n) for n in range(100, 100 + draw(st.integers(0, 3)))]
    copies = [layer for layer in wanted for _ in range(draw(st.integers(1, 3)))]
    order = draw(st.permutations(copies + strangers))
    names = draw(st.lists(st.text(min_size=1), min_size=len(order), max_size=len(order), unique=True))
    found = {}
    for name, layer in zip(names, order, strict=True):
        weight = layer.weight.copy()
        if weight.ndim == 4 and weight.shape[2:] == (1, 1) and draw(st.booleans()):
            weight = weight[:, :, 0, 0]
        found[name] = weight
    known = {layer.name for layer in wanted}
    truth = {name: layer.name for name, layer in zip(names, order, strict=True) if layer.name in known}
    return wanted, found, truth


@given(files())
def test_layers_are_found_under_any_name_in_any_order_and_number(
    file: tuple[list[LayerScales], dict[str, Floats], dict[str, str]],
) -> None:
    wanted, found, truth = file
    assert {name: layer.name for name, layer in match_by_content(wanted, found).items()} == truth


@given(files(), st.data())
def test_a_layer_whose_weights_changed_by_one_bit_is_named(
    file: tuple[list[LayerScales], dict[str, Floats], dict[str, str]], data: st.DataObject
) -> None:
    wanted, found, truth = file
    lost = data.draw(st.sampled_from(wanted))
    for name, layer in truth.items():
        if layer == lost.name:
            bits = found[name].copy().view(np.uint32)
            bits.flat[data.draw(st.integers(0, bits.size - 1))] ^= 1
            found[name] = bits.view(np.float32)
    with pytest.raises(ConversionError, match=rf"no converted layer has the weights of {lost.name}.*--keep-float") as e:
        match_by_content(wanted, found)
    assert "\n" not in str(e.value)


@given(files(), st.data())
def test_the_same_weights_with_other_scales_are_refused(
    file: tuple[list[LayerScales], dict[str, Floats], dict[str, str]], data: st.DataObject
) -> None:
    wanted, found, _ = file
    one = data.draw(st.sampled_from(wanted))
    change = data.draw(st.sampled_from(["input_scale", "weight_scale"]))
    other = replace(one, name="net.twin", **{change: getattr(one, change) * 2})
    where = data.draw(st.integers(0, len(wanted)))
    with pytest.raises(ConversionError, match="same weights and different scales") as error:
        match_by_content([*wanted[:where], other, *wanted[where:]], found)
    assert one.name in str(error.value)
    assert other.name in str(error.value)
    assert "--keep-float" in str(error.value)


@given(files(), st.data())
def test_the_same_weights_with_the_same_scales_are_one_layer(
    file: tuple[list[LayerScales], dict[str, Floats], dict[str, str]], data: st.DataObject
) -> None:
    wanted, found, truth = file
    twin = replace(data.draw(st.sampled_from(wanted)), name="net.twin")
    matched = match_by_content([*wanted, twin], found)
    assert matched.keys() == truth.keys()
    for name, layer in matched.items():
        assert np.array_equal(layer.weight.ravel(), found[name].ravel())


def test_the_same_values_for_other_outputs_are_another_layer() -> None:
    wide, deep = scales(1, (2, 6)), scales(2, (4, 3))
    deep = replace(deep, weight=wide.weight.reshape(4, 3))
    matched = match_by_content([wide, deep], {"a": deep.weight, "b": wide.weight.reshape(2, 6, 1, 1)})
    assert {name: layer.name for name, layer in matched.items()} == {"a": deep.name, "b": wide.name}


def test_a_zero_may_lose_its_sign() -> None:
    layer = scales(1)
    layer.weight[0] = -0.0
    assert match_by_content([layer], {"a": np.abs(layer.weight[:1]).repeat(1, 0)} | {"b": layer.weight + 0}) == {
        "b": layer
    }


def test_nothing_wanted_leaves_everything_in_float() -> None:
    assert match_by_content([], {"a": scales(0).weight}) == {}
