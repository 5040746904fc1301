"""The onnxruntime adapter on a one-layer graph."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edgeface.errors import EngineError, MissingExtraError
from edgeface.runtime.engines import Options, Session, engine

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    shape = [1, 3, "height", "width"]
    graph = helper.make_graph(
        [helper.make_node("Neg", ["data"], ["minus"]), helper.make_node("Add", ["data", "data"], ["twice"])],
        "net",
        [helper.make_tensor_value_info("data", float32, shape)],
        [helper.make_tensor_value_info(name, float32, shape) for name in ("minus", "twice")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "net.onnx"))
    return tmp_path


def open_net(directory: Path, input_name: str = "data") -> Session:
    return engine.get("onnx")(directory, ["net.onnx"], input_name, Options())


def test_outputs_by_name(directory: Path) -> None:
    session = open_net(directory)
    assert session.outputs == {"minus", "twice"}
    for shape in ((3, 4, 6), (3, 2, 2)):
        x = np.random.default_rng(0).random(shape, np.float32)
        run = session.run(x)
        np.testing.assert_array_equal(run.output("twice"), 2 * x)
        np.testing.assert_array_equal(run.output("minus"), -x)


def test_what_cannot_work_is_refused(directory: Path) -> None:
    session = open_net(directory)
    with pytest.raises(EngineError, match=r"net\.onnx: has no output 'data', only minus, twice"):
        session.run(np.zeros((3, 2, 2), np.float32)).output("data")
    with pytest.raises(EngineError, match=r"net\.onnx: an input must be float32 \(C, H, W\)"):
        session.run(np.zeros((3, 2, 2)))  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(EngineError, match=r"net\.onnx: onnxruntime failed"):
        session.run(np.zeros((4, 2, 2), np.float32)).output("twice")
    with pytest.raises(EngineError, match=r"net\.onnx: its inputs are data, not pixels"):
        open_net(directory, "pixels")


def test_a_damaged_file_is_named(directory: Path) -> None:
    path = directory / "net.onnx"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(EngineError, match=r"net\.onnx: onnxruntime cannot load it"):
        open_net(directory)
    path.unlink()
    with pytest.raises(EngineError, match=r"net\.onnx: onnxruntime cannot load it"):
        open_net(directory)


def test_a_missing_package_names_the_extra(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"edgeface\[convert\]"):
        open_net(directory)
