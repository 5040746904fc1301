"""A bundle appears at its place whole or not at all, and never in the place of something else."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from msgspec.structs import replace

from bundle_files import make
from edgeface.bundle import (
    read_bundle,
    write_manifest,
    writing,
)
from edgeface.errors import OutputError


def test_writing_puts_a_bundle_in_place(tmp_path: Path) -> None:
    place = tmp_path / "new" / "bundle"
    with writing(place) as work:
        bundle = make(work)
        assert not place.exists()
    assert read_bundle(place) == bundle
    assert [p.name for p in place.parent.iterdir()] == ["bundle"]
    assert place.stat().st_mode & 0o777 == 0o755


def test_writing_replaces_a_bundle_whole(tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    make(place)
    (place / "left-over.txt").write_text("")
    with writing(place) as work:
        bundle = replace(make(work), licence="another")
        write_manifest(work, bundle)
    assert read_bundle(place).licence == "another"
    assert not (place / "left-over.txt").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_writing_fills_an_empty_directory(tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    place.mkdir()
    with writing(place) as work:
        make(work)
    assert read_bundle(place).model == "mos_s"


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    place = tmp_path / "bundle"
    before = make(place)

    def fail() -> None:
        with writing(place) as work:
            (work / "half.bin").write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert read_bundle(place) == before
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with writing(tmp_path / "bundle") as work:
            (work / "half.bin").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match=r"bundle: .*No space left"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_when_the_last_step_fails_the_old_bundle_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "bundle"
    before = make(place)
    move = Path.replace

    def refuse_the_new(self: Path, target: Path) -> Path:
        if target == place and (self / "new.bin").exists():
            raise OSError(errno.EIO, "Input/output error")
        return move(self, target)

    def write() -> None:
        with writing(place) as work:
            make(work)
            (work / "new.bin").write_text("")

    monkeypatch.setattr(Path, "replace", refuse_the_new)
    with pytest.raises(OutputError, match="Input/output error"):
        write()
    assert read_bundle(place) == before
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_writing_never_replaces_what_is_no_bundle(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "photo.jpg").write_text("mine")
    with pytest.raises(OutputError, match="exists and is not a bundle"), writing(folder):
        pass
    with pytest.raises(OutputError, match=r"photo\.jpg: cannot be written"), writing(folder / "photo.jpg"):
        pass
    with pytest.raises(OutputError, match="cannot be written"), writing(folder / "photo.jpg" / "bundle"):
        pass
    assert (folder / "photo.jpg").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]
