"""Fixtures of the tests that run on a board: one worker after the other, every bundle, pictures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import pytest

from device_option import DEVICES, start
from device_subjects import FP32, SHIPPED, SIZE_PX, Device, Image, Subject, astronauts, dev_pictures
from edgeface.bundle import read_bundle, sha256_of
from edgeface.errors import MissingExtraError
from edgeface.runtime import catalog


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        names = metafunc.config.stash[DEVICES].names
        metafunc.parametrize("device", names, indirect=True, scope="session")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    """A test of what is not installed here, an engine or the conversion, is skipped and says what to install."""
    with _missing_extras_skip():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """As above, for what a test itself needs."""
    with _missing_extras_skip():
        return (yield)


@contextmanager
def _missing_extras_skip() -> Iterator[None]:
    try:
        yield
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> Device:
    """A worker of the board that --device names, or of this machine."""
    devices = request.config.stash[DEVICES]
    start(devices, lambda _line: None)
    return Device(request.param, devices)


@pytest.fixture(scope="session")
def fp32_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MOS-S in float32 for ncnn, converted from the checkpoint; kept in the cache for as long as nothing changes."""
    from edgeface import convert

    checkpoint = catalog.shipped_checkpoints()["mos_s"]
    sources = sorted(Path(convert.__file__).parent.glob("*.py"))
    key = hashlib.sha256("".join(map(sha256_of, [checkpoint, *sources])).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeface" / "tests"
    out = cache / f"mos_s-fp32-ncnn-{key}"
    if not out.is_dir():
        pictures = tmp_path_factory.mktemp("fp32") / "pictures"
        pictures.mkdir()
        cv2.imwrite(str(pictures / "0.png"), astronauts()[0])
        convert.convert(checkpoint, "ncnn", precision="fp32", out=out, pictures=pictures, size_px=SIZE_PX)
    return out


@pytest.fixture(scope="session", params=[*SHIPPED, FP32])
def subject(request: pytest.FixtureRequest) -> Subject:
    """Every bundle that comes with the package, and one in float32."""
    name: str = request.param
    directory: Path = request.getfixturevalue("fp32_bundle") if name == FP32 else catalog.find(name)
    return Subject(name, directory, read_bundle(directory))


@pytest.fixture(scope="session")
def pictures() -> list[Image]:
    """Of many faces and few."""
    return dev_pictures()
