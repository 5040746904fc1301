"""A TFLite net taken apart: the operators together compute what the net computes, each alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeface.devices.estimate.operators import NOTHING, Operator, write_operators
from numpy.typing import NDArray

from edgeface.errors import EngineError
from edgeface.runtime.engines.tflite_writer import Network, Quantisation, made


def interpreter(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    net = Interpreter(model_path=str(path))
    net.allocate_tensors()
    return net


def run(path: Path, values: list[NDArray[Any]]) -> NDArray[Any]:
    net = interpreter(path)
    for detail, value in zip(net.get_input_details(), values, strict=True):
        net.set_tensor(detail["index"], value)
    net.invoke()
    result: NDArray[Any] = net.get_tensor(net.get_output_details()[0]["index"])
    return result


def given(path: Path) -> list[NDArray[Any]]:
    values = np.load(path.with_suffix(".npz"))
    return [values[f"arr_{i}"] for i in range(len(values.files))]


def a_net(path: Path) -> None:
    """int8 (1, 8, 8, 3): padding, a convolution that steps by 2, and its sum with itself."""
    rng = np.random.default_rng(0)
    network, scale = Network(), Quantisation.per_tensor(1 / 32)
    x = network.tensor("data", (1, 8, 8, 3), np.int8, scale)
    padded = network.tensor("padded", (1, 10, 10, 3), np.int8, scale)
    network.add("PAD", [x, network.setting(np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))], [padded],
                made("PadOptionsT"), 2)
    weights = rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    weight = network.constant("weight", weights, Quantisation(np.full(4, 1 / 512, np.float32)))
    bias = network.constant("bias", rng.integers(-99, 99, 4).astype(np.int32),
                            Quantisation(np.full(4, 1 / 512 / 32, np.float32)))
    y = network.tensor("conv", (1, 4, 4, 4), np.int8, scale)
    network.add("CONV_2D", [padded, weight, bias], [y], made(
        "Conv2DOptionsT", padding=1, strideH=2, strideW=2, dilationHFactor=1, dilationWFactor=1,
    ), 3)
    out = network.tensor("sum", (1, 4, 4, 4), np.int8, Quantisation.per_tensor(1 / 16))
    network.add("ADD", [y, y], [out], made("AddOptionsT"), 2)
    path.write_bytes(network.to_bytes([x], [out], "a net for tests"))


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.tflite"
    a_net(path)
    return path


def test_operators_one_after_the_other_compute_what_the_net_does(net: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(1).integers(-128, 128, (1, 8, 8, 3)).astype(np.int8)
    parts = tmp_path / "parts"
    parts.mkdir()
    assert write_operators(net, x, parts) == [
        Operator("conv", "PAD + CONV_2D", "0000"), Operator("sum", "ADD", "0001")
    ]
    first, second = (parts / f"{number}.tflite" for number in ("0000", "0001"))
    np.testing.assert_array_equal(given(first)[0], x)
    middle = run(first, given(first))
    # A tensor that is read twice is one input.
    np.testing.assert_array_equal(given(second), [middle])
    np.testing.assert_array_equal(run(second, [middle]), run(net, [x]))


def test_a_net_of_nothing_is_among_them(net: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    write_operators(net, np.zeros((1, 8, 8, 3), np.int8), parts)
    assert sorted(path.name for path in parts.iterdir()) == [
        f"{name}.{suffix}" for name in ("0000", "0001", NOTHING) for suffix in ("npz", "tflite")
    ]
    nothing = parts / f"{NOTHING}.tflite"
    np.testing.assert_array_equal(run(nothing, given(nothing)), np.zeros((1, 1, 1, 1), np.float32))


def test_an_input_that_the_net_cannot_take_is_an_error(net: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="TFLite failed"):
        write_operators(net, np.zeros((1, 8, 8, 4), np.int8), tmp_path)
