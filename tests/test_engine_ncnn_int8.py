"""The ncnn adapter on int8 files: exactly what integers give, and whatever is damaged is named or harmless."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeface.errors import EngineError
from integer_reference import accumulate, rescale, to_int8
from ncnn_nets import Floats, open_net, picture, write_net

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
from ncnn_nets import open_net, picture, write_net
from test_engine_ncnn_int8 import damaged

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
