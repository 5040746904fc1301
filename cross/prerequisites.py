"""What the scripts of this folder need beside a compiler, made at the first call and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from edgeface.devices.emulation import cache_directory, debian
from edgeface.devices.emulation.parts import Part
from edgeface.devices.emulation.programs import locked, run

from edgeface.errors import DeviceError
from reporting import progress

# libgcc's start files and helpers, and glibc's headers; the version is that of Debian bookworm's gcc.
_PACKAGES = ("libc6-dev", "libgcc-12-dev", "linux-libc-dev")
_CMAKE = ("cmake>=3.21", "ninja>=1.11")
_PIP_TIMEOUT_S = 600.0
_KERNEL = ("linux-image-arm64",)
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


def sysroot() -> Path:
    """arm64 headers and libraries to link against. Raises DeviceError, InstallError, OutputError."""

    def make(directory: Path) -> dict[str, str]:
        packages = debian.fetch(_PACKAGES, _home() / ".debian-sysroot", progress)
        progress(f"unpacking {len(packages)} packages")
        debian.unpack(packages, directory)
        return {package.path.name: package.sha256 for package in packages}

    return _kept("sysroot", "the sysroot", [debian.SUITE, _PACKAGES], make)


def build_tools(tree: Path) -> Path:
    """The build system that pyproject.toml asks for, with CMake and Ninja, as a folder for PYTHONPATH.

    pip would make the same anew for each build, which takes longer than the build. Raises DeviceError, OutputError.
    """
    project = msgspec.toml.decode((tree / "pyproject.toml").read_bytes())
    wanted = [*project["build-system"]["requires"], *_CMAKE]

    def make(directory: Path) -> dict[str, str]:
        progress("installing the build system")
        run([sys.executable, "-m", "pip", "install", "--quiet", "--target", directory, *wanted],
            what="the build system cannot be installed", timeout_s=_PIP_TIMEOUT_S,
            next_step="see that the network works, then try again",
            environment={**os.environ, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
        return {}

    name = f"build-tools-{sys.implementation.cache_tag}"
    return _kept(name, "the build system", [wanted, sys.version, sys.executable], make)


def kernel(module: str) -> Path:
    """A folder with Debian's arm64 kernel, ``vmlinuz``, and one of its modules with all that this needs: NN-NAME.ko,
    to be loaded in the order of their names. Raises DeviceError, InstallError, OutputError."""

    def make(directory: Path) -> dict[str, str]:
        packages = debian.fetch(_KERNEL, _home() / ".debian-kernel", progress)
        # The rest of what apt brings would install a kernel and make it an initramfs.
        images = [package for package in packages if re.match(r"linux-image-\d", package.path.name)]
        unpacked = directory / "unpacked"
        progress("unpacking the kernel")
        debian.unpack(images, unpacked)
        shutil.copyfile(next(unpacked.glob("boot/vmlinuz-*")), directory / "vmlinuz")
        for number, path in enumerate(load_order(module, unpacked / "lib" / "modules")):
            shutil.copyfile(path, directory / f"{number:02}-{path.name}")
        shutil.rmtree(unpacked)
        return {package.path.name: package.sha256 for package in images}

    return _kept(f"kernel-{module}", "the kernel", [debian.SUITE, _KERNEL, module], make)


def load_order(module: str, directory: Path) -> list[Path]:
    """A module's file after those that it needs, as each file names them: depmod's list is made at installation."""
    files = {path.stem.replace("-", "_"): path for path in directory.rglob("*.ko")}
    ordered: list[Path] = []

    def add(name: str) -> None:
        path = files.get(name.replace("-", "_"))
        if path is None:
            raise DeviceError(f"Debian's kernel has no module {name}: see what its package is made of now")
        if path in ordered:
            return
        found = _DEPENDS.search(path.read_bytes())
        for needed in (found[1].decode().split(",") if found and found[1] else []):
            add(needed)
        ordered.append(path)

    add(module)
    return ordered


def _home() -> Path:
    return cache_directory().parent / "cross"


def _kept(name: str, title: str, made_for: object, make: Callable[[Path], dict[str, str]]) -> Path:
    part = Part(_home() / name)
    with locked(_home() / "lock", progress):
        part.ensure(hashlib.sha256(msgspec.json.encode(made_for)).hexdigest(), title, make, progress)
    return part.directory
