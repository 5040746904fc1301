"""Build edgeface's wheel for aarch64 on any Linux host, without Docker.

clang and lld build the C library against a sysroot of Debian's arm64 headers, made as the emulated root is. The wheel's
platform is then not assumed but read from what the library needs, and its code is checked to be ARMv8.0-A.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import click
from edgeface.devices.emulation.programs import run

from edgeface.atomic import replacing
from edgeface.errors import DeviceError, OutputError
from elf import needs
from lint_isa import lint
from llvm import Llvm, find_llvm
from prerequisites import build_tools, sysroot
from reporting import Script, progress

TREE = Path(__file__).resolve().parents[1]
LIBRARY = "edgeface/runtime/kernels/libedgeface_kernels.so"
# The build system's own door (PEP 517), as pip calls it: pip itself would take longer than the build.
BUILD = "import sys; from scikit_build_core.build import build_wheel; build_wheel(sys.argv[1])"
_BUILD_TIMEOUT_S = 600.0


def build_wheel(out: Path, llvm: Llvm) -> Path:
    """Build, check and name the wheel; the path of it in ``out``, which is made. Raises DeviceError, OutputError."""
    built_with, linked_with = build_tools(TREE), sysroot()
    environment = {
        **os.environ,
        "EDGEFACE_CROSS_SYSROOT": str(linked_with),
        **{f"EDGEFACE_CROSS_{name.upper()}": str(getattr(llvm, name))
           for name in ("clang", "lld", "ar", "ranlib", "strip")},
        "SKBUILD_CMAKE_ARGS": f"-DCMAKE_TOOLCHAIN_FILE={TREE / 'cross' / 'toolchain.cmake'}",
        # Without it scikit-build-core makes a wheel without the library where that does not compile.
        "SKBUILD_WHEEL_CMAKE": "true",
        # Without checkpoints, whatever the shell asks for.
        "EDGEFACE_WHEEL": "",
        "PYTHONPATH": str(built_with),
        "PATH": f"{built_with / 'bin'}:{os.environ.get('PATH', os.defpath)}",
    }
    # Flags meant for the host's compiler.
    for name in ("CC", "CXX", "CFLAGS", "CPPFLAGS", "LDFLAGS", "CMAKE_GENERATOR"):
        environment.pop(name, None)
    with tempfile.TemporaryDirectory() as scratch:
        progress("building with clang and lld")
        run([sys.executable, "-c", BUILD, scratch], what="the wheel cannot be built", timeout_s=_BUILD_TIMEOUT_S,
            next_step="mend what the compiler names", environment=environment, directory=TREE)
        built = next(Path(scratch).glob("edgeface-*.whl"))
        with zipfile.ZipFile(built) as archive:
            if LIBRARY not in archive.namelist():
                raise DeviceError("the wheel was built without the C library: see that CMakeLists.txt builds")
            library = Path(archive.extract(LIBRARY, scratch))
        asked = needs(library, llvm)
        progress(f"{library.name}: {library.stat().st_size} bytes, glibc {asked.glibc[0]}.{asked.glibc[1]} "
                 f"with {', '.join(asked.libraries) or 'no library'}")
        report = lint(library, llvm)
        if report.newer:
            first = report.newer[0]
            raise DeviceError(
                f"{library.name}: {len(report.newer)} instructions beyond ARMv8.0-A, first {first.text} in "
                f"{first.function}: build it with cross/toolchain.cmake alone"
            )
        progress(f"{report.instructions} instructions, none beyond ARMv8.0-A")
        return retag(built, asked.platform, out)


def retag(wheel: Path, platform: str, out: Path) -> Path:
    """A copy of ``wheel`` in ``out`` that says it is for ``platform``, in its name, its WHEEL file and its RECORD."""
    name, version, python, abi, _ = wheel.name[: -len(".whl")].split("-")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be made: {error.strerror}: choose another --out") from None
    target = out / f"{name}-{version}-{python}-{abi}-{platform}.whl"
    with replacing(target) as temporary, zipfile.ZipFile(wheel) as source, \
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as copy:
        info = f"{name}-{version}.dist-info"
        described = source.read(f"{info}/WHEEL").decode().splitlines()
        tags = [f"Tag: {python}-{abi}-{each}" for each in platform.split(".")]
        content = "\n".join([line for line in described if line and not line.startswith("Tag:")] + tags) + "\n"
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        entry = f"{info}/WHEEL,sha256={digest},{len(content)}"
        for item in source.infolist():
            if item.filename == f"{info}/WHEEL":
                copy.writestr(item, content)
            elif item.filename == f"{info}/RECORD":
                lines = source.read(item).decode().splitlines()
                copy.writestr(item, "\n".join(
                    entry if line.startswith(f"{info}/WHEEL,") else line for line in lines) + "\n")
            else:
                with source.open(item) as reading, copy.open(item, "w") as writing:
                    shutil.copyfileobj(reading, writing)
    return target


@click.command(cls=Script)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("dist"), show_default=True,
              help="Folder for the wheel.")
def command(out: Path) -> None:
    """Build edgeface-*-py3-none-manylinux_2_*_aarch64.whl from this clone. Needs clang, lld, llvm and apt."""
    click.echo(build_wheel(out, find_llvm()))


if __name__ == "__main__":
    command()
