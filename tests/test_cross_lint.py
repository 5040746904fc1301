"""The lint that finds instructions which an ARMv8.0-A core does not know."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from arm_code import compile_c, llvm_or_skip
from lint_isa import command, lint

NEON = """
#include <arm_neon.h>
void scale(float *to, const float *from, int n) {
    for (int i = 0; i + 4 <= n; i += 4) vst1q_f32(to + i, vmulq_n_f32(vld1q_f32(from + i), 0.5f));
}
int add(int *value) { return __atomic_fetch_add(value, 1, __ATOMIC_SEQ_CST); }
int narrow(const signed char *a, const signed char *b) {
    return vaddvq_s32(vpaddlq_s16(vmull_s8(vld1_s8(a), vld1_s8(b))));
}
"""
# Name of the extension -> the flag that allows it, C that uses it, and the instruction that must be named.
NEWER = {
    "dot product": ("-march=armv8.2-a+dotprod", """
#include <arm_neon.h>
int32x4_t f(int32x4_t a, int8x16_t b, int8x16_t c) { return vdotq_s32(a, b, c); }
""", "sdot"),
    "fp16 arithmetic": ("-march=armv8.2-a+fp16", """
#include <arm_neon.h>
float16x8_t f(float16x8_t a, float16x8_t b) { return vaddq_f16(a, b); }
""", "fadd"),
    "LSE atomics": ("-march=armv8.1-a", """
int f(int *value) { return __atomic_fetch_add(value, 1, __ATOMIC_SEQ_CST); }
""", "ldaddal"),
    "i8mm": ("-march=armv8.2-a+i8mm", """
#include <arm_neon.h>
int32x4_t f(int32x4_t a, int8x16_t b, int8x16_t c) { return vmmlaq_s32(a, b, c); }
""", "smmla"),
    "rounding doubling multiply": ("-march=armv8.1-a", """
#include <arm_neon.h>
int16x8_t f(int16x8_t a, int16x8_t b, int16x8_t c) { return vqrdmlahq_s16(a, b, c); }
""", "sqrdmlah"),
    "bf16": ("-march=armv8.2-a+bf16", """
#include <arm_neon.h>
float32x4_t f(float32x4_t a, bfloat16x8_t b, bfloat16x8_t c) { return vbfdotq_f32(a, b, c); }
""", "bfdot"),
    "SVE": ("-march=armv8.2-a+sve", """
#include <arm_sve.h>
svfloat32_t f(svfloat32_t a, svfloat32_t b) { return svadd_f32_x(svptrue_b32(), a, b); }
""", "fadd"),
    "crypto, which a Raspberry Pi 4 has not": ("-march=armv8-a+crypto", """
#include <arm_neon.h>
uint8x16_t f(uint8x16_t a, uint8x16_t b) { return vaeseq_u8(a, b); }
""", "aese"),
    "crc": ("-march=armv8-a+crc", """
#include <arm_acle.h>
unsigned f(unsigned a, unsigned b) { return __crc32w(a, b); }
""", "crc32w"),
}


def test_neon_and_exclusive_atomics_pass(tmp_path: Path) -> None:
    llvm = llvm_or_skip()
    library = compile_c(llvm, NEON, tmp_path / "a.so", "-shared", "-march=armv8-a", "-mno-outline-atomics")
    report = lint(library, llvm)
    assert report.newer == []
    assert report.instructions > 20


@pytest.mark.parametrize("extension", NEWER)
def test_a_newer_instruction_is_found_and_named(tmp_path: Path, extension: str) -> None:
    llvm = llvm_or_skip()
    flag, source, instruction = NEWER[extension]
    found = lint(compile_c(llvm, source, tmp_path / "a.so", "-shared", flag), llvm).newer
    assert found
    assert found[0].function == "f"
    assert any(each.text.startswith(instruction) for each in found), found


def test_a_stripped_library_is_still_read_whole(tmp_path: Path) -> None:
    llvm = llvm_or_skip()
    flag, source, _ = NEWER["dot product"]
    library = compile_c(llvm, source + NEON, tmp_path / "a.so", "-shared", flag, "-Wl,--strip-all")
    assert [each.text.split()[0] for each in lint(library, llvm).newer] == ["sdot", "ldaddal"]


def test_the_command_names_what_it_finds_in_a_wheel_and_exits_with_1(tmp_path: Path) -> None:
    llvm = llvm_or_skip()
    flag, source, _ = NEWER["dot product"]
    wheel = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(compile_c(llvm, NEON, tmp_path / "old.so", "-shared", "-mno-outline-atomics"), "a/old.so")
        archive.write(compile_c(llvm, source, tmp_path / "new.so", "-shared", flag), "a/new.so")
        archive.writestr("a/other.txt", "not code")
    result = CliRunner().invoke(command, [str(wheel)])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert any(line.startswith("a/new.so: 0x") and "in f: sdot" in line for line in lines), lines
    assert any(line.startswith("a/old.so: ") and line.endswith("none beyond ARMv8.0-A") for line in lines), lines


def test_a_library_alone_that_passes_exits_with_0(tmp_path: Path) -> None:
    llvm = llvm_or_skip()
    library = compile_c(llvm, NEON, tmp_path / "old.so", "-shared", "-mno-outline-atomics")
    result = CliRunner().invoke(command, [str(library)])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("content", ["x86", "text", "nothing", "empty wheel"])
def test_what_holds_no_code_of_arm_is_one_line(tmp_path: Path, content: str) -> None:
    llvm = llvm_or_skip()
    path = tmp_path / ("a-1-py3-none-any.whl" if content == "empty wheel" else "a.so")
    if content == "x86":
        compile_c(llvm, "int f(int a) { return a + 1; }", path, "-shared", target="x86_64-linux-gnu")
    elif content == "text":
        path.write_text("not a library")
    elif content == "empty wheel":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/__init__.py", "")
    result = CliRunner().invoke(command, [str(path)])
    assert result.exit_code == 12, result.output
    assert result.stderr.startswith("edgeface: ")
    assert result.stderr.count("\n") == 1
