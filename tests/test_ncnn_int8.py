"""int8 ncnn files, through torch, ONNX and pnnx and run by the stock wheel, against integers in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from edgeface.convert import target
from edgeface.convert.ncnn_int8 import EXACT, FAST, IMPORTED, Form, Int8Report, quantise
from edgeface.convert.ncnn_model import read
from torch import nn

from edgeface.errors import ConversionError
from edgeface.int8.scales import LayerScales
from edgeface.models.family import Graph
from edgeface.runtime.engines import Options, Session, engine
from edgeface.runtime.engines.ncnn_files import Layer as FileLayer
from edgeface.runtime.engines.ncnn_layers import Int8, ModelLayer, to_bin, to_param
from integer_reference import Floats, Layer, Net, NumpyOps, Ops, TorchNet, calibrated, layer, to_int8

# Where float32 rounds otherwise than NumPy, a value between two integers may fall to the other side.
TIES = 1e-3
ROUNDING = 1e-5


def chain(o: Ops[Any], x: Any) -> Sequence[Any]:
    a = o.relu(o.conv("first", x, 2, 1))
    b = o.relu(o.conv("point", a))
    c = o.conv("depth", b, 1, 1, 12)
    d = o.relu(o.conv("project", c))
    e = o.relu(o.conv("depth2", d, 2, 1, 20))
    return (o.conv("last", e),)


def branches(o: Ops[Any], x: Any) -> Sequence[Any]:
    a = o.relu(o.conv("stem", x, 1, 1))
    left, right = o.relu(o.conv("left", a)), o.relu(o.conv("right", a, 1, 1, 8))
    p = o.pool(left)
    q = o.add(o.double(o.conv("low", p, 1, 1)), right)
    r, s = o.split(o.concat([q, left]), [5, 11])
    return o.conv("score", r, 1, 1), o.relu(o.conv("box", s, 2, 1)), right


def head(o: Ops[Any], x: Any) -> Sequence[Any]:
    a = o.relu(o.conv("patch", x, 3))
    b = o.relu(o.conv("mix", a))
    c = o.relu(o.linear("full", o.flat(b)))
    return (o.linear("bins", c),)


def slopes(o: Ops[Any], x: Any) -> Sequence[Any]:
    a = o.prelu(o.conv("first", x, 1, 1), 0.2)
    return (o.conv("last", o.relu(o.conv("second", a, 1, 1))),)


@dataclass(frozen=True)
class Case:
    """A net, the shapes of its weights, its input, and which layers requantise."""

    net: Net
    layers: dict[str, tuple[int, ...]]
    input: tuple[int, int, int]
    outputs: tuple[str, ...]
    fused: frozenset[str]


CASES = {
    # 12 * 5 * 9 and 3 * 20 are no multiples of 4, so that weights are padded in the file.
    "chain": Case(
        chain,
        {
            "first": (12, 5, 3, 3), "point": (12, 12, 1, 1), "depth": (12, 1, 3, 3), "project": (20, 12, 1, 1),
            "depth2": (20, 1, 3, 3), "last": (3, 20, 1, 1),
        },
        (5, 22, 18), ("out",), frozenset({"first", "point", "depth", "project", "depth2"}),
    ),
    "branches": Case(
        branches,
        {
            "stem": (8, 3, 3, 3), "left": (8, 8, 1, 1), "right": (8, 1, 3, 3), "low": (8, 8, 3, 3),
            "score": (2, 5, 3, 3), "box": (7, 11, 3, 3),
        },
        (3, 16, 24), ("score", "box", "right"), frozenset({"stem"}),
    ),
    "head": Case(
        head,
        {"patch": (16, 6, 3, 3), "mix": (16, 16, 1, 1), "full": (24, 80), "bins": (9, 24)},
        (6, 3, 15), ("out",), frozenset({"patch"}),
    ),
    "slopes": Case(
        slopes, {"first": (8, 3, 3, 3), "second": (8, 8, 3, 3), "last": (4, 8, 1, 1)}, (3, 16, 16), ("out",),
        frozenset({"second"}),
    ),
}


@dataclass(frozen=True)
class Made:
    """A converted net: its folder with net.param and net.bin, its layers, and what the conversion noted."""

    case: Case
    layers: dict[str, Layer]
    directory: Path
    notes: str

    def session(self) -> Session:
        return engine.get("ncnn")(self.directory, ["net.param", "net.bin"], "data", Options(1, "int8"))

    def model(self) -> list[ModelLayer]:
        return read((self.directory / "net.param").read_text(), (self.directory / "net.bin").read_bytes())


def noise(shape: tuple[int, ...], seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def make(
    case: Case, directory: Path, keep_float: Sequence[str] = (), widen: Sequence[str] = (), precision: str = "int8",
    requantise: bool = True,
) -> Made:
    """Convert a case; the layers in ``widen`` get a larger input scale than others on the same tensor."""
    rng = np.random.default_rng(0)
    layers = {name: layer(rng, *shape) for name, shape in case.layers.items()}
    layers = calibrated(case.net, layers, noise(case.input, 1), keep_float)
    for name in widen:
        layers[name] = replace(layers[name], input_scale=1.5 * layers[name].input_scale)
    scales = tuple(own.scales(name) for name, own in layers.items() if own.input_scale)
    form = Form(requantise=requantise, drops_slow=False)
    with patch("edgeface.convert.ncnn.quantise", lambda *arguments, **_: quantise(*arguments, form=form)):
        notes = write(TorchNet(case.net, layers), case.input, case.outputs, directory, precision, scales)
    return Made(case, layers, directory, "\n".join(notes))


def write(
    net: nn.Module, shape: tuple[int, ...], outputs: tuple[str, ...], directory: Path, precision: str = "int8",
    scales: tuple[LayerScales, ...] = (),
) -> list[str]:
    fixed = (1, *shape)
    graph = Graph("net", net.eval(), "data", outputs, (fixed, fixed), {}, scales)
    return target.get("ncnn").write(graph, [directory / "net.param", directory / "net.bin"], precision) or []


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """Cases by name, each converted once."""
    done: dict[str, Made] = {}

    def once(name: str) -> Made:
        if name not in done:
            done[name] = make(CASES[name], tmp_path_factory.mktemp(name))
        return done[name]

    return once


def assert_same_integers(case: Made) -> None:
    session = case.session()
    for seed in range(1, 4):
        x = noise(case.case.input, seed) * np.float32(1.2)      # beyond what was calibrated, so that some is clipped
        run = session.run(x)
        for name, expected in zip(case.case.outputs, case.case.net(NumpyOps(case.layers), x), strict=True):
            actual = run.output(name).reshape(expected.shape)
            largest = np.abs(expected).max()
            off = np.abs(actual - expected)
            assert (off > ROUNDING * largest).mean() < TIES, name
            assert off.max() < 0.05 * largest, name


@pytest.mark.parametrize("name", CASES)
def test_int8_files_compute_what_integers_do(made: Callable[[str], Made], name: str) -> None:
    case = made(name)
    kinds = {own.line.name: own for own in case.model() if isinstance(own.weight, Int8)}
    assert len(kinds) == len(case.case.layers)
    fused = f"{len(case.case.fused)} of {len(kinds)} int8 layers requantise"
    assert fused in case.notes
    assert sum(own.line.requantises for own in kinds.values()) == len(case.case.fused)
    assert_same_integers(case)


@pytest.mark.parametrize("name", CASES)
def test_without_requantisation_the_files_compute_the_same(name: str, tmp_path: Path) -> None:
    case = make(CASES[name], tmp_path, requantise=False)
    kinds = [own for own in case.model() if isinstance(own.weight, Int8)]
    assert f"net: {len(kinds)} int8 layers; none requantises, so that all processors agree" in case.notes
    assert not any(own.line.requantises for own in kinds)
    assert_same_integers(case)


def test_int8_differs_from_float_so_that_the_comparison_says_something(made: Callable[[str], Made]) -> None:
    case = made("chain")
    x = noise(case.case.input, 1)
    floats = {name: replace(own, input_scale=0.0) for name, own in case.layers.items()}
    (expected,) = case.case.net(NumpyOps(floats), x)
    off = np.abs(case.session().run(x).output("out") - expected)
    assert (off > ROUNDING * np.abs(expected).max()).mean() > 0.9


def test_the_file_holds_the_trained_integers_and_scales(made: Callable[[str], Made]) -> None:
    case = made("chain")
    found = {own.weight.integers.tobytes(): own for own in case.model() if isinstance(own.weight, Int8)}
    for name, own in case.layers.items():
        written = found[own.scales(name).integers.tobytes()]
        assert isinstance(written.weight, Int8)
        assert written.bias is not None
        np.testing.assert_array_equal(written.bias, own.bias)
        np.testing.assert_allclose(written.weight.weight_scale, 1 / own.weight_scale, rtol=1e-7)
        np.testing.assert_allclose(written.weight.input_scale, 1 / own.input_scale, rtol=1e-7)


def test_the_report_says_why_layers_give_float(made: Callable[[str], Made]) -> None:
    notes = made("branches").notes
    assert notes.splitlines()[0].startswith("net: 1 of 6 int8 layers requantise; the others feed outputs (3)")
    for reason in ("feeds Pooling", "feeds Concat", "feeds Interp", "feeds BinaryOp", "feeds an output"):
        assert reason in notes
    assert "requantise: stem" in notes
    assert "InnerProduct always gives float" in made("head").notes
    assert "feeds PReLU" in made("slopes").notes


def test_consumers_with_different_scales_keep_their_producer_from_requantising(tmp_path: Path) -> None:
    case = make(CASES["branches"], tmp_path, widen=["left"])
    assert "0 of 6 int8 layers requantise" in case.notes
    assert "its consumers have different scales: " in case.notes
    assert_same_integers(case)


@pytest.mark.parametrize(("form", "said", "in_int8"), [
    (FAST, "left in float", [False, False, True]),
    (IMPORTED, "left in float", [True, False, True]),
    (EXACT, "in int8 all the same, as the checkpoint has them", [True, True, True]),
])
def test_what_ncnn_runs_badly_in_int8_is_named_and_left_in_float_where_it_may(
    form: Form, said: str, in_int8: list[bool]
) -> None:
    rng = np.random.default_rng(0)
    model, scales = [], []
    for i, (name, inputs, size) in enumerate((("stem", 3, 3), ("depth5", 1, 5), ("depth3", 1, 3))):
        own = layer(rng, 4, inputs, size, size)
        params = {0: "4", 1: str(size), 5: "1", 6: str(4 * inputs * size * size)}
        kind = "Convolution" if inputs > 1 else "ConvolutionDepthWise"
        line = FileLayer(kind, f"conv_{i}", [f"{i}"], [f"{i + 1}"], params if inputs > 1 else params | {7: "4"})
        model.append(ModelLayer(line, own.weight, own.bias))
        scales.append(replace(own, input_scale=0.1).scales(name))
    written, report = quantise("net", model, scales, form=form)
    assert [isinstance(each.weight, Int8) for each in written] == in_int8
    lines = [
        "net: stem: 3x3 on a picture's channels, slower in ncnn's int8 than in float: left in float",
        f"net: depth5: depthwise, 5x5, some ten times as slow in ncnn's int8 as in float: {said}",
    ]
    assert report.slow_lines() == lines[0 if form is FAST else 1 :]
    assert report.slow_lines()[0] in report.to_text()


def test_layers_kept_in_float_stay_float(tmp_path: Path) -> None:
    case = make(CASES["chain"], tmp_path, keep_float=["first", "depth"])
    floats = [own for own in case.model() if own.line.kind.startswith("Conv") and not isinstance(own.weight, Int8)]
    assert sorted(own.weight.shape for own in floats if own.weight is not None) == [(12, 1, 3, 3), (12, 5, 3, 3)]
    assert "its consumer" in case.notes
    assert "stays float" in case.notes
    assert "stay float: " in case.notes
    assert_same_integers(case)


def test_int8_is_a_quarter_of_float(tmp_path: Path) -> None:
    big = Case(head, {"patch": (64, 6, 3, 3), "mix": (64, 64, 1, 1), "full": (64, 320), "bins": (9, 64)}, (6, 3, 15),
               ("out",), frozenset())
    for precision in ("int8", "fp32"):
        (tmp_path / precision).mkdir()
    sizes = {p: (make(big, tmp_path / p, precision=p).directory / "net.bin").stat().st_size for p in ("int8", "fp32")}
    assert sizes["int8"] < 0.3 * sizes["fp32"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_float_files_are_read_and_written_again(tmp_path: Path, precision: str) -> None:
    case = make(CASES["slopes"], tmp_path, precision=precision)
    x = noise(case.case.input, 1)
    before = case.session().run(x).output("out")
    model = case.model()
    (tmp_path / "net.param").write_text(to_param([own.line for own in model]))
    (tmp_path / "net.bin").write_bytes(to_bin(model))
    np.testing.assert_array_equal(case.session().run(x).output("out"), before)


def test_int8_files_are_read_and_written_again(made: Callable[[str], Made]) -> None:
    case = made("chain")
    model = case.model()
    assert to_param([own.line for own in model]) == (case.directory / "net.param").read_text()
    assert to_bin(model) == (case.directory / "net.bin").read_bytes()


PARAM = """7767517
3 3
Input                    in0                      0 1 in0
ConvolutionDepthWise     conv_0                   1 1 in0 1 0=8 1=1 5=1 6=32 7=2
Convolution              conv_1                   1 1 1 out0 0=2 1=1 5=1 6=16
"""


def small() -> tuple[list[ModelLayer], list[LayerScales]]:
    """A model as pnnx would write it, and its layers' scales."""
    rng = np.random.default_rng(0)
    layers = {"net.a": layer(rng, 8, 4, 1, 1), "net.b": layer(rng, 2, 8, 1, 1)}
    content = b"".join(bytes(4) + own.weight.tobytes() + own.bias.tobytes() for own in layers.values())
    return read(PARAM, content), [replace(own, input_scale=0.05).scales(name) for name, own in layers.items()]


def test_a_grouped_convolution_is_refused_and_may_stay_float() -> None:
    model, scales = small()
    with pytest.raises(ConversionError, match=r"net\.a: ncnn has one scale a group.*--keep-float net\.a"):
        quantise("net", model, scales)
    done, report = quantise("net", model, scales[1:])
    assert isinstance(report, Int8Report)
    assert report.floats == ("conv_0",)
    assert [isinstance(own.weight, Int8) for own in done] == [False, False, True]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: replace(s, weight=s.weight + s.weight_scale[:, None, None, None] / 3), "no multiples of its scales"),
        (lambda s: replace(s, weight_scale=s.weight_scale / 2), "no multiples of its scales within"),
        (lambda s: replace(s, weight_scale=s.weight_scale * 0), "no positive scale"),
        (lambda s: replace(s, weight_scale=s.weight_scale[:1]), "no positive scale"),
        (lambda s: replace(s, input_scale=float("nan")), "no positive scale"),
        (lambda s: replace(s, input_scale=-0.1), "no positive scale"),
        (lambda s: replace(s, weight=-s.weight), "no converted layer has the weights of"),
    ],
)
def test_scales_that_do_not_fit_are_refused_by_name(
    change: Callable[[LayerScales], LayerScales], reason: str
) -> None:
    model, scales = small()
    with pytest.raises(ConversionError, match=reason) as error:
        quantise("net", model, [change(scales[1])])
    assert "net.b" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_that_does_not_fit_its_weights_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"it ends (before|within) layer conv_1"):
        read(PARAM, bytes(4) + bytes(160))
    unknown = PARAM.replace("Convolution ", "Embed ")
    with pytest.raises(ConversionError, match=r"layer conv_1: Embed cannot be part of an int8"):
        read(unknown, bytes(4) + bytes(160))


class Odd(nn.Module):
    """A convolution followed by something else."""

    def __init__(self, then: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.then = nn.Conv2d(3, 4, 1), then

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.then(self.conv(x))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize(
    ("then", "reason"),
    [
        (lambda x: torch.where(x > 0, x, -2 * x), r"layer torch\.gt_0 is torch\.gt.* use convolution"),
        (torch.triu, r"layer pnnx_expr_\d+ is pnnx\.Expression.* use sums and products"),
    ],
    ids=["where", "triu"],
)
def test_an_operator_that_ncnn_does_not_have_is_named(
    tmp_path: Path, then: Callable[[torch.Tensor], torch.Tensor], reason: str, precision: str
) -> None:
    with pytest.raises(ConversionError, match=rf"net: {reason}.*--target onnx"):
        write(Odd(then), (3, 8, 8), ("out",), tmp_path, precision)
    assert list(tmp_path.iterdir()) == []


def test_rounding_is_half_away_from_zero_and_never_below_minus_127() -> None:
    x = np.array([0.25, -0.25, 0.2, 1.25, -1.25, 99.0, -99.0], np.float32)
    assert to_int8(x, 0.5).tolist() == [1, -1, 0, 3, -3, 127, -127]
