"""Look for instructions beyond ARMv8.0-A, which a Cortex-A53 or A72 answers with SIGILL.

A library is disassembled twice: by a decoder that knows ARMv8.0-A with floating point and NEON and nothing else, and,
where that one fails, by one that knows everything and can name what was found.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import click
from edgeface.devices.emulation.programs import run
from edgeface.devices.emulation.wheels import ELF_HEAD, is_aarch64

from edgeface.errors import DeviceError
from llvm import Llvm, find_llvm
from reporting import Script

_BASE = "+v8a,+fp-armv8,+neon"
_TIMEOUT_S = 120.0
_SYMBOL = re.compile(r"^[0-9a-f]+ <(.+)>:$")
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S.*)$")
_UNKNOWN = "<unknown>"
_GIVE = "give an aarch64 .so, .o or wheel"


@dataclass(frozen=True)
class Newer:
    """An instruction that ARMv8.0-A has not: where it is, in which function, and what it is called."""

    address: int
    function: str
    text: str


@dataclass(frozen=True)
class Report:
    """How many instructions were decoded, and those beyond ARMv8.0-A."""

    instructions: int
    newer: list[Newer]


def lint(library: Path, llvm: Llvm) -> Report:
    """Decode every instruction of an aarch64 library or object. Raises DeviceError for what holds none."""
    with library.open("rb") as file:
        head = file.read(ELF_HEAD)
    base = _decode(library, llvm, _BASE) if is_aarch64(head) else {}
    if not base:
        raise DeviceError(f"{library}: no code of aarch64 in it: {_GIVE}")
    unknown = [address for address, (_, text) in base.items() if _UNKNOWN in text]
    names = _decode(library, llvm, "+all") if unknown else {}
    newer = [Newer(address, base[address][0], names.get(address, base[address])[1]) for address in unknown]
    return Report(len(base), newer)


def _decode(library: Path, llvm: Llvm, features: str) -> dict[int, tuple[str, str]]:
    text = run(
        [llvm.objdump, "--disassemble", "--no-show-raw-insn", "--triple=aarch64-linux-gnu", f"--mattr={features}",
         library],
        what=f"{library} cannot be disassembled", timeout_s=_TIMEOUT_S, next_step=_GIVE,
    )
    decoded: dict[int, tuple[str, str]] = {}
    function = ""
    for line in text.splitlines():
        if symbol := _SYMBOL.match(line):
            function = symbol[1]
        elif instruction := _INSTRUCTION.match(line):
            decoded[int(instruction[1], 16)] = function, " ".join(instruction[2].split())
    return decoded


def lint_file(path: Path, llvm: Llvm) -> dict[str, Report]:
    """The report of a library or, for a wheel, of every library in it, by name. Raises DeviceError."""
    if not path.is_file():
        raise DeviceError(f"{path}: no such file: {_GIVE}")
    if path.suffix != ".whl":
        return {str(path): lint(path, llvm)}
    reports: dict[str, Report] = {}
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if re.search(r"\.so(\.\d+)*$", name):
                reports[name] = lint(Path(archive.extract(name, scratch)), llvm)
    if not reports:
        raise DeviceError(f"{path}: no compiled library in it: build it with python cross/build_wheel.py")
    return reports


@click.command(cls=Script)
@click.argument("files", nargs=-1, required=True, metavar="FILE.so|WHEEL...", type=click.Path(path_type=Path))
def command(files: tuple[Path, ...]) -> None:
    """Disassemble libraries, or those in wheels, and name every instruction beyond ARMv8.0-A; exits with 1 for one."""
    llvm = find_llvm()
    found = 0
    for path in files:
        for name, report in lint_file(path, llvm).items():
            for each in report.newer:
                click.echo(f"{name}: {each.address:#x} in {each.function}: {each.text}: beyond ARMv8.0-A")
            found += len(report.newer)
            if not report.newer:
                click.echo(f"{name}: {report.instructions} instructions, none beyond ARMv8.0-A")
    if found:
        raise SystemExit(1)


if __name__ == "__main__":
    command()
