"""Checkpoints: round trip, no code from files, damage named, nothing half-written."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import pytest
import torch

from edgeface import weights
from edgeface.errors import CheckpointError, OutputError, UnknownModelError
from edgeface.models import families
from edgeface.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, write_atomically


@pytest.fixture
def checkpoint() -> Checkpoint:
    options = {"width": "0.5x", "channels": 16}
    net = families.get("mos_s").build(**options)
    return Checkpoint("mos_s", options, net.state_dict(), {"ap_easy": 0.5}, {"step": 3}, "research")


def test_round_trip(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "new" / "mos_s.pt"
    save_checkpoint(path, checkpoint)
    again = load_checkpoint(path)
    assert (again.model, again.options, again.metrics, again.licence) == (
        "mos_s", {"width": "0.5x", "channels": 16}, {"ap_easy": 0.5}, "research"
    )
    for name, tensor in again.build().state_dict().items():
        assert torch.equal(tensor, checkpoint.state[name])
    assert not again.build().training
    assert [p.name for p in path.parent.iterdir()] == ["mos_s.pt"]


def test_a_checkpoint_needs_no_suffix(tmp_path: Path, checkpoint: Checkpoint) -> None:
    save_checkpoint(tmp_path / "mine", checkpoint)
    assert load_checkpoint(tmp_path / "mine").model == "mos_s"


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "harmed"),)  # type: ignore[return-value]  # a path, to be harmful

    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(CheckpointError, match=r"evil\.pt"):
        load_checkpoint(path)
    torch.save({"format": "edgeface-checkpoint", "harm": Harm()}, path)
    with pytest.raises(CheckpointError, match=r"evil\.pt"):
        load_checkpoint(path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("keep", [0, 10, 1000, -1])
def test_a_damaged_file_is_named(tmp_path: Path, checkpoint: Checkpoint, keep: int) -> None:
    path = tmp_path / "mos_s.pt"
    save_checkpoint(path, checkpoint)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"mos_s\.pt: damaged"):
        load_checkpoint(path)


def test_one_flipped_byte_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "mos_s.pt"
    save_checkpoint(path, checkpoint)
    content = path.read_bytes()
    ends = [*range(30), *range(len(content) - 110, len(content))]
    for at in (*ends, *random.Random(0).sample(range(len(content)), 60)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(CheckpointError, match=r"mos_s\.pt: damaged"):
            load_checkpoint(path)


def test_a_checkpoint_without_a_hash_is_held_against_its_archive(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "old.pt"
    save_checkpoint(path, checkpoint)
    torch.save(torch.load(path, weights_only=True), path)
    content = path.read_bytes()
    assert load_checkpoint(path).model == "mos_s"
    weight = next(t for name, t in checkpoint.state.items() if t.ndim == 4 and "weight" in name).numpy().tobytes()
    at = content.index(weight) + len(weight) // 2
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(CheckpointError, match=r"old\.pt: damaged.*checksum"):
        load_checkpoint(path)


def test_the_checkpoints_that_come_with_edgeface_still_load() -> None:
    for path in weights.directory().glob("*.pt"):
        load_checkpoint(path).build()


@pytest.mark.parametrize(
    ("name", "value"),
    [("model", 3), ("options", None), ("options", {3: 4}), ("state", []), ("state", {"a": 1}), ("metrics", 0),
     ("quantisation", {"bits": 3}), ("quantisation", 7), ("largest", 3), ("largest", {"a": 1}),
     ("largest", {"backbone.stem.weight": torch.ones(3)})],
)
def test_parts_of_a_wrong_type_are_named(tmp_path: Path, checkpoint: Checkpoint, name: str, value: object) -> None:
    path = tmp_path / "mos_s.pt"
    save_checkpoint(path, checkpoint)
    write_atomically(path, torch.load(path, weights_only=True) | {name: value})
    with pytest.raises(CheckpointError, match=r"mos_s\.pt: "):
        load_checkpoint(path)


@pytest.mark.parametrize("options", [{"channels": "16"}, {"channels": -1}, {"channels": 10**5}, {"depth": 3}])
def test_options_that_build_nothing_are_refused(checkpoint: Checkpoint, options: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="do not fit"):
        Checkpoint("mos_s", {"width": "0.5x", **options}, checkpoint.state).build()


def test_a_pipe_is_no_checkpoint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(CheckpointError, match="is a pipe and no file"):
        load_checkpoint(tmp_path / "pipe.pt")


def test_what_is_not_a_checkpoint_says_so(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match="not an edgeface checkpoint"):
        load_checkpoint(path)
    torch.save({"format": "edgeface-checkpoint", "version": 99}, path)
    with pytest.raises(CheckpointError, match="version 99"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "none.pt")


class _Foreign:
    """What a training script of another program puts into its files."""


def test_files_of_other_programs_are_told_from_damaged_ones(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    for new in (True, False):
        torch.save({"model": _Foreign()}, path, _use_new_zipfile_serialization=new)
        with pytest.raises(CheckpointError, match=r"other\.pth: a PyTorch file of another program"):
            load_checkpoint(path)
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"other\.pth: a PyTorch file of another program, not an edgeface"):
        load_checkpoint(path)


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
            load_checkpoint(tmp_path / "face.pt")


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
