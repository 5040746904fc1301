"""edgeface's own wheel for the root: the one that is given, one built from the source tree, or the published one."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from edgeface.devices.emulation import wheels
from edgeface.devices.emulation.parts import sha256
from edgeface.devices.emulation.programs import run

from edgeface.errors import DeviceError

_FOLDERS = ("edgeface", "convert", "quantize", "devices")
_FILES = ("CMakeLists.txt", "pyproject.toml", "cross/toolchain.cmake", "cross/build_wheel.py")
_BUILD_TIMEOUT_S = 600.0


def version() -> str:
    """edgeface's own, as installed here."""
    return metadata.version("edgeface")


def source_tree() -> Path | None:
    """The clone that this package is imported from, or was installed from; None where there is none.

    Raises DeviceError when the clone is no longer what was installed: a board would get other code than runs here.
    """
    here = Path(__file__).resolve().parents[2]     # a clone's root, or the folder of the installed package
    if _is_tree(here):
        return here
    came_from = _installed_from()
    if came_from is None or not _is_tree(came_from):
        return None
    if not _is_installed(came_from, here):
        raise DeviceError(f"{came_from}: is no longer what is installed here: pip install it again")
    return came_from


def _is_tree(path: Path) -> bool:
    return (path / "pyproject.toml").is_file() and (path / "cross" / "build_wheel.py").is_file()


def _installed_from() -> Path | None:
    """The folder that pip installed edgeface from, as it notes it (PEP 610)."""
    try:
        url = urlsplit(json.loads(metadata.distribution("edgeface").read_text("direct_url.json") or "{}")["url"])
    except (metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        return None
    return Path(unquote(url.path)) if url.scheme == "file" else None


def _is_installed(tree: Path, package: Path) -> bool:
    """Whether ``package``, edgeface's folder as installed, holds the Python files of ``tree``."""
    for name in _FOLDERS:
        there = package if name == "edgeface" else package / name
        for path in (tree / name).rglob("*.py"):
            installed = there / path.relative_to(tree / name)
            if not installed.is_file() or not filecmp.cmp(path, installed, shallow=False):
                return False
    return True


def source_digest(tree: Path) -> str:
    """A hash over the content of all that a wheel is built from. Raises OSError."""
    digest = hashlib.sha256()
    for path in _sources(tree):
        digest.update(f"{path.relative_to(tree)}\0{sha256(path)}\n".encode())
    return digest.hexdigest()


def _sources(tree: Path) -> Iterator[Path]:
    for name in _FOLDERS:
        found = []
        for folder, folders, files in os.walk(tree / name):
            folders[:] = [each for each in folders if each != "__pycache__"]
            # A library that was built in place is not what the wheel gets.
            found += [Path(folder, file) for file in files if not file.endswith((".pyc", ".so"))]
        yield from sorted(found)
    yield from (tree / name for name in _FILES)


class Own(NamedTuple):
    """Where edgeface's wheel comes from: ``key`` changes when its content would, ``provide`` puts it into a folder."""

    key: str
    doing: str
    provide: Callable[[Path], Path]


def choose(wheel: Path | None) -> Own:
    """The ``wheel`` that is given and was checked, or one of this clone, or the published one of this version.

    ``provide`` raises DeviceError, InstallError, OutputError.
    """
    if wheel is not None:
        return Own(sha256(wheel), f"installing {wheel.name}", lambda _directory: wheel)
    tree = source_tree()
    if tree is not None:
        return Own(source_digest(tree), "building edgeface for aarch64", partial(_build, tree))
    return Own(hashlib.sha256(version().encode()).hexdigest(), f"downloading edgeface {version()}", _published)


def _build(tree: Path, directory: Path) -> Path:
    run(
        [sys.executable, tree / "cross" / "build_wheel.py", "--out", directory],
        what="edgeface's own wheel cannot be built for aarch64", timeout_s=_BUILD_TIMEOUT_S,
        next_step=f"python {tree / 'cross' / 'build_wheel.py'} says more", directory=tree,
    )
    return _only_wheel(directory)


def _published(directory: Path) -> Path:
    try:
        wheels.download([f"edgeface=={version()}"], directory, dependencies=False)
    except DeviceError as error:
        raise DeviceError(
            f"no aarch64 wheel of edgeface {version()} to download: give one with --wheel FILE "
            f"(a clone makes it: python cross/build_wheel.py): {error}"
        ) from None
    return _only_wheel(directory)


def _only_wheel(directory: Path) -> Path:
    found = sorted(directory.glob("edgeface-*.whl"))
    if len(found) != 1:
        raise DeviceError(f"{directory}: {len(found)} wheels of edgeface where one was expected: try again")
    wheels.check_wheel(found[0])
    return found[0]
