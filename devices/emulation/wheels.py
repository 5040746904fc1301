"""Wheels for the arm64 Python of a root, chosen and installed by the host's pip."""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections.abc import Sequence
from email.parser import HeaderParser
from importlib.util import find_spec
from pathlib import Path

from edgeface.devices.emulation.programs import run

from edgeface.errors import DeviceError, InstallError

PYTHON = "3.11"
_GLIBC_MINOR = 36     # bookworm's
ELF_HEAD = 20
_ELF_MACHINE_AARCH64 = 183
_NAME = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(-\d[^-]*)?-(?P<python>[^-]+)-[^-]+-(?P<platform>[^-]+)\.whl")
_EXTRA = re.compile(r"""\s*;\s*\(?\s*extra\s*==\s*["']([\w-]+)["']\s*\)?\s*$""")
_DOWNLOAD_TIMEOUT_S = 900.0
_INSTALL_TIMEOUT_S = 300.0
# The engine that the base install has not, and the device tests need.
_EXTRAS = ("tflite",)


def is_aarch64(head: bytes) -> bool:
    """Whether a file that begins with these ``ELF_HEAD`` bytes is machine code of 64-bit ARM."""
    return head[:4] == b"\x7fELF" and int.from_bytes(head[18:ELF_HEAD], "little") == _ELF_MACHINE_AARCH64


def check_wheel(path: Path) -> None:
    """Raises DeviceError for what is no wheel, none of edgeface, or one for another processor than aarch64.

    Looks at the name and at the compiled files, since a name can be wrong.
    """
    if not path.is_file():
        raise DeviceError(f"{path}: no such file: make the wheel with python cross/build_wheel.py")
    found = _NAME.fullmatch(path.name)
    if found is None or not zipfile.is_zipfile(path):
        raise DeviceError(f"{path}: no wheel: give edgeface-*.whl as python cross/build_wheel.py makes it")
    if found["name"] != "edgeface":
        raise DeviceError(f"{path}: a wheel of {found['name']}: give one of edgeface")
    platforms = found["platform"].split(".")
    machines = [platform for platform in platforms if platform != "any" and not platform.endswith("_aarch64")]
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".so"):
                with archive.open(name) as library:
                    head = library.read(ELF_HEAD)
                if not is_aarch64(head):
                    machines.append(f"another processor ({name})")
    if machines:
        raise DeviceError(
            f"{path}: this wheel is for {machines[0]}, the board's processor is aarch64: "
            "make one with python cross/build_wheel.py"
        )


def requirements(installed: Path) -> list[str]:
    """What the edgeface that is installed in a folder says it needs, with TFLite: lines for pip. Raises DeviceError."""
    path = next(installed.glob("edgeface-*.dist-info/METADATA"), installed / "METADATA")
    try:
        metadata = HeaderParser().parsestr(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DeviceError(f"{path}: cannot be read ({error}): the wheel is damaged: make it again") from None
    wanted: list[str] = []
    for line in metadata.get_all("Requires-Dist") or []:
        extra = _EXTRA.search(line)
        if extra is None:
            wanted.append(line)
        elif extra[1] in _EXTRAS:
            wanted.append(line[: extra.start()])
    return sorted(wanted)


def download(wanted: Sequence[str], directory: Path, *, dependencies: bool = True) -> None:
    """Have pip choose and download wheels into ``directory``. Raises DeviceError, InstallError, OutputError."""
    _pip(
        "download", "--dest", directory, *_target_options(), *([] if dependencies else ["--no-deps"]), *wanted,
        what="wheels for aarch64 cannot be downloaded", timeout_s=_DOWNLOAD_TIMEOUT_S,
        next_step="see that the network works, then try again: what was downloaded is kept",
    )


def install(wheels: Sequence[Path], directory: Path) -> None:
    """Install exactly these wheels into ``directory``, not byte-compiled. Raises DeviceError, OutputError."""
    _pip(
        "install", "--target", directory, "--no-deps", "--no-index", "--no-compile", *_target_options(), *wheels,
        what="wheels for aarch64 cannot be installed", timeout_s=_INSTALL_TIMEOUT_S,
        next_step="remove the board's folder in the cache, then try again",
    )


def _target_options() -> list[str]:
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(_GLIBC_MINOR, 16, -1)] + ["manylinux2014_aarch64"]
    abis = ["cp" + PYTHON.replace(".", ""), "abi3", "none"]
    return [
        "--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON,
        *(word for platform in platforms for word in ("--platform", platform)),
        *(word for abi in abis for word in ("--abi", abi)),
    ]


def _pip(*arguments: str | Path, what: str, timeout_s: float, next_step: str) -> None:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0"}
    for name in ("PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV", "PYTHONPATH"):
        environment.pop(name, None)
    if find_spec("pip") is None:
        raise InstallError(f"{what}: this Python has no pip: {sys.executable} -m ensurepip")
    run([sys.executable, "-m", "pip", "--quiet", *arguments], what=what, timeout_s=timeout_s, next_step=next_step,
        environment=environment)
