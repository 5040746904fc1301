"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of annotated face data beside the repository; tests that need it are skipped where it is not."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no folder ../shared/data beside the repository")
    return SHARED_DATA


@pytest.fixture(scope="session")
def astronaut() -> NDArray[np.uint8]:
    """scikit-image's astronaut, uint8 (512, 512, 3) BGR, read-only: one face, in the public domain."""
    from skimage.data import astronaut as astronaut_rgb

    picture = np.ascontiguousarray(astronaut_rgb()[:, :, ::-1])
    picture.setflags(write=False)
    return picture


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small MOS with random weights, whose raw maps spread widely enough to give some faces at score 0.5."""
    import torch

    from edgeface.models.checkpoint import Checkpoint, save
    from edgeface.models.mos import MOS

    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    options = {"width": "0.5x", "channels": 16}
    net = MOS("0.5x", 16).train()
    with torch.no_grad():
        for _ in range(20):     # batch norm must know the range of what it sees, or the maps drown in one constant
            net(torch.randn(4, 3, 128, 128, generator=generator))
        for head in net.heads:
            for final in head.final.values():
                final.weight.mul_(30)
            head.final["score"].bias.zero_()
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    save(path, Checkpoint("mos_s", options, net.state_dict(), licence="none needed"))
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, astronaut: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny_checkpoint`` as an fp32 ncnn bundle, made by the real conversion and its parity report."""
    from edgeface.convert.conversion import convert

    folder = tmp_path_factory.mktemp("bundle")
    pictures = folder / "pictures"
    pictures.mkdir()
    cv2.imwrite(str(pictures / "astronaut.png"), astronaut)
    return convert(
        tiny_checkpoint, "ncnn", precision="fp32", out=folder / "tiny-fp32-ncnn", pictures=pictures, size_px=160
    ).directory
