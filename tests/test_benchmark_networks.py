"""ncnn's benchmark networks as they are built here: against published counts, and in ncnn itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgeface.devices.estimate.networks import Builder, Network, network
from edgeface.devices.estimate.networks.builder import INPUT, OUTPUT

from edgeface.errors import UnknownNameError
from edgeface.runtime.engines import Options, engine
from edgeface.runtime.engines.ncnn_files import parse_param

# Published multiply-adds and parameters in millions. Where ncnn's variant has more layers than what was counted, those
# are added by hand.
KNOWN = {
    "squeezenet": (387.75 + 512 * (16**2 - 14**2) / 1000, 1.24),  # Netscope's count; the last convolution is padded
    "mobilenet": (569, 4.2),                                # table 4 of the paper
    "mobilenet_v2": (300.8 + 32 * 32 * 112**2 / 1e6, 3.5),  # torchvision; the first block expands by 1 as well
    "mobilenet_v3": (219 + 28.95, 5.48 - 0.34),             # the paper, torchvision; a wide block became two less wide
    "shufflenet": (137, 1.87),                              # table 5 of the V2 paper
    "shufflenet_v2": (146, 2.28),                           # the paper's appendix
    "mnasnet": (315, 4.38),                                 # table 1 of the paper (B1); torchvision
    "proxylessnasnet": (320 + 16.06, 4.08),                 # the paper; the first block has 32 channels and not 16
    "efficientnet_b0": (390, 5.3),                          # table 2 of the paper
    "regnety_400m": (400, 4.3),                             # the paper's table of RegNetY
    "googlenet": (1502 - 34 + 118, 7.0),                    # table 1 of the paper, whose first layer is 118 and not 34
    "resnet18": (1814 + 64 * 64 * 56**2 / 1e6, 11.69),      # torchvision; the first shortcut is a projection
    "resnet50": (3870, 25.56),                              # Netscope's count, of the same Caffe model
    "alexnet": (724, 60.97),                                # Netscope's count
    "vgg16": (15470, 138.36),                               # Netscope's count
}
WITHIN = 0.02
# Half a gigabyte each: they are run when a calibration is made, and their graphs are checked here.
LARGE = ("vgg16", "vgg16_int8")


@pytest.mark.parametrize("name", KNOWN)
def test_multiply_adds_and_parameters_are_the_published_ones(name: str) -> None:
    macs, parameters = KNOWN[name]
    built = network.get(name)()
    assert built.macs == pytest.approx(macs * 1e6, rel=WITHIN)
    assert built.parameters == pytest.approx(parameters * 1e6, rel=WITHIN)


def test_blazeface_is_counted_block_by_block() -> None:
    channels = (24, 24, 28, 32, 36, 42, 48, 56, 64, 72, 80, 88, 96, 96, 96, 96, 96)
    sizes = (64, 64, 32, 32, 32, 16, 16, 16, 16, 16, 16, 8, 8, 8, 8, 8)
    blocks = sum(
        size**2 * (9 * before + before * after)
        for size, before, after in zip(sizes, channels, channels[1:], strict=False)
    )
    assert network.get("blazeface")().macs == blocks + 64**2 * 25 * 3 * 24


@pytest.mark.parametrize("name", [name for name in network.names() if name.endswith("_int8")])
def test_int8_changes_no_shape_and_saves_weights(name: str) -> None:
    int8, plain = network.get(name)(), network.get(name.removesuffix("_int8"))()
    assert int8.is_int8
    assert not plain.is_int8
    assert (int8.macs, int8.parameters, int8.output_shape) == (plain.macs, plain.parameters, plain.output_shape)
    assert plain.weight_bytes / 4 <= int8.weight_bytes < plain.weight_bytes / 2


@pytest.mark.parametrize("name", [name for name in network.names() if name not in LARGE])
def test_ncnn_runs_it(name: str, tmp_path: Path) -> None:
    built = network.get(name)()
    out = _run(built, tmp_path, name)
    assert out.size == np.prod(built.output_shape)
    assert out.shape[-len(built.output_shape):] == built.output_shape
    assert np.isfinite(out).all()
    if built.output_shape == (1000,):
        assert out.sum() == pytest.approx(1, abs=1e-3)


def test_requantising_follows_what_comes_next() -> None:
    convolutions = [layer for layer in network.get("squeezenet_int8")().layers if layer.kind == "Convolution"]
    assert {layer.params[8] for layer in convolutions} == {"2", "102"}
    # Those that squeeze feed convolutions alone; what expands feeds a Concat.
    assert [layer.outputs for layer in convolutions if layer.requantises] == [16, 16, 32, 32, 48, 48, 64, 64]


def test_weights_come_from_the_seed(tmp_path: Path) -> None:
    built = network.get("blazeface")()
    first, again, other = (
        built.write(tmp_path, stem, seed=seed)[1].read_bytes() for stem, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert first != other


def test_a_gate_is_one_number_a_channel(tmp_path: Path) -> None:
    b = Builder((8, 5, 6))
    x = b.multiply(b.input, b.global_average(b.input))
    out = _run(b.finish(x), tmp_path, "gate", given := _random((8, 5, 6)))
    np.testing.assert_allclose(out, given * given.mean((1, 2))[:, None, None], rtol=1e-5, atol=1e-6)


def test_halves_shuffle_and_concatenation_keep_every_channel(tmp_path: Path) -> None:
    b = Builder((8, 3, 4))
    first, second = b.halves(b.input)
    x = b.shuffle(b.concatenate([second, first]), 2)
    out = _run(b.finish(x), tmp_path, "shuffled", given := _random((8, 3, 4)))
    np.testing.assert_array_equal(out, given[[4, 0, 5, 1, 6, 2, 7, 3]])


def test_pooling_counts_windows_that_stick_out_unless_valid(tmp_path: Path) -> None:
    for valid, size in ((False, 4), (True, 3)):
        b = Builder((2, 8, 8))
        built = b.finish(b.pool(b.input, 3, 2, valid=valid))
        assert built.output_shape == (2, size, size)
        assert _run(built, tmp_path, f"pooled-{valid}").shape == (2, size, size)


def test_a_blob_that_several_layers_take_is_split(tmp_path: Path) -> None:
    b = Builder((2, 4, 4))
    padded = b.pad_planes(b.input, 1, 0, 0, 1)
    x = b.add(b.unary("ReLU", padded), b.add(padded, padded))
    built = b.finish(x)
    param, _ = built.write(tmp_path, "sum", seed=1)
    layers = parse_param(param.read_text("ascii"))
    assert [len(layer.produces) for layer in layers if layer.kind == "Split"] == [3]
    out = _run(built, tmp_path, "sum", given := _random((2, 4, 4)))
    padded_given = np.pad(given, ((0, 0), (1, 0), (0, 1)))
    np.testing.assert_allclose(out, np.maximum(padded_given, 0) + 2 * padded_given, rtol=1e-6)


def test_an_unknown_network_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no network 'resnet51'. Did you mean 'resnet50'\?"):
        network.get("resnet51")


def _random(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(5).standard_normal(shape, np.float32)


def _run(
    built: Network, directory: Path, stem: str, given: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None = None
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    param, weights = built.write(directory, stem, seed=1)
    x = _random(built.input_shape) if given is None else given
    session = engine.get("ncnn")(directory, [param.name, weights.name], INPUT, Options(2, "fp32"))
    out = session.run(x).output(OUTPUT)
    weights.unlink()
    return out
