"""Checkpoints: round trip, no code from files, damage named, nothing half-written."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from edgeface.errors import CheckpointError, OutputError, UnknownModelError
from edgeface.models import model
from edgeface.models.checkpoint import Checkpoint, load, save, write_atomically


@pytest.fixture
def checkpoint() -> Checkpoint:
    options = {"width": "0.5x", "channels": 16}
    net = model.get("mos_s")(**options)
    return Checkpoint("mos_s", options, net.state_dict(), {"ap_easy": 0.5}, {"step": 3}, "research")


def test_round_trip(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "new" / "mos_s.pt"
    save(path, checkpoint)
    again = load(path)
    assert (again.model, again.options, again.metrics, again.licence) == (
        "mos_s", {"width": "0.5x", "channels": 16}, {"ap_easy": 0.5}, "research"
    )
    for name, tensor in again.build().state_dict().items():
        assert torch.equal(tensor, checkpoint.state[name])
    assert not again.build().training
    assert [p.name for p in path.parent.iterdir()] == ["mos_s.pt"]


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "harmed"),)  # type: ignore[return-value]

    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(CheckpointError, match=r"evil\.pt"):
        load(path)
    torch.save({"format": "edgeface-checkpoint", "harm": Harm()}, path)
    with pytest.raises(CheckpointError, match=r"evil\.pt"):
        load(path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("keep", [0, 10, 1000, -1])
def test_a_damaged_file_is_named(tmp_path: Path, checkpoint: Checkpoint, keep: int) -> None:
    path = tmp_path / "mos_s.pt"
    save(path, checkpoint)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"mos_s\.pt: damaged"):
        load(path)


def test_what_is_not_a_checkpoint_says_so(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match="not an edgeface checkpoint"):
        load(path)
    torch.save({"format": "edgeface-checkpoint", "version": 99}, path)
    with pytest.raises(CheckpointError, match="version 99"):
        load(path)
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "none.pt")


class _Foreign:
    """What a training script of another program puts into its files."""


def test_files_of_other_programs_are_told_from_damaged_ones(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    for new in (True, False):
        torch.save({"model": _Foreign()}, path, _use_new_zipfile_serialization=new)
        with pytest.raises(CheckpointError, match=r"other\.pth: a PyTorch file of another program"):
            load(path)
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"other\.pth: a PyTorch file of another program, not an edgeface"):
        load(path)


def test_an_onnx_model_is_named(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]), helper.make_tensor_value_info(
        "y", TensorProto.FLOAT, [1]
    )
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [shape[0]], [shape[1]])
    for producer in ("", "pytorch"):
        onnx.save(helper.make_model(graph, producer_name=producer), tmp_path / "face.pt")
        with pytest.raises(CheckpointError, match=r"face\.pt: an ONNX model, and no checkpoint"):
            load(tmp_path / "face.pt")


def test_weights_of_another_network_are_refused(checkpoint: Checkpoint) -> None:
    wider = Checkpoint("mos_s", {"width": "0.5x", "channels": 32}, checkpoint.state)
    with pytest.raises(CheckpointError, match="do not fit"):
        wider.build()
    with pytest.raises(UnknownModelError, match="mos_s"):
        Checkpoint("mos_x", {}, checkpoint.state).build()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mos_s.pt"
    write_atomically(path, {"a": 1})
    before = path.read_bytes()

    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"mos_s\.pt.*No space left"):
        write_atomically(path, {"a": 2})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["mos_s.pt"]
