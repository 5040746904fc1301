"""Results written where something lies already that is no plain file: links, pipes, devices."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from edgeface.atomic import replacing, write_bytes
from edgeface.errors import OutputError
from edgeface.images import write_image


@pytest.fixture
def photo(here: Path) -> Path:
    write_image(here / "photo.png", np.full((40, 60, 3), 90, np.uint8))
    return here / "photo.png"


def test_json_goes_through_a_pipe_that_stays(here: Path, photo: Path, detect: Callable[..., Result]) -> None:
    os.mkfifo(here / "pipe")
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend((here / "pipe").read_text().splitlines()))
    reader.start()
    done = detect(photo, "--no-draw", "--json", "pipe")
    reader.join(20)
    assert done.exit_code == 0, done.output
    assert json.loads(lines[0])["width"] == 60
    assert stat.S_ISFIFO((here / "pipe").stat().st_mode)


def test_json_to_a_device_leaves_it(here: Path, photo: Path, detect: Callable[..., Result]) -> None:
    (here / "null").symlink_to("/dev/null")
    assert detect(photo, "--no-draw", "--json", "null").exit_code == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert (here / "null").is_symlink()
    done = detect(photo, "--no-draw", "--json", "/dev/full")
    assert done.exit_code == OutputError.exit_code
    assert "/dev/full: cannot be written: No space left on device" in done.output
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


@pytest.mark.parametrize("exists", [True, False])
def test_json_replaces_what_a_link_leads_to(
    here: Path, photo: Path, detect: Callable[..., Result], exists: bool
) -> None:
    (here / "kept").mkdir()
    if exists:
        (here / "kept" / "faces.jsonl").write_text("old")
    (here / "link").symlink_to("kept/faces.jsonl")
    assert detect(photo, "--no-draw", "--json", "link").exit_code == 0
    assert (here / "link").is_symlink()
    assert json.loads((here / "kept" / "faces.jsonl").read_text())["height"] == 40
    assert sorted(p.name for p in here.iterdir()) == ["kept", "link", "photo.png"]


def test_a_link_in_a_circle_is_named(here: Path, photo: Path, detect: Callable[..., Result]) -> None:
    (here / "self").symlink_to("self")
    done = detect(photo, "--no-draw", "--json", "self")
    assert done.exit_code == OutputError.exit_code
    assert "self: cannot be written: Too many levels of symbolic links" in done.output


def test_a_pipe_without_reader_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeface.atomic._READER_WAIT_S", 0.1)
    os.mkfifo(here / "pipe")
    with pytest.raises(OutputError, match="nobody reads from this pipe"):
        write_bytes(here / "pipe", b"content")


def test_whole_files_are_given_to_what_is_no_file(here: Path) -> None:
    os.mkfifo(here / "pipe.png")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((here / "pipe.png").read_bytes()))
    reader.start()
    with replacing(here / "pipe.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.write_bytes(bytes(200_000))
    reader.join(20)
    assert got == [bytes(200_000)]
    write_bytes(Path("/dev/null"), b"content")
    with pytest.raises(OutputError, match="/dev/full"):
        write_bytes(Path("/dev/full"), b"content")
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)
