"""Small aarch64 objects and libraries, compiled on any host for tests of the cross-build."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgeface.errors import InstallError
from llvm import Llvm, find_llvm


def llvm_or_skip() -> Llvm:
    """The host's clang and LLVM tools; the test is skipped where there are none."""
    try:
        return find_llvm()
    except InstallError as error:
        pytest.skip(str(error))


def compile_c(llvm: Llvm, source: str, out: Path, *flags: str, target: str = "aarch64-linux-gnu") -> Path:
    """Compile one C file that uses no header of a system; with "-shared" among the flags it is linked by lld."""
    path = out.with_suffix(".c")
    path.write_text(source)
    kind = ["-nostdlib", f"--ld-path={llvm.lld}", "-fPIC"] if "-shared" in flags else ["-c"]
    argv = [llvm.clang, f"--target={target}", "-O2", "-ffreestanding", *kind, path, "-o", out, *flags]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return out


def without_programs(monkeypatch: pytest.MonkeyPatch, folder: Path, *kept: str) -> None:
    """A PATH on which there is nothing but the programs ``kept``."""
    folder.mkdir()
    for name in kept:
        found = shutil.which(name)
        assert found is not None, f"{name} is needed for this test"
        (folder / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))
