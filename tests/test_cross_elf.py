"""What a library needs of the system decides the platform of its wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from arm_code import compile_c, llvm_or_skip, without_programs
from edgeface.errors import DeviceError, InstallError
from elf import needs
from llvm import find_llvm


def _libc(tmp_path: Path, *versions: str) -> Path:
    """A libc.so.6 with one function for each version, f_17() of GLIBC_2.17."""
    script = tmp_path / "versions"
    functions = [f"f_{version.rpartition('.')[2]}" for version in versions]
    script.write_text("".join(f"{version} {{ {name}; }};\n" for version, name in zip(versions, functions, strict=True)))
    return compile_c(
        llvm_or_skip(), "".join(f"int {name}(void) {{ return 1; }}\n" for name in functions), tmp_path / "libc.so",
        "-shared", f"-Wl,--version-script={script}", "-Wl,-soname,libc.so.6",
    )


def _user(tmp_path: Path, libc: Path, *functions: str) -> Path:
    source = "".join(f"int {name}(void);\n" for name in functions)
    source += f"int use(void) {{ return {' + '.join(f'{name}()' for name in functions)}; }}\n"
    return compile_c(llvm_or_skip(), source, tmp_path / "user.so", "-shared", str(libc))


def test_the_newest_symbol_version_is_what_is_needed(tmp_path: Path) -> None:
    libc = _libc(tmp_path, "GLIBC_2.17", "GLIBC_2.27", "GLIBC_2.34")
    found = needs(_user(tmp_path, libc, "f_17", "f_27"), llvm_or_skip())
    assert found.glibc == (2, 27)
    assert found.libraries == ["libc.so.6"]
    assert found.platform == "manylinux_2_27_aarch64"


def test_the_oldest_has_the_name_that_old_pips_know_too(tmp_path: Path) -> None:
    libc = _libc(tmp_path, "GLIBC_2.17", "GLIBC_2.27")
    found = needs(_user(tmp_path, libc, "f_17"), llvm_or_skip())
    assert found.platform == "manylinux_2_17_aarch64.manylinux2014_aarch64"


def test_a_library_that_needs_nothing_runs_on_the_oldest(tmp_path: Path) -> None:
    llvm = llvm_or_skip()
    found = needs(compile_c(llvm, "int f(void) { return 1; }", tmp_path / "a.so", "-shared"), llvm)
    assert found.glibc == (2, 17)
    assert found.libraries == []


def test_a_library_that_not_every_board_has_is_refused_by_name(tmp_path: Path) -> None:
    llvm = llvm_or_skip()
    other = compile_c(llvm, "int f(void) { return 1; }", tmp_path / "other.so", "-shared", "-Wl,-soname,libomp.so.5")
    user = compile_c(llvm, "int f(void); int g(void) { return f(); }", tmp_path / "user.so", "-shared", str(other))
    with pytest.raises(DeviceError, match=r"user\.so: needs libomp\.so\.5"):
        needs(user, llvm)


def test_a_library_of_another_processor_is_refused(tmp_path: Path) -> None:
    llvm = llvm_or_skip()
    library = compile_c(llvm, "int f(void) { return 1; }", tmp_path / "a.so", "-shared", target="x86_64-linux-gnu")
    with pytest.raises(DeviceError, match=r"X86-64, not for AArch64"):
        needs(library, llvm)


def test_without_a_compiler_the_line_for_apt_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_programs(monkeypatch, tmp_path / "bin")
    with pytest.raises(InstallError, match="sudo apt-get install clang-19 lld-19 llvm-19"):
        find_llvm()


def test_a_clang_without_its_linker_names_the_packages_that_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    without_programs(monkeypatch, programs)
    program = programs / "clang-16"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    with pytest.raises(InstallError, match="sudo apt-get install lld-16 llvm-16"):
        find_llvm()


def test_the_newest_version_that_is_whole_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    without_programs(monkeypatch, programs)
    tools = ("clang", "ld.lld", "llvm-ar", "llvm-ranlib", "llvm-strip", "llvm-objdump", "llvm-readelf")
    for name in ["clang-19", *(f"{tool}-{version}" for tool in tools for version in (14, 16))]:
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    assert find_llvm().clang == programs / "clang-16"
