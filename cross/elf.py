"""What a compiled library asks of the system it is loaded on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgeface.devices.emulation.programs import run

from edgeface.errors import DeviceError
from llvm import Llvm

# What every manylinux system has, by PEP 600, as far as a library in C without C++ may ask for it.
_ALLOWED = re.compile(r"lib(c|m|dl|rt|pthread|gcc_s)\.so\.\d+|ld-linux-aarch64\.so\.1")
# No glibc for aarch64 was in manylinux before this one.
_OLDEST_GLIBC = 17
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Needs:
    """The newest ``glibc`` version (2, N) among its symbols, and the ``libraries`` it is linked to."""

    glibc: tuple[int, int]
    libraries: list[str]

    @property
    def platform(self) -> str:
        """The platform tag, with the older name of the same where there is one."""
        minor = max(self.glibc[1], _OLDEST_GLIBC)
        return f"manylinux_2_{minor}_aarch64" + (".manylinux2014_aarch64" if minor == _OLDEST_GLIBC else "")


def needs(library: Path, llvm: Llvm) -> Needs:
    """Read a library's dynamic section and symbol versions.

    Raises DeviceError for a library that is not of aarch64, or is linked to what not every system has.
    """
    text = run([llvm.readelf, "--file-header", "--dynamic", "--version-info", library],
               what=f"{library.name} cannot be read", timeout_s=_TIMEOUT_S, next_step="build it again")
    machine = re.search(r"Machine:\s+(.+)", text)
    if machine is None or machine[1].strip() != "AArch64":
        raise DeviceError(f"{library.name}: is for {machine[1].strip() if machine else 'no known processor'}, "
                          "not for AArch64: build it with cross/toolchain.cmake")
    libraries = re.findall(r"\(NEEDED\)\s+Shared library: \[(.+?)\]", text)
    strange = next((name for name in libraries if not _ALLOWED.fullmatch(name)), None)
    if strange is not None:
        raise DeviceError(f"{library.name}: needs {strange}, which not every board has: link it statically")
    versions = [(2, int(minor)) for minor in re.findall(r"Name: GLIBC_2\.(\d+)", text)]
    return Needs(max(versions, default=(2, _OLDEST_GLIBC)), libraries)
