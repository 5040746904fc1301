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


@pytest.fixture(scope="module")
def plain(runtime: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library with what every processor of the platform runs."""
    folder = tmp_path_factory.mktemp("plain")
    objects = [compiled(runtime[0], source, folder) for source in sources() if not is_avx2(source)]
    return linked(runtime[0], objects, folder)


@pytest.fixture(scope="module")
def with_avx2(runtime: tuple[str, str], plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of all sources; those that know nothing of AVX2 are as in ``plain``."""
    folder, objects = tmp_path_factory.mktemp("avx2"), []
    for source in sources():
        if is_avx2(source):
            objects.append(compiled(runtime[0], source, folder, "-DEF_WITH_AVX2", "-mavx2"))
        elif "EF_WITH_AVX2" in source.read_text():
            objects.append(compiled(runtime[0], source, folder, "-DEF_WITH_AVX2"))
        else:
            objects.append(plain.with_name(f"{source.stem}.o"))
    return linked(runtime[0], objects, folder)


def sources() -> list[Path]:
    return sorted(SOURCES.glob("*.c"))


def is_avx2(source: Path) -> bool:
    return source.stem.endswith("_avx2")


def compiled(compiler: str, source: Path, folder: Path, *flags: str) -> Path:
    made = folder / f"{source.stem}.o"
    subprocess.run([compiler, *SANITIZE, *FLAGS, *flags, "-c", str(source), "-o", str(made)], check=True, timeout=120)
    return made


def linked(compiler: str, objects: list[Path], folder: Path) -> Path:
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


def test_no_kernel_leaves_its_arrays(runtime: tuple[str, str], plain: Path) -> None:
    done = fuzz(plain, runtime[1])
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"kernels, C kernels from {plain}" in done.stdout


@pytest.mark.skipif(not X86, reason="not x86")
def test_no_kernel_with_avx2_leaves_its_arrays(runtime: tuple[str, str], with_avx2: Path) -> None:
    done = fuzz(with_avx2, runtime[1], "avx2")
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"kernels, C kernels from {with_avx2}" in done.stdout


def test_the_sanitizer_would_notice(runtime: tuple[str, str], plain: Path) -> None:
    done = fuzz(plain, runtime[1], "overrun")
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
