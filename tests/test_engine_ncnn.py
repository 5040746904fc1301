"""The ncnn adapter on a net whose outputs NumPy computes as well: what it promises, and what it refuses."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edgeface.errors import EngineError, MissingExtraError
from edgeface.runtime.engines import Options, Session, engine
from edgeface.runtime.engines.ncnn_files import check_files
from integer_reference import accumulate, rescale, to_int8

Floats = NDArray[np.float32]

PARAM = """7767517
5 7
Input            data   0 1 data
Convolution      conv   1 1 data f 0=4 1=3 11=3 4=1 14=1 5=1 6=108
Split            split  1 3 f f0 f1 features
Convolution      head   1 1 f0 score 0=2 1=1 5=1 6=8
Convolution      boxes  1 1 f1 box 0=8 1=1 5=0 6=32
"""

_RNG = np.random.default_rng(0)
CONV = _RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
CONV_BIAS = _RNG.standard_normal(4).astype(np.float32)
SCORE = _RNG.standard_normal((2, 4)).astype(np.float32)
SCORE_BIAS = _RNG.standard_normal(2).astype(np.float32)
BOX = _RNG.standard_normal((8, 4)).astype(np.float32)


def weight_bytes(dtype: type[np.floating] = np.float32) -> bytes:
    tag = np.uint32(0 if dtype is np.float32 else 0x01306B47).tobytes()
    parts = [(CONV, CONV_BIAS), (SCORE, SCORE_BIAS), (BOX, np.empty(0, np.float32))]
    return b"".join(tag + weights.astype(dtype).tobytes() + bias.tobytes() for weights, bias in parts)


def expected(x: Floats) -> dict[str, Floats]:
    windows = sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1))), (3, 3), axis=(1, 2))
    features = np.einsum("chwij,ocij->ohw", windows, CONV) + CONV_BIAS[:, None, None]
    return {
        "features": features,
        "score": np.einsum("chw,oc->ohw", features, SCORE) + SCORE_BIAS[:, None, None],
        "box": np.einsum("chw,oc->ohw", features, BOX),
    }


def write_net(directory: Path, param: str = PARAM, weights: bytes | None = None) -> None:
    (directory / "net.param").write_text(param)
    (directory / "net.bin").write_bytes(weight_bytes() if weights is None else weights)


def open_net(
    directory: Path, input_name: str = "data", precision: str = "fp32"
) -> Session:
    return engine.get("ncnn")(directory, ["net.param", "net.bin"], input_name, Options(1, precision))


@pytest.fixture
def session(tmp_path: Path) -> Session:
    write_net(tmp_path)
    return open_net(tmp_path)


def picture(*shape: int) -> Floats:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


# 5 x 7 and 3 x 9: channels that are no multiple of 16 bytes, as the pose net's inputs are.
@pytest.mark.parametrize("shape", [(3, 32, 64), (3, 5, 7), (3, 1, 1), (3, 3, 9)])
def test_outputs_are_what_numpy_computes(session: Session, shape: tuple[int, int, int]) -> None:
    x = picture(*shape)
    run = session.run(x)
    for name, values in expected(x).items():
        out = run.output(name)
        assert out.dtype == np.float32
        assert out.flags.c_contiguous
        np.testing.assert_allclose(out, values, atol=1e-4)


@pytest.mark.parametrize("order", ["box score features", "features box score", "score score box"])
def test_outputs_can_be_asked_for_in_any_order_and_again(session: Session, order: str) -> None:
    x = picture(3, 16, 16)
    run = session.run(x)
    for name in order.split():
        np.testing.assert_allclose(run.output(name), expected(x)[name], atol=1e-4)


def test_an_input_nobody_else_holds_lives_as_long_as_its_run(session: Session) -> None:
    values = expected(picture(3, 64, 64))
    run = session.run(picture(3, 64, 64))
    gc.collect()
    garbage = [np.full((3, 64, 64), np.nan, np.float32) for _ in range(50)]
    np.testing.assert_allclose(run.output("score"), values["score"], atol=1e-4)
    assert len(garbage) == 50


def test_an_output_outlives_its_run_and_its_session(tmp_path: Path) -> None:
    write_net(tmp_path)
    x = picture(3, 64, 64)
    out = open_net(tmp_path).run(x).output("features")
    gc.collect()
    others = [open_net(tmp_path).run(x + 1).output("features") for _ in range(5)]
    np.testing.assert_allclose(out, expected(x)["features"], atol=1e-4)
    assert len(others) == 5


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 5, 7)])     # the second has gaps between its channels
def test_a_raw_output_is_a_view_that_outlives_its_run_and_its_session(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write_net(tmp_path)
    x = picture(*shape)
    run = open_net(tmp_path).run(x)
    first = run.raw("features")
    assert first.scale is None
    assert not first.values.flags.owndata
    del run
    gc.collect()
    others = [open_net(tmp_path).run(x + 1).output(name) for name in ("features", "box") for _ in range(5)]
    np.testing.assert_allclose(first.values, expected(x)["features"], atol=1e-4)
    assert first.real().flags.c_contiguous
    np.testing.assert_array_equal(first.real(), first.values)
    assert len(others) == 10


def test_runs_do_not_disturb_each_other(session: Session) -> None:
    x, y = picture(3, 8, 8), picture(3, 8, 12) + 1
    first, second = session.run(x), session.run(y)
    second.output("score")
    np.testing.assert_allclose(first.output("score"), expected(x)["score"], atol=1e-4)
    np.testing.assert_allclose(second.output("box"), expected(y)["box"], atol=1e-4)


def test_half_precision_weights(tmp_path: Path) -> None:
    write_net(tmp_path, weights=weight_bytes(np.float16))
    x = picture(3, 16, 16)
    for precision in ("fp16", "fp32"):
        out = open_net(tmp_path, precision=precision).run(x).output("features")
        np.testing.assert_allclose(out, expected(x)["features"], atol=0.05)


def test_only_the_net_s_outputs_can_be_asked_for(session: Session, tmp_path: Path) -> None:
    assert session.outputs == {"score", "box", "features"}
    run = session.run(picture(3, 8, 8))
    for name in ("data", "f", "f0", "nothing", ""):     # ncnn ends the process on some of these
        with pytest.raises(EngineError, match=r"net\.param: has no output .* only box, features, score"):
            run.output(name)


def test_a_wrong_input_name_is_refused(tmp_path: Path) -> None:
    write_net(tmp_path)
    with pytest.raises(EngineError, match=r"net\.param: its inputs are data, not pixels"):
        open_net(tmp_path, "pixels")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x.astype(np.float64), lambda x: x.transpose(0, 2, 1), lambda x: x[:, ::2], lambda x: x[0],
        lambda x: x[None], lambda x: x[:, :0], lambda x: (x * 255).astype(np.uint8),
    ],
)  # fmt: skip
def test_an_input_that_ncnn_would_misread_is_refused(session: Session, spoil: Callable[[Floats], Floats]) -> None:
    with pytest.raises(EngineError, match="contiguous float32"):
        session.run(spoil(picture(3, 8, 12)))


@pytest.mark.parametrize("cut", [0, 3, 100, 440, 455, -4, -1])
def test_truncated_weights_are_named(tmp_path: Path, cut: int) -> None:
    write_net(tmp_path, weights=weight_bytes()[:cut])
    with pytest.raises(EngineError, match=r"net\.bin: .*copy the bundle again"):
        open_net(tmp_path)


def test_too_many_weights_are_named(tmp_path: Path) -> None:
    write_net(tmp_path, weights=weight_bytes() + b"\0\0\0\0")
    with pytest.raises(EngineError, match=rf"net\.bin: {len(weight_bytes()) + 4} bytes, but net\.param needs"):
        open_net(tmp_path)


def test_weights_of_an_unknown_type_are_named(tmp_path: Path) -> None:
    write_net(tmp_path, weights=b"\x01\x02\x03\x04" + weight_bytes()[4:])
    with pytest.raises(EngineError, match=r"net\.bin: .*unknown type 0x4030201"):
        open_net(tmp_path)


def test_a_param_cut_anywhere_is_named(tmp_path: Path) -> None:
    for cut in range(len(PARAM.rstrip())):
        write_net(tmp_path, PARAM[:cut])
        with pytest.raises(EngineError, match=r"net\.(param|bin): "):
            open_net(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("7767517", "7767518", "magic"),
        ("5 7", "6 7", "5 layers, but"),
        ("5 7", "5 8", "7 blobs, but"),
        ("f0 score", "f9 score", "consumes blob f9"),
        ("f1 box", "f1 score", "two layers make blob score"),
        ("6=108", "6=107", "layer conv has 107 weights for 4 outputs"),
        ("0=4", "0=-4", "layer conv has 108 weights"),
        ("0=4", "0=four", "four"),
        ("1=3", "1=0", "layer conv has"),
        ("5=1 6=8", "5 6=8", "parameter without a value"),
        ("1 3 f", "1 9 f", "fewer blobs"),
    ],
)
def test_a_damaged_param_is_named_with_the_reason(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert old in PARAM
    write_net(tmp_path, PARAM.replace(old, new, 1))
    with pytest.raises(EngineError, match=rf"net\.param: .*{reason}"):
        open_net(tmp_path)


def test_a_binary_param_is_refused(tmp_path: Path) -> None:
    write_net(tmp_path)
    (tmp_path / "net.param").write_bytes(b"\xd5\xa7\x76\x00\xff")
    with pytest.raises(EngineError, match=r"net\.param: not a text \.param"):
        open_net(tmp_path)


def test_a_layer_that_ncnn_does_not_have_is_refused(tmp_path: Path) -> None:
    write_net(tmp_path, PARAM.replace("Split ", "Splat "))
    with pytest.raises(EngineError, match=r"net\.param: ncnn cannot load it"):
        open_net(tmp_path)


@pytest.mark.parametrize("name", ["net.param", "net.bin"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write_net(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(EngineError, match=rf"{name}: No such file"):
        open_net(tmp_path)


def test_a_net_is_two_files(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"a \.param and a \.bin, not 1 files"):
        engine.get("ncnn")(tmp_path, ["net.param"], "data", Options())


def test_a_missing_package_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_net(tmp_path)
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        open_net(tmp_path)


INT8_PARAM = """7767517
5 6
Input                 data   0 1 data
Convolution           conv   1 1 data f 0=6 1=3 11=3 4=1 14=1 5=1 6=162 9=1 8=102
Split                 split  1 2 f f0 f1
Convolution           head   1 1 f0 score 0=3 1=1 5=1 6=18 8=2
ConvolutionDepthWise  depth  1 1 f1 box 0=6 1=3 11=3 4=1 14=1 5=0 6=54 7=6 8=1
"""
INPUT_SCALE, MIDDLE_SCALE = 0.02, 0.05


def int8_layer(seed: int, *shape: int) -> tuple[NDArray[np.int8], Floats, Floats]:
    """Integers, the scale and the bias of each output."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.005, 0.01, shape[0]).astype(np.float32)
    return rng.integers(-127, 128, shape).astype(np.int8), scale, rng.standard_normal(shape[0]).astype(np.float32)


INT8_CONV, INT8_HEAD = int8_layer(0, 6, 3, 3, 3), int8_layer(1, 3, 6, 1, 1)
INT8_DEPTH = int8_layer(2, 6, 1, 3, 3)


def int8_bytes() -> bytes:
    """conv, head and depth: tag, integers, bias, the scales of the weights, the input and the int8 output."""
    parts = b""
    for (integers, scale, bias), has_bias, steps in (
        (INT8_CONV, True, [INPUT_SCALE, MIDDLE_SCALE]), (INT8_HEAD, True, [MIDDLE_SCALE]),
        (INT8_DEPTH, False, [MIDDLE_SCALE]),
    ):
        content = integers.tobytes()
        parts += np.uint32(0x000D4B38).tobytes() + content + bytes(-len(content) % 4)
        parts += bias.tobytes() if has_bias else b""
        parts += (1 / scale).astype(np.float32).tobytes() + (1 / np.array(steps)).astype(np.float32).tobytes()
    return parts


def int8_expected(x: Floats) -> dict[str, Floats]:
    integers, scale, bias = INT8_CONV
    first = accumulate(to_int8(x, INPUT_SCALE), integers, 1, 1)
    middle = to_int8(np.maximum(rescale(first, INPUT_SCALE, scale, bias), np.float32(0)), MIDDLE_SCALE)
    score = rescale(accumulate(middle, INT8_HEAD[0]), MIDDLE_SCALE, *INT8_HEAD[1:])
    none = np.zeros(6, np.float32)
    box = rescale(accumulate(middle, INT8_DEPTH[0], 1, 1, groups=6), MIDDLE_SCALE, INT8_DEPTH[1], none)
    return {"score": score, "box": box}


@pytest.mark.parametrize("shape", [(3, 32, 48), (3, 5, 7), (3, 1, 1)])
def test_int8_outputs_are_exactly_what_integers_give(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    write_net(tmp_path, INT8_PARAM, int8_bytes())
    run = open_net(tmp_path, precision="int8").run(picture(*shape))
    for name, values in int8_expected(picture(*shape)).items():
        np.testing.assert_allclose(run.output(name), values, rtol=1e-5, atol=1e-5)


def test_int8_with_packed_kernels_is_near(tmp_path: Path) -> None:
    """What the files give when they are opened as another precision: ncnn then packs, and its kernels round more."""
    write_net(tmp_path, INT8_PARAM, int8_bytes())
    x = picture(3, 32, 48)
    for precision in ("fp32", "fp16"):
        run = open_net(tmp_path, precision=precision).run(x)
        for name, values in int8_expected(x).items():
            off = run.output(name) - values
            assert np.sqrt((off**2).mean() / (values**2).mean()) < 0.02, name


def test_int8_weights_cut_anywhere_are_named(tmp_path: Path) -> None:
    for cut in range(0, len(int8_bytes()), 3):
        write_net(tmp_path, INT8_PARAM, int8_bytes()[:cut])
        with pytest.raises(EngineError, match=r"net\.bin: .*copy the bundle again"):
            open_net(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("8=102", "8=103", r"param: .*layer conv has 8=103, which is unknown for Convolution"),
        ("8=102", "8=1", r"param: .*layer conv has 8=1, which is unknown"),
        ("8=102", "8=-1", r"param: .*layer conv has 8=-1"),
        ("8=102", "8=2", r"bin: does not fit"),
        ("8=102", "8=0", r"bin: .*layer conv has int8 weights, unlike its 8="),
        ("8=2", "", r"param: .*layer conv gives int8 to head, which takes float"),
        ("8=2", "8=102", r"param: .*layer head gives int8 to the net's caller"),
        ("8=1\n", "8=2\n", r"param: .*layer depth has 8=2, which is unknown for ConvolutionDepthWise"),
        ("7=6", "7=3", r"bin: "),
        ("7=6", "7=4", r"param: .*layer depth has 4 groups for 6 outputs"),
        ("7=6", "7=0", r"param: .*layer depth has 0 groups"),
        ("Split                 split  1 2 f f0 f1", "ReLU split 1 2 f f0 f1", r"param: .*gives int8 to split"),
        ("6=18", "6=21", r"bin: "),
        ("5=1 6=18", "5=0 6=18", r"bin: "),
    ],
)
def test_a_damaged_int8_param_is_named_with_the_reason(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert old in INT8_PARAM
    write_net(tmp_path, INT8_PARAM.replace(old, new, 1), int8_bytes())
    with pytest.raises(EngineError, match=rf"net\.{reason}"):
        open_net(tmp_path)


# Counted from the end: depth's input scale, one of its weight scales, and head's input scale before all of depth.
@pytest.mark.parametrize(
    ("offset", "reason"),
    [(-4, "layer depth has no positive input"), (-8, "layer depth has no positive weight"),
     (-92, "layer head has no positive input")],
)
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_a_scale_that_is_no_positive_number_is_named(tmp_path: Path, offset: int, reason: str, value: float) -> None:
    content = bytearray(int8_bytes())
    start = len(content) + offset
    content[start : start + 4] = np.float32(value).tobytes()
    write_net(tmp_path, INT8_PARAM, bytes(content))
    with pytest.raises(EngineError, match=rf"net\.bin: .*{reason} scale"):
        open_net(tmp_path)


def test_float_weights_in_an_int8_layer_are_refused(tmp_path: Path) -> None:
    write_net(tmp_path, INT8_PARAM, bytes(4) + int8_bytes()[4:])
    with pytest.raises(EngineError, match=r"net\.bin: .*layer conv has no int8 weights"):
        open_net(tmp_path)


def damaged(seed: int) -> tuple[str, bytes]:
    """An int8 net with a few characters, a field, the order of its lines or bytes of its weights changed."""
    dice = random.Random(seed)
    param, content = INT8_PARAM, bytearray(int8_bytes())
    how = dice.choice([_characters, _fields, _lines, None])
    if how is None:
        for _ in range(dice.randint(1, 9)):
            content[dice.randrange(len(content))] = dice.randrange(256)
    else:
        param = how(param, dice)
    return param, bytes(content)


def _characters(param: str, dice: random.Random) -> str:
    text = list(param)
    digits = [i for i, character in enumerate(text) if character.isdigit()]
    for i in dice.sample(digits, dice.randint(1, 4)):
        text[i] = dice.choice("0123456789- ")
    return "".join(text)


def _fields(param: str, dice: random.Random) -> str:
    lines = [line.split() for line in param.splitlines()]
    fields = dice.choice(lines[1:])
    if dice.random() < 0.5:
        fields.pop(dice.randrange(len(fields)))
    else:
        fields[dice.randrange(len(fields))] = dice.choice(dice.choice(lines))
    return "\n".join(map(" ".join, lines))


def _lines(param: str, dice: random.Random) -> str:
    lines: Sequence[str] = param.splitlines()
    return "\n".join([lines[0], *dice.sample(lines[1:], len(lines) - 1)])


_RUN_DAMAGED = """
import sys
from pathlib import Path
from edgeface.errors import EngineError
from test_engine_ncnn import damaged, open_net, picture, write_net

refused = 0
for seed in range(int(sys.argv[2])):
    write_net(Path(sys.argv[1]), *damaged(seed))
    print(seed, flush=True)
    try:
        session = open_net(Path(sys.argv[1]), precision="int8")
        run = session.run(picture(3, 8, 12))
        for name in sorted(session.outputs):
            run.output(name)
    except EngineError:
        refused += 1
print("refused", refused)
"""


def test_damaged_int8_files_never_end_the_process(tmp_path: Path) -> None:
    count = 200
    done = subprocess.run(
        [sys.executable, "-c", _RUN_DAMAGED, str(tmp_path), str(count)], cwd=Path(__file__).parent,
        capture_output=True, text=True, timeout=120,
    )
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"seed {last}: {done.stderr[-500:]}"
    assert count / 2 < int(last[0].split()[1]) < count


def test_files_of_other_layers_are_counted_where_their_layout_is_known(tmp_path: Path) -> None:
    param = "7767517\n2 2\nInput data 0 1 data\nPReLU slope 1 1 data out 0=3\n"
    write_net(tmp_path, param, bytes(12))
    check_files(tmp_path / "net.param", tmp_path / "net.bin")
    write_net(tmp_path, param, bytes(8))
    with pytest.raises(EngineError, match=r"net\.bin: .*ends within layer slope"):
        check_files(tmp_path / "net.param", tmp_path / "net.bin")
