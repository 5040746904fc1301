"""A real root in the user's own cache, made at the first run: a wheel of this tree, and programs that run in it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
from edgeface.devices import boards
from edgeface.devices.emulation import EmulatedRoot, ensure_root, verify_root

from arm_code import llvm_or_skip
from build_wheel import BUILD, TREE, build_wheel, retag
from edgeface import weights
from prerequisites import build_tools

# A first run downloads and builds everything.
pytestmark = pytest.mark.timeout(1500)
TIMEOUT_S = 120
# In bytes: what a board downloads.
LARGEST_WHEEL = 12_000_000


@pytest.fixture(scope="module")
def root() -> EmulatedRoot:
    """An RK3399's root that holds this tree."""
    llvm_or_skip()
    for program in ("qemu-aarch64", "apt-get"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: sudo apt-get install qemu-user")
    return ensure_root(boards.find("rk3399"))


def _inside(root: EmulatedRoot, cpu: str, code: str, folder: Path) -> object:
    """What an emulated program prints as JSON, run in ``folder``."""
    done = subprocess.run(root.command(cpu, ["-c", code]), env=root.environment, capture_output=True, text=True,
                          timeout=TIMEOUT_S, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a53"])
def test_the_roots_own_edgeface_runs_with_its_c_kernels_on_the_boards_cores(
    root: EmulatedRoot, cpu: str, tmp_path: Path
) -> None:
    # A clone as the current folder must not take the place of what is installed.
    (tmp_path / "edgeface").mkdir()
    (tmp_path / "edgeface" / "__init__.py").write_text("raise SystemExit('the wrong edgeface')")
    machine, cores, file, kernels, numpy, path = _inside(root, cpu, """
import json, os, platform, sys, edgeface, numpy
from edgeface.runtime import kernels
used = kernels.status().used
print(json.dumps([platform.machine(), os.cpu_count(), edgeface.__file__, used, numpy.__file__, sys.path]))
""", tmp_path)
    assert machine == "aarch64"
    assert cores == 6
    assert file.startswith(f"{root.project}/")
    assert kernels is True
    assert numpy.startswith(f"{root.site}/")
    assert [entry for entry in path if not entry.startswith(str(root.directory.parent))] == []


def test_an_instruction_that_the_core_has_not_ends_the_program(root: EmulatedRoot, tmp_path: Path) -> None:
    code = tmp_path / "sdot.c"
    code.write_text('__attribute__((target("dotprod"))) void f(void) { __asm__("sdot v0.4s, v1.16b, v2.16b"); }\n')
    library = tmp_path / "sdot.so"
    llvm = llvm_or_skip()
    subprocess.run([llvm.clang, "--target=aarch64-linux-gnu", "-shared", "-nostdlib", f"--ld-path={llvm.lld}", code,
                    "-o", library], check=True, timeout=60)
    argv = ["-c", f"import ctypes; ctypes.CDLL({str(library)!r}).f(); print('ran')"]
    ends = {
        cpu: subprocess.run(root.command(cpu, argv), env=root.environment, capture_output=True, timeout=TIMEOUT_S,
                            check=False)
        for cpu in ("cortex-a53", "cortex-a72", "cortex-a76")
    }
    assert [ends[cpu].returncode for cpu in ("cortex-a53", "cortex-a72", "cortex-a76")] == [-4, -4, 0]
    assert ends["cortex-a76"].stdout == b"ran\n"


def test_running_changes_nothing_in_the_root(root: EmulatedRoot, tmp_path: Path) -> None:
    _inside(root, "cortex-a72", "import cv2, ncnn, msgspec, edgeface.runtime.detector; print(1)", tmp_path)
    home = root.directory.parent
    found = [path for part in (root.directory, root.site, root.project) for path in part.rglob("*.pyc")]
    assert found
    verify_root(boards.find("rk3399"))
    before = {path: path.stat().st_mtime_ns for path in home.glob("*.json")}
    assert ensure_root(boards.find("rk3399")).directory == root.directory
    names = ("root.json", "site.json")
    assert {home / name for name in names} <= before.keys()
    assert all((home / name).stat().st_mtime_ns == before[home / name] for name in names)


def test_the_wheel_of_this_tree_is_for_every_python_and_says_what_it_needs(tmp_path: Path) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("needs apt")
    wheel = build_wheel(tmp_path, llvm_or_skip())
    assert wheel.name.startswith("edgeface-")
    assert "-py3-none-manylinux_2_" in wheel.name
    assert wheel.name.endswith("_aarch64.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = next(name.partition("/")[0] for name in names if ".dist-info/" in name)
        described = archive.read(f"{info}/WHEEL").decode()
        assert [line for line in described.splitlines() if line.startswith("Tag: ")] == [
            f"Tag: py3-none-{platform}" for platform in wheel.name[:-4].split("-")[-1].split(".")
        ]
        assert "Root-Is-Purelib: false" in described
        assert "edgeface/runtime/kernels/libedgeface_kernels.so" in names
        assert "edgeface/devices/boards/rk3399.toml" in names
        assert not [name for name in names if name.startswith(("cross/", "tests/"))]
        assert {
            f"edgeface/weights/{name}/bundle.json" for name in weights.DEFAULTS.values() if weights.is_in_wheels(name)
        } <= set(names)
        assert not [name for name in names if name.endswith(".pt")]
        _check_record(archive, f"{info}/RECORD")
    assert wheel.stat().st_size < LARGEST_WHEEL


def test_the_wheel_of_a_bench_brings_what_is_converted(tmp_path: Path) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("needs apt")
    environment = {**os.environ, "PYTHONPATH": str(build_tools(TREE)), "SKBUILD_WHEEL_CMAKE": "false",
                   "EDGEFACE_WHEEL": "bench"}
    subprocess.run([sys.executable, "-c", BUILD, tmp_path], cwd=TREE, env=environment, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("edgeface-*.whl"))) as archive:
        found = {name.rpartition("/")[2] for name in archive.namelist() if name.endswith(".pt")}
    assert found == {path.name for path in weights.directory().glob("*.pt")} > {"mos_s.pt"}


def _check_record(archive: zipfile.ZipFile, record: str) -> None:
    rows = {name: (digest, size) for name, digest, size in csv.reader(io.StringIO(archive.read(record).decode()))}
    assert rows.pop(record) == ("", "")
    assert sorted([*rows, record]) == sorted(archive.namelist())
    for name, (digest, size) in rows.items():
        content = archive.read(name)
        expected = urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        assert (digest, int(size)) == (f"sha256={expected}", len(content)), name


def test_a_wheel_keeps_its_files_under_its_new_name(tmp_path: Path) -> None:
    old = tmp_path / "edgeface-1-py3-none-linux_x86_64.whl"
    described = b"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-linux_x86_64\n"
    rows = []
    with zipfile.ZipFile(old, "w") as archive:
        for name, content in {"edgeface/a.so": b"code", "edgeface-1.dist-info/WHEEL": described}.items():
            archive.writestr(name, content)
            digest = urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(content)}")
        archive.writestr("edgeface-1.dist-info/RECORD", "\n".join([*rows, "edgeface-1.dist-info/RECORD,,"]) + "\n")
    new = retag(old, "manylinux_2_27_aarch64", tmp_path / "out")
    assert new == tmp_path / "out" / "edgeface-1-py3-none-manylinux_2_27_aarch64.whl"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [new.name]
    with zipfile.ZipFile(new) as archive:
        assert archive.read("edgeface/a.so") == b"code"
        assert b"Tag: py3-none-manylinux_2_27_aarch64\n" in archive.read("edgeface-1.dist-info/WHEEL")
        assert b"x86_64" not in archive.read("edgeface-1.dist-info/WHEEL")
        _check_record(archive, "edgeface-1.dist-info/RECORD")
