"""All kernels, built with AddressSanitizer and UndefinedBehaviorSanitizer, on random arguments."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "edgeface" / "runtime" / "kernels"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"]
FLAGS = ["-std=gnu11", "-O1", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Werror"]
X86 = platform.machine() in ("x86_64", "AMD64")


@pytest.fixture(scope="module")
def runtime() -> tuple[str, str]:
    """The compiler, and the library that holds its sanitizers; tests are skipped where there is none."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc: sudo apt install gcc")
    done = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True, timeout=60
    )
    path = Path(done.stdout.strip())
    if not path.is_absolute():
        pytest.skip("gcc has no libasan.so: sudo apt install libgcc-12-dev, or that of your gcc's version")
    return compiler, str(path.resolve())


def built(compiler: str, folder: Path, *, avx2: bool) -> Path:
    """The library, of all sources; without ``avx2`` only what every processor of the platform runs."""
    objects = []
    for source in sorted(SOURCES.glob("*.c")):
        own = ["-mavx2"] if source.stem.endswith("_avx2") else []
        if own and not avx2:
            continue
        objects.append(folder / f"{source.stem}.o")
        defined = ["-DEF_WITH_AVX2"] if avx2 else []
        subprocess.run(
            [compiler, *SANITIZE, *FLAGS, *own, *defined, "-c", str(source), "-o", str(objects[-1])],
            check=True, timeout=120,
        )  # fmt: skip
    library = folder / "libedgeface_kernels.so"
    subprocess.run(
        [compiler, *SANITIZE, "-shared", *map(str, objects), "-o", str(library), "-lm"], check=True, timeout=120
    )
    return library


def fuzz(library: Path, sanitizer: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "EDGEFACE_KERNELS": str(library), "LD_PRELOAD": sanitizer, "OPENBLAS_NUM_THREADS": "1",
        # Python frees less than it allocates; and small objects must not share one allocation.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0", "PYTHONMALLOC": "malloc",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, str(ROOT / "tests" / "kernel_fuzz.py"), *arguments],
        env=environment, capture_output=True, text=True, timeout=280, cwd=ROOT / "tests",
    )  # fmt: skip


@pytest.mark.parametrize("avx2", [False, pytest.param(True, marks=pytest.mark.skipif(not X86, reason="not x86"))])
def test_no_kernel_leaves_its_arrays(runtime: tuple[str, str], tmp_path: Path, avx2: bool) -> None:
    compiler, sanitizer = runtime
    library = built(compiler, tmp_path, avx2=avx2)
    done = fuzz(library, sanitizer)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"kernels, C kernels from {library}" in done.stdout


def test_the_sanitizer_would_notice(runtime: tuple[str, str], tmp_path: Path) -> None:
    compiler, sanitizer = runtime
    done = fuzz(built(compiler, tmp_path, avx2=False), sanitizer, "overrun")
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
