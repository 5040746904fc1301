"""The TFLite adapter on small nets: what it promises, and what it refuses."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeface.errors import EngineError, MissingExtraError
from edgeface.runtime.engines import Options, Session, engine
from edgeface.runtime.engines.tflite_files import check_tflite
from edgeface.runtime.preprocess import signed

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

from edgeface.convert.tflite import tflite_bytes

from tflite_nets import INPUT, Floats, Net, quantised, run_onnx


def small() -> Net:
    net = Net(1, 3, 8, 8)
    features = net.op("Relu", [net.conv(INPUT, 3, 8, 3, 1)], ["features"])
    net.conv(features, 8, 1, 1, out="score")
    net.conv(features, 8, 4, 1, out="box")
    return net


MODEL = small().model("features", "score", "box")


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def planes(pixels: NDArray[np.uint8]) -> Floats:
    return np.ascontiguousarray((pixels.transpose(2, 0, 1).astype(np.float32) - 128) / 128)


INT8_MODEL = quantised(MODEL, planes(picture(8, 8)))
CONTENT = {
    "fp32": tflite_bytes(MODEL, precision="fp32"), "fp16": tflite_bytes(MODEL, precision="fp16"),
    "int8": tflite_bytes(INT8_MODEL, precision="int8"),
}


def open_net(directory: Path, content: bytes = CONTENT["fp32"], input_name: str = INPUT, threads: int = 1) -> Session:
    (directory / "net.tflite").write_bytes(content)
    return engine.get("tflite")(directory, ["net.tflite"], input_name, Options(threads))


def expected(pixels: NDArray[np.uint8], precision: str = "fp32") -> dict[str, Floats]:
    model = type(MODEL).FromString((INT8_MODEL if precision == "int8" else MODEL).SerializeToString())
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for i in (2, 3):
            value.type.tensor_type.shape.dim[i].dim_param = f"side {i}"
    return run_onnx(model, planes(pixels))


def given(session: Session, pixels: NDArray[np.uint8]) -> NDArray[np.int8] | Floats:
    return signed(pixels) if session.takes == "pixels" else planes(pixels)


# Bounds of rounding: float32, float16 weights, and one level of int8 and what one of the features makes of the scores.
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("fp16", 5e-3), ("int8", 0.06)])
@pytest.mark.parametrize("threads", [1, 2])
def test_outputs_are_what_onnxruntime_computes(tmp_path: Path, precision: str, bound: float, threads: int) -> None:
    session = open_net(tmp_path, CONTENT[precision], threads=threads)
    assert session.outputs == {"features", "score", "box"}
    assert session.takes == ("pixels" if precision == "int8" else "planes")
    # More sizes than interpreters are kept, some of them twice.
    for height, width in ((8, 8), (32, 64), (64, 32), (1, 1), (5, 7), (32, 64), (8, 8), (96, 64)):
        pixels = picture(height, width)
        run = session.run(given(session, pixels))
        for name, values in expected(pixels, precision).items():
            out = run.output(name)
            assert out.dtype == np.float32
            assert out.flags.c_contiguous
            np.testing.assert_allclose(out, values, atol=bound)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_outputs_and_runs_do_not_disturb_each_other(tmp_path: Path, precision: str) -> None:
    session = open_net(tmp_path, CONTENT[precision])
    pictures = [picture(8, 8), picture(8, 8, 1), picture(16, 8, 2)]
    runs = [session.run(given(session, pixels)) for pixels in pictures]
    outputs = [run.output("score") for run in runs]
    kept = [out.copy() for out in outputs]
    outputs[0][...] = 1e9
    for out, run, before in zip(outputs[1:], runs[1:], kept[1:], strict=True):
        np.testing.assert_array_equal(out, before)
        np.testing.assert_array_equal(run.output("score"), before)
    np.testing.assert_array_equal(runs[0].output("score"), kept[0])
    fresh = session.run(given(session, pictures[0]))
    np.testing.assert_array_equal(fresh.output("box"), runs[0].output("box"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_raw_output_is_the_net_s_own_with_its_scale(tmp_path: Path, precision: str) -> None:
    session = open_net(tmp_path, CONTENT[precision])
    run = session.run(given(session, picture(16, 8)))
    raw, out = run.raw("features"), run.output("features")
    assert raw.values.shape == out.shape == (8, 16, 8)
    assert raw.values.transpose(1, 2, 0).flags.c_contiguous     # it lies (H, W, C), as TFLite has it
    assert (raw.values.dtype, raw.scale is None) == ((np.int8, False) if precision == "int8" else (np.float32, True))
    np.testing.assert_array_equal(raw.real(), out)
    if raw.scale is not None:
        np.testing.assert_array_equal(raw.values * np.float32(raw.scale), out)
    out[...] = 1e9
    np.testing.assert_array_equal(run.output("features"), raw.real())


def test_an_output_outlives_its_run_and_its_session(tmp_path: Path) -> None:
    out = open_net(tmp_path).run(planes(picture(64, 64))).output("features")
    gc.collect()
    others = [open_net(tmp_path).run(planes(picture(64, 64, seed))).output("features") for seed in range(1, 5)]
    np.testing.assert_allclose(out, expected(picture(64, 64))["features"], atol=1e-5)
    assert len(others) == 4


def test_threads_may_share_a_session(tmp_path: Path) -> None:
    session = open_net(tmp_path, CONTENT["int8"])
    pictures = [picture(16 + 8 * (seed % 5), 32, seed) for seed in range(40)]
    alone = [session.run(signed(pixels)).output("score") for pixels in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda pixels: session.run(signed(pixels)).output("score"), pictures))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_file_may_go_once_the_net_is_open(tmp_path: Path) -> None:
    session = open_net(tmp_path)
    (tmp_path / "net.tflite").write_bytes(b"something else")
    out = session.run(planes(picture(16, 8))).output("score")
    np.testing.assert_allclose(out, expected(picture(16, 8))["score"], atol=1e-5)


def test_only_the_net_s_outputs_can_be_asked_for(tmp_path: Path) -> None:
    run = open_net(tmp_path).run(planes(picture(8, 8)))
    for name in ("data", "nothing", ""):
        with pytest.raises(EngineError, match=r"net\.tflite: has no output .*, only box, features, score"):
            run.output(name)


def test_a_net_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"net\.tflite: its inputs are data, not pixels: convert it again"):
        open_net(tmp_path, input_name="pixels")
    with pytest.raises(EngineError, match="one file, not 2"):
        engine.get("tflite")(tmp_path, ["net.tflite", "net.bin"], INPUT, Options())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x.astype(np.float64), lambda x: x.transpose(0, 2, 1), lambda x: x[:, ::2], lambda x: x[0],
        lambda x: x[None], lambda x: x[:, :0], lambda x: (x * 255).astype(np.uint8),
    ],
)  # fmt: skip
def test_planes_of_another_kind_are_refused(tmp_path: Path, spoil: Callable[[Floats], NDArray[np.generic]]) -> None:
    with pytest.raises(EngineError, match=r"net\.tflite: an input must be contiguous float32 \(C, H, W\), not"):
        open_net(tmp_path).run(spoil(planes(picture(8, 12))))


@pytest.mark.parametrize("spoil", [planes, lambda x: x[:, ::2], lambda x: x[0], lambda x: x.view(np.uint8)])
def test_pixels_of_another_kind_are_refused(
    tmp_path: Path, spoil: Callable[[NDArray[np.int8]], NDArray[np.generic]]
) -> None:
    with pytest.raises(EngineError, match=r"net\.tflite: an input must be contiguous int8 \(H, W, 3\), not"):
        open_net(tmp_path, CONTENT["int8"]).run(spoil(signed(picture(8, 12))))


def test_a_wrong_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"takes height x width x channels any x any x 3, not \(8, 8, 4\)"):
        open_net(tmp_path).run(np.zeros((4, 8, 8), np.float32)).output("score")
    session = open_net(tmp_path, tflite_bytes(MODEL, precision="fp32", free=()))
    with pytest.raises(EngineError, match=r"takes height x width x channels 8 x 8 x 3, not \(8, 16, 3\)"):
        session.run(planes(picture(8, 16))).output("score")
    np.testing.assert_allclose(
        session.run(planes(picture(8, 8))).output("score"), expected(picture(8, 8))["score"], atol=1e-5
    )


def test_a_size_that_the_net_cannot_have_is_refused(tmp_path: Path) -> None:
    net = Net(1, 3, 16, 16)
    small = net.op("MaxPool", [INPUT], kernel_shape=[2, 2], strides=[2, 2])
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    net.op("Add", [net.op("Resize", [small, "", scales], **how), INPUT], ["out"])
    session = open_net(tmp_path, tflite_bytes(net.model("out"), precision="fp32"))
    with pytest.raises(EngineError, match=r"net\.tflite: TFLite .*"):
        session.run(planes(picture(9, 16))).output("out")
    assert session.run(planes(picture(10, 16))).output("out").shape == (3, 10, 16)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_file_cut_anywhere_is_named(tmp_path: Path, precision: str) -> None:
    content = CONTENT[precision]
    for cut in range(0, len(content), 7):
        with pytest.raises(EngineError, match=r"net\.tflite: .*copy the bundle again"):
            open_net(tmp_path, content[:cut])


def test_a_damaged_file_is_named_or_still_a_net(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(1500):
        content = bytearray(CONTENT["int8"])
        for at in rng.integers(0, len(content), rng.integers(1, 4)):
            content[at] = rng.integers(0, 256)
        try:
            check_tflite(bytes(content), tmp_path / "net.tflite")
        except EngineError as error:
            texts.append(str(error))
    assert len(texts) > 200
    assert all("net.tflite: " in text and "\n" not in text for text in texts)


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    for content in (b"", b"\0" * 100, b"7767517\n0 0\n", b"\x1c\0\0\0TFL3"):
        with pytest.raises(EngineError, match=r"net\.tflite: .*copy the bundle again"):
            open_net(tmp_path, content)
    (tmp_path / "net.tflite").unlink()
    with pytest.raises(EngineError, match=r"net\.tflite: No such file"):
        engine.get("tflite")(tmp_path, ["net.tflite"], INPUT, Options())


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("ai_edge_litert.interpreter", "tflite_runtime", "tflite_runtime.interpreter"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r'pip install "edgeface\[tflite\]"'):
        open_net(tmp_path)


def test_the_predecessor_s_interpreter_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ai_edge_litert import interpreter

    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", interpreter)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", interpreter)
    out = open_net(tmp_path).run(planes(picture(8, 8))).output("score")
    np.testing.assert_allclose(out, expected(picture(8, 8))["score"], atol=1e-5)
