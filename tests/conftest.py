"""Fixtures that several test files share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

from device_option import (  # noqa: F401  (pytest finds its hooks here)
    DEVICE_TESTS,
    pytest_addoption,
    pytest_collection,
    pytest_configure,
    pytest_report_header,
    pytest_unconfigure,
)
from loopback_ssh import LoopbackSsh, loopback_ssh

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SHARED_CASES = SHARED_DATA.parent / "cases"

# On a loaded machine drawing an example takes longer than Hypothesis allows, which says nothing of the code.
settings.register_profile("loaded", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run in parallel, a file's tests share a process, for their fixtures; those of a board do, for its workers."""
    for item in items:
        group = DEVICE_TESTS.name if DEVICE_TESTS in item.path.parents else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Workers send their reports as UTF-8, which a captured line with a name that is not UTF-8 would end."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.fixture(scope="session", autouse=True)
def _children_can_be_interrupted() -> None:
    """A shell starts what runs in the background with SIGINT ignored, and every process under it inherits that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """Inputs that failed once, each with a README."""
    if not SHARED_CASES.is_dir():
        pytest.skip("no folder ../shared/cases beside the repository")
    return SHARED_CASES


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
    """An untrained MOS with lively scores and poses, and boxes near their anchors, as a checkpoint, tiny.pt."""
    import torch

    from edgeface.models.checkpoint import Checkpoint, save_checkpoint
    from lively_mos import lively_mos

    net = lively_mos(channels=16)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if ".final.box." in name or ".final.landmarks." in name:
                weight.div_(30)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    options = {"width": "0.5x", "channels": 16}
    save_checkpoint(path, Checkpoint("mos_s", options, net.state_dict(), licence="tests only"))
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny_checkpoint`` as an fp32 ncnn bundle for 160 px, made by the real conversion and its parity report."""
    from edgeface.convert import convert

    from lively_mos import scenes

    folder = tmp_path_factory.mktemp("bundle")
    pictures = folder / "pictures"
    pictures.mkdir()
    for i, scene in enumerate(scenes(2)):
        cv2.imwrite(str(pictures / f"{i}.png"), scene)
    out = folder / "tiny-fp32-ncnn"
    return convert(tiny_checkpoint, "ncnn", precision="fp32", out=out, pictures=pictures, size_px=160).directory


@pytest.fixture(scope="session")
def _ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackSsh]:
    # With a space, as people have them in the paths of their configurations.
    with loopback_ssh(tmp_path_factory.mktemp("ssh") / "lo op") as server:
        yield server


@pytest.fixture
def ssh(_ssh_server: LoopbackSsh) -> LoopbackSsh:
    """A real sshd on loopback whose empty home folder is a board; skips where there is no sshd."""
    _ssh_server.reset()
    return _ssh_server


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def detect(here: Path, tiny_bundle: Path) -> Callable[..., Result]:
    """Runs ``edgeface detect`` in ``here`` with the small bundle."""
    from edgeface.cli import main

    def run(*arguments: str | Path, model: str | Path = tiny_bundle) -> Result:
        return CliRunner().invoke(main, ["detect", "--model", str(model), "--threads", "1", *map(str, arguments)])

    return run
