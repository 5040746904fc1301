"""Published trunks as a start: what is loaded, what is said of it, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeface.errors import CheckpointError
from edgeface.models import families
from edgeface.models.starting import is_archive, load_backbone

TRUNK = Path(__file__).parents[2] / "shared" / "pretrained" / "shufflenetv2_1.0x_nanodet-plus-m_416.npz"


def archive_of(path: Path, width: str, **changes: np.ndarray) -> Path:
    state = families.get("mos_s").build(width=width).state_dict()
    arrays = {name: tensor.numpy() for name, tensor in state.items() if name.startswith("backbone.")}
    np.savez(path, **(arrays | changes))
    return path


def test_the_backbone_alone_is_replaced(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "trunk.npz", "0.5x")
    net = families.get("mos_s").build(width="0.5x")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert is_archive(path)
    assert load_backbone(net, path)["source"] == "unknown"
    with np.load(path) as archive:
        for name, tensor in net.state_dict().items():
            expected = torch.from_numpy(archive[name]) if name in archive.files else before[name]
            assert torch.equal(tensor, expected), name


@pytest.mark.skipif(not TRUNK.is_file(), reason="needs the published trunk, which is not in this checkout")
def test_a_published_trunk_says_its_source_and_licence() -> None:
    made = load_backbone(families.get("mos_s").build(), TRUNK)
    assert made["source"] == "RangiLyu/nanodet"
    assert made["licence"] == "Apache-2.0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone.stem.0.0.weight": np.zeros((8, 3, 3, 3), np.float32)}, "the same trunk and width"),
        ({"backbone.stem.0.0.weight": np.full((24, 3, 3, 3), np.nan, np.float32)}, "not finite"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded(
    changes: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    path = archive_of(tmp_path / "trunk.npz", "0.5x", **changes)
    net = families.get("mos_s").build(width="0.5x")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_backbone(net, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", weight=np.zeros(3))
    with pytest.raises(CheckpointError, match="another trunk's weights"):
        load_backbone(families.get("mos_s").build(width="0.5x"), tmp_path / "other.npz")
    whole = archive_of(tmp_path / "trunk.npz", "0.5x").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    assert not is_archive(tmp_path / "half.npz")
    with pytest.raises(CheckpointError, match="no such file"):
        is_archive(tmp_path / "missing.npz")
