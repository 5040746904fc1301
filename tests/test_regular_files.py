"""What people name to be read is read only where it is a file: a pipe would be waited for, a device may never end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from edgeface.devices.boards import _read as read_board

from edgeface import atomic
from edgeface.data.annotations import ANNOTATIONS, read_lines
from edgeface.data.exports.reading import read_text, read_xml
from edgeface.data.sets import DESCRIPTION, describe
from edgeface.errors import EdgefaceError, OutputError
from edgeface.regular_files import LARGEST_SETTINGS_BYTES, read_regular
from edgeface.stream.config import read_config
from edgeface.stream.sinks.json_lines import _opened
from edgeface.training.config import read_settings


def described(path: Path) -> object:
    path.rename(path.parent / DESCRIPTION)
    return describe(path.parent)


def lines(path: Path) -> object:
    path.rename(path.parent / ANNOTATIONS)
    return list(read_lines(path.parent))


READERS: list[Callable[[Path], object]] = [
    read_config, read_board, read_xml, described, lines, lambda path: read_settings(path, [], msgspec.Struct),
]


@pytest.mark.parametrize("read", READERS, ids=["camera", "board", "xml", "set", "annotations", "training"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, read: Callable[[Path], object], kind: str) -> None:
    path = tmp_path / "given.toml"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(EdgefaceError, match=f"is a {kind}"):
        read(path)


def test_a_file_larger_than_any_of_its_kind_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "camera.toml"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(EdgefaceError, match="bytes are more than"):
        read_config(path)
    with pytest.raises(OSError, match="more than"):
        read_regular(path, LARGEST_SETTINGS_BYTES)


def test_lines_that_end_as_on_windows_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(b"face\r\nmask\r\n")
    assert read_text(path).split("\n") == ["face", "mask", ""]


def test_json_lines_to_a_pipe_that_nobody_reads_end_in_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_READER_WAIT_S", 0.0)
    path = tmp_path / "lines"
    os.mkfifo(path)
    with pytest.raises(OutputError, match="nobody reads"):
        _opened(str(path))
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.write(writer := _opened(str(path)), b"one\n")
    assert os.read(reader, 9) == b"one\n"
    os.close(writer)
    os.close(reader)
