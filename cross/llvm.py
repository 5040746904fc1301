"""The host's clang, lld and LLVM tools, all of one version: they know every processor, whatever the host is."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from edgeface.errors import InstallError

NEWEST, OLDEST = 30, 13
_TOOLS = {"clang": "clang", "lld": "ld.lld", "ar": "llvm-ar", "ranlib": "llvm-ranlib", "strip": "llvm-strip",
          "objdump": "llvm-objdump", "readelf": "llvm-readelf"}
_PACKAGES = {"clang": "clang", "lld": "lld"}
_INSTALL = "sudo apt-get install clang-19 lld-19 llvm-19 (or clang lld llvm where there is no version 19)"


@dataclass(frozen=True)
class Llvm:
    """Paths of the programs."""

    clang: Path
    lld: Path
    ar: Path
    ranlib: Path
    strip: Path
    objdump: Path
    readelf: Path


def find_llvm() -> Llvm:
    """The newest version of which every program is there.

    Raises InstallError with the line for apt: what a clang that is there lacks, or all.
    """
    incomplete = ""
    for suffix in (*(f"-{version}" for version in range(NEWEST, OLDEST - 1, -1)), ""):
        found = {field: shutil.which(program + suffix) for field, program in _TOOLS.items()}
        paths = {field: Path(path) for field, path in found.items() if path is not None}
        if len(paths) == len(_TOOLS):
            return Llvm(**paths)
        if "clang" in paths and not incomplete:
            missing = sorted({_PACKAGES.get(field, "llvm") + suffix for field in _TOOLS if field not in paths})
            incomplete = f"{paths['clang'].name} is here without what links: sudo apt-get install {' '.join(missing)}"
    raise InstallError(f"building for aarch64 needs clang, lld and llvm: {incomplete or _INSTALL}")
