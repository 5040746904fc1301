"""The kernel library: how it is found, what is refused, and what the process says about it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeface.errors import EngineError, InstallError
from edgeface.runtime import kernels
from edgeface.runtime.kernels import library as found_library
from edgeface.runtime.kernels.arrays import done, rows_packed
from edgeface.runtime.kernels.library import ABI, CHOICE, FILE_NAME

Choose = Callable[[object], None]

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "edgeface" / "runtime" / "kernels"


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Iterator[Choose]:
    """Sets EDGEFACE_KERNELS and forgets what was loaded, until the test ends."""

    def set_choice(value: object) -> None:
        monkeypatch.setenv(CHOICE, str(value))
        found_library.cache_clear()

    yield set_choice
    found_library.cache_clear()


def compiled(folder: Path, source: str) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: sudo apt install gcc")
    (folder / "fake.c").write_text(source)
    path = folder / FILE_NAME
    subprocess.run(
        [compiler, "-shared", "-fPIC", str(folder / "fake.c"), "-o", str(path)], check=True, timeout=60
    )
    return path


def test_off_is_numpy(choose: Choose) -> None:
    choose("off")
    assert kernels.library() is None
    assert kernels.status() == kernels.Status(False, None, "NumPy and OpenCV, because EDGEFACE_KERNELS is off")
    with pytest.raises(InstallError, match="the C kernels are needed here: NumPy and OpenCV, because"):
        kernels.mark_begin()


def test_a_library_that_is_not_there_is_named(choose: Choose, tmp_path: Path) -> None:
    choose(tmp_path / "gone.so")
    with pytest.raises(InstallError, match=r"gone\.so: no such file: set EDGEFACE_KERNELS to"):
        kernels.library()
    assert not kernels.status().used
    assert "gone.so: no such file" in kernels.status().text


def test_a_file_that_is_no_library_is_named(choose: Choose, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"\x7fELF and nothing else")
    choose(tmp_path / FILE_NAME)
    with pytest.raises(InstallError, match=r"libedgeface_kernels\.so: cannot be loaded \(.*\): sudo apt install gcc"):
        kernels.library()


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (f"int ef_abi(void) {{ return {ABI + 1}; }}", f"its interface is version {ABI + 1}, this edgeface needs {ABI}"),
        ("int something_else(void) { return 1; }", "cannot be loaded"),
        (f"int ef_abi(void) {{ return {ABI}; }}", "has no function ef_mark_begin"),
    ],
)
def test_another_versions_library_is_refused_in_a_line(choose: Choose, tmp_path: Path, source: str, why: str) -> None:
    choose(compiled(tmp_path, source))
    with pytest.raises(InstallError, match=why) as refused:
        kernels.library()
    assert "\n" not in str(refused.value)
    assert why in kernels.status().text


def test_the_sources_and_python_name_one_interface() -> None:
    assert f"#define EF_ABI {ABI}\n" in (SOURCES / "ef_common.h").read_text()


def test_every_source_is_built() -> None:
    listed = (ROOT / "CMakeLists.txt").read_text()
    assert all(f"/{source.name}" in listed for source in SOURCES.glob("*.c"))


@pytest.mark.skipif(CHOICE in os.environ, reason=f"{CHOICE} is set")
def test_where_there_is_a_compiler_the_kernels_were_built() -> None:
    """An installation whose build failed is pure Python; here that must not pass for one without a compiler."""
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("no C compiler: sudo apt install gcc")
    assert kernels.status().used, kernels.status().text


@pytest.mark.parametrize("folder", [ROOT, ROOT / "tests"])
def test_a_built_library_is_found_from_everywhere(folder: Path) -> None:
    if found_library() is None:
        pytest.skip("the C kernels are not built here")
    code = "from edgeface.runtime import kernels as k; k.mark_begin(); k.mark_end(); print(k.status().text)"
    environment = {name: value for name, value in os.environ.items() if name != CHOICE}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("C kernels from /"), done.stderr


def test_rows_without_gaps_are_taken_as_they_lie() -> None:
    picture = np.zeros((20, 30, 3), np.uint8)
    for view in (picture, picture[3:9, 5:11], picture[::-2], picture[:, :1], picture[:1]):
        assert rows_packed(view) is view
    for view in (picture[:, ::2], picture[:, :, ::-1], picture[:, ::-1], picture[:, :, :2], picture.transpose(1, 0, 2)):
        packed = rows_packed(view)
        assert packed.flags.c_contiguous
        np.testing.assert_array_equal(packed, view)


def test_a_refusal_is_an_error() -> None:
    assert done(3, "ef_some") == 3
    with pytest.raises(EngineError, match=r"the C kernel ef_some refused its arguments \(-1\)"):
        done(-1, "ef_some")
