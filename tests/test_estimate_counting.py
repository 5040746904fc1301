"""What the plugin of QEMU counts: exactly what runs between the markers, in whatever thread."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from edgeface.devices.estimate.counting import count_regions, plugin, read_regions

from arm_code import llvm_or_skip, without_programs
from edgeface.errors import DeviceError, InstallError, OutputError

TIMEOUT_S = 60.0
MARKED = """
.globl _start
_start:
    mov x5, #3
again:
    bl region
    subs x5, x5, #1
    b.ne again
    mov x0, #0
    mov x8, #94
    svc #0
region:
    nop
    hint #0x60
    mov x1, #1000
    b loop
loop:
    add x2, x2, #3
    subs x1, x1, #1
    b.ne loop
    eor x3, x3, x3
    hint #0x61
    nop
    ret
"""
# mov x1, #1000; b loop
ENTRY = "d2807d0114000001"
# add x2, x2, #3; subs x1, x1, #1; b.ne loop
LOOP = "91000c42f100042154ffffc1"
# eor x3, x3, x3
TAIL = "ca030063"

# Two threads and the main one each run the loop 30000 times between the markers.
THREADED = """
.globl _start
_start:
    ldr x1, =stacks + 4096
    bl spawn
    ldr x1, =stacks + 8192
    bl spawn
    ldr x9, =started
    bl wait
    hint #0x60
    ldr x9, =go
    mov x10, #2
    stlr x10, [x9]
    bl work
    ldr x9, =done
    bl wait
    hint #0x61
    mov x0, #0
    mov x8, #94
    svc #0
spawn:
    ldr x0, =0x50f00
    mov x2, #0
    mov x3, #0
    mov x4, #0
    mov x8, #220
    svc #0
    cbz x0, thread
    ret
thread:
    ldr x9, =started
    bl bump
    ldr x9, =go
    bl wait
    bl work
    ldr x9, =done
    bl bump
    mov x0, #0
    mov x8, #93
    svc #0
bump:
    ldaxr x10, [x9]
    add x10, x10, #1
    stlxr w11, x10, [x9]
    cbnz w11, bump
    ret
wait:
    ldar x10, [x9]
    cmp x10, #2
    b.ne wait
    ret
work:
    mov x1, #30000
    b loop
loop:
    add x2, x2, #3
    subs x1, x1, #1
    b.ne loop
    ret
.data
.balign 16
started: .quad 0
go: .quad 0
done: .quad 0
.bss
.balign 16
stacks: .skip 8192
"""


@dataclass(frozen=True)
class Program:
    """A static aarch64 program in the place of a root's Python."""

    path: Path
    environment: dict[str, str]

    def command(self, cpu: str, _argv: Sequence[str | Path], qemu_options: Sequence[str] = ()) -> list[str]:
        return ["qemu-aarch64", "-cpu", cpu, *qemu_options, str(self.path)]


def program(source: str, folder: Path) -> Program:
    llvm = llvm_or_skip()
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("needs qemu-aarch64: sudo apt-get install qemu-user")
    text, path = folder / "program.s", folder / "program"
    text.write_text(source)
    argv = [llvm.clang, "--target=aarch64-linux-gnu", f"--ld-path={llvm.lld}", "-nostdlib", "-static", "-o", path, text]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return Program(path, {"PATH": "/usr/bin:/bin"})


def test_each_region_has_what_ran_between_its_markers_and_nothing_else(tmp_path: Path) -> None:
    # A comma is what ends an argument of the plugin.
    (tmp_path / "a,b").mkdir()
    regions = count_regions(program(MARKED, tmp_path / "a,b"), "cortex-a72", [], what="counting", timeout_s=TIMEOUT_S)
    assert regions == [{ENTRY: 1, LOOP: 1000, TAIL: 1}] * 3


def test_no_execution_is_lost_when_threads_run_the_same_block(tmp_path: Path) -> None:
    (region,) = count_regions(program(THREADED, tmp_path), "cortex-a53", [], what="counting", timeout_s=TIMEOUT_S)
    assert region[LOOP] == 3 * 30000


def test_markers_that_do_not_alternate_are_an_error(tmp_path: Path) -> None:
    unended = program(MARKED.replace("hint #0x61", "nop"), tmp_path)
    with pytest.raises(DeviceError, match="do not alternate"):
        count_regions(unended, "cortex-a72", [], what="counting", timeout_s=TIMEOUT_S)


def test_a_program_that_fails_is_an_error_with_its_reason(tmp_path: Path) -> None:
    broken = program(MARKED.replace("mov x0, #0", "mov x0, #3"), tmp_path)
    with pytest.raises(DeviceError, match=r"^the loop cannot be counted: exit code 3: counting needs QEMU"):
        count_regions(broken, "cortex-a72", [], what="the loop cannot be counted", timeout_s=TIMEOUT_S)


def test_half_of_an_output_is_an_error() -> None:
    assert read_regions("edgeface-blocks 1\nregion\n7 2\nstrays 0\nblock 7 ca030063\nend\n") == [{TAIL: 2}]
    with pytest.raises(OutputError, match="not whole"):
        read_regions("edgeface-blocks 1\nregion\n7 2\nstrays 0\nblock 7 ca03")


def test_blocks_that_were_translated_twice_are_one() -> None:
    text = "edgeface-blocks 1\nregion\n7 2\n9 5\nstrays 0\nblock 7 ca030063\nblock 9 ca030063\nend\n"
    assert read_regions(text) == [{TAIL: 7}]


def test_without_a_compiler_the_line_for_apt_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    without_programs(monkeypatch, tmp_path / "bin")
    with pytest.raises(InstallError, match="sudo apt-get install gcc"):
        plugin()
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_the_plugin_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = plugin()
    without_programs(monkeypatch, tmp_path / "bin")
    assert plugin() == path
    assert path.is_file()
