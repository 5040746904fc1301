"""The ncnn adapter on a net whose outputs NumPy computes as well: what it promises, and what it refuses."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeface.errors import EngineError, MissingExtraError
from edgeface.runtime.engines import Options, Session, engine
from edgeface.runtime.engines.ncnn_files import check_files
from ncnn_nets import PARAM, Floats, expected, open_net, picture, weight_bytes, write_net


@pytest.fixture
def session(tmp_path: Path) -> Session:
    write_net(tmp_path)
    return open_net(tmp_path)


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


def test_files_of_other_layers_are_counted_where_their_layout_is_known(tmp_path: Path) -> None:
    param = "7767517\n2 2\nInput data 0 1 data\nPReLU slope 1 1 data out 0=3\n"
    write_net(tmp_path, param, bytes(12))
    check_files(tmp_path / "net.param", tmp_path / "net.bin")
    write_net(tmp_path, param, bytes(8))
    with pytest.raises(EngineError, match=r"net\.bin: .*ends within layer slope"):
        check_files(tmp_path / "net.param", tmp_path / "net.bin")
