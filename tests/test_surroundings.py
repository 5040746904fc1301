"""What is wrong round edgeface: folders that are closed, gone or not a user's, variables with nonsense, no memory."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from edgeface.devices import boards

import edgeface.cli.service
from edgeface.cli import _one_line_for_an_error, main
from edgeface.data.sets import describe
from edgeface.errors import EdgefaceError, InputError, OptionError, OutputError
from edgeface.regular_files import is_there
from edgeface.runtime import catalog
from edgeface.stream.config import read_config
from edgeface.training.config import read_toml
from edgeface.user_folders import bundles_directory, cache_directory, devices_directory

XDG = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")


def test_a_user_without_a_name_has_no_home_and_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is started with --user 12345."""
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    for variable in XDG:
        monkeypatch.delenv(variable, raising=False)
    assert {folder().parts[1] for folder in (bundles_directory, cache_directory, devices_directory)} == {"nonexistent"}
    assert catalog.find("mos_s").name == "mos_s-int8-ncnn"
    assert "rk3399" in boards.names()


def test_folders_that_cannot_be_looked_into_hold_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # What a closed one raises to all but root, a name that is too long raises to everybody.
    for variable in XDG:
        monkeypatch.setenv(variable, f"/{'a' * 300}")
    assert not is_there(cache_directory())
    assert catalog.deployed() == []
    assert boards.find("rk3399").name == "rk3399"
    assert not is_there(Path("\0"))
    assert is_there(tmp_path)


def test_a_relative_cache_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "edgeface"


def test_a_service_of_a_user_without_a_name_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(edgeface.cli.service.getpass, "getuser", nameless)
    monkeypatch.delenv("SUDO_USER", raising=False)
    done = CliRunner().invoke(main, ["service", "install", "--print", "--source", "demo"])
    assert (done.exit_code, "give --run-as USER" in done.output) == (OptionError.exit_code, True)


def test_a_folder_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"")
    folder = tmp_path / "gone"
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()
    done = CliRunner().invoke(main, ["detect", "../a.jpg"])
    assert done.exit_code == InputError.exit_code
    assert done.output == "edgeface: the current folder was removed: change to another one\n"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OPENCV_IO_MAX_IMAGE_PIXELS", "abc"), ("OPENCV_FFMPEG_READ_ATTEMPTS", ""), ("OPENCV_VIDEOIO_PRIORITY_V4L2", "-")],
)
def test_a_variable_that_would_end_opencv_is_named(variable: str, value: str) -> None:
    done = CliRunner().invoke(main, ["models", "list"], env={variable: value})
    assert done.exit_code == OptionError.exit_code
    assert done.output == f"edgeface: {variable}={value}: OpenCV takes a number there: unset it, or give one\n"
    assert CliRunner().invoke(main, ["devices", "list"], env={variable: "64MB"}).exit_code == 0


def test_a_place_with_too_long_a_name_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    done = CliRunner().invoke(main, ["detect", str(tmp_path / "a.jpg"), "--out", "n" * 300])
    assert done.exit_code == InputError.exit_code
    assert done.output == f"edgeface: {'n' * 300}: File name too long: give a shorter one\n"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "there is not enough memory: allow more (ulimit -v), or close other programs"),
        (ImportError("libav.so: failed to map segment from shared object"), "there is not enough memory"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a: Permission denied: ask for the right to it"),
        (OSError(errno.EMFILE, "Too many open files", b"b\xff"), "b\ufffd: Too many open files: allow more open files"),
    ],
)
def test_what_the_system_refuses_is_one_line(error: Exception, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, _one_line_for_an_error():
        raise error
    assert ended.value.code == InputError.exit_code
    said = capsys.readouterr().err
    assert said.startswith(f"edgeface: {says}")
    assert said.count("\n") == 1


@pytest.mark.parametrize("error", [ImportError("no name"), FileNotFoundError(2, "No such file", "a"), KeyError("a")])
def test_a_mistake_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)), _one_line_for_an_error():
        raise error


@pytest.mark.parametrize("content", [f"a = {'[' * 5000}{']' * 5000}", "a = '\udcff'"])
@pytest.mark.parametrize("read", [read_toml, read_config, lambda path: describe(path.parent)])
def test_settings_that_are_no_text_or_nested_without_end_are_no_toml(
    read: Callable[[Path], object], content: str, tmp_path: Path
) -> None:
    path = tmp_path / "set.toml"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(EdgefaceError, match="not TOML"):
        read(path)


@pytest.mark.parametrize("words", [["--help"], ["detect", "--help"], ["--version"]])
def test_help_to_a_full_disk_is_one_line(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edgeface", *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )
    assert done.returncode == OutputError.exit_code
    assert done.stderr.count("\n") == 1
    assert "standard output: cannot be written: No space left on device" in done.stderr


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"RANK": "abc"}, "RANK=abc: is none of 0 to 0"), ({"WORLD_SIZE": "-1"}, "WORLD_SIZE=-1: is none of 1 to"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2: is none of 0 to 1"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "start it with torchrun, or unset WORLD_SIZE"),
    ],
)
def test_variables_that_torchrun_did_not_set_are_named(
    given: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from edgeface.training.devices import find_place

    for variable in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(OptionError, match=says):
        find_place("fp32")
