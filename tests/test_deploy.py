"""``edgeface deploy``: a bundle on a board whole, checked and compared, or the board as it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from edgeface.devices import boards
from edgeface.devices.agreement import compare
from edgeface.devices.client import Client
from edgeface.devices.deploy import Deployment, deploy
from edgeface.devices.links import Link, open_link
from edgeface.devices.links.ssh import SshLink
from edgeface.devices.replies import LoadedBundle
from numpy.typing import NDArray

import edgeface
from edgeface import user_folders
from edgeface.cli import main
from edgeface.errors import (
    BundleError,
    BundleHashError,
    DeviceError,
    DeviceLostError,
    MissingExtraError,
    OptionError,
    OutputError,
)
from edgeface.faces import Faces
from edgeface.runtime import catalog
from loopback_ssh import LoopbackSsh

NAME = "mos_s-int8-ncnn"
PLACE = f".local/share/edgeface/bundles/{NAME}"
DEADLINE_S = 30.0


@pytest.fixture
def link(ssh: LoopbackSsh) -> Link:
    return open_link(ssh.board())


@pytest.fixture
def occupied(ssh: LoopbackSsh) -> dict[str, bytes | None]:
    """Everything on the board, where another bundle lies in the place already."""
    shutil.copytree(catalog.find("mos_s-fp16-ncnn"), ssh.home / PLACE)
    return ssh.files()


def bundle_files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def settled(ssh: LoopbackSsh, expected: dict[str, bytes | None]) -> bool:
    """Whether the board comes to hold just that: a worker that lost its connection needs a moment to tidy up."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        try:
            if held(ssh) == expected:
                return True
        except FileNotFoundError:
            pass
        time.sleep(0.05)
    return held(ssh) == expected


def held(ssh: LoopbackSsh) -> dict[str, bytes | None]:
    """What lies on the board, but for the notes in its cache of the bundles that ran there."""
    return {name: content for name, content in ssh.files().items() if name.split("/")[0] != ".cache"}


def test_a_bundle_is_brought_to_a_board(link: Link, ssh: LoopbackSsh, astronaut: NDArray[np.uint8]) -> None:
    steps: list[str] = []
    done = deploy(link, "mos_s", astronaut, progress=steps.append)
    assert done.directory == str(ssh.home / PLACE)
    assert bundle_files(ssh.home / PLACE) == bundle_files(catalog.find(NAME))
    assert (done.device, done.where, done.bundle, done.replaced) == ("robot", "board at robot1", NAME, False)
    assert done.files == len(bundle_files(ssh.home / PLACE)) - 1
    assert (done.agreement.here, done.agreement.there, done.agreement.matched) == (1, 1, 1)
    assert done.agreement.box_px == done.agreement.score == done.agreement.raw_difference == 0.0
    assert [path.name for path in (ssh.home / PLACE).parent.iterdir()] == [NAME]
    assert steps
    # Whoever the board's programs run as may read it.
    assert (ssh.home / PLACE).stat().st_mode & 0o777 == 0o755
    with Client(link) as client:
        assert len(client.detect(client.load(done.directory), astronaut)) == 1


def test_an_old_one_is_replaced(
    link: Link, ssh: LoopbackSsh, occupied: dict[str, bytes | None], astronaut: NDArray[np.uint8]
) -> None:
    assert deploy(link, NAME, astronaut).replaced
    assert bundle_files(ssh.home / PLACE) == bundle_files(catalog.find(NAME))
    assert [path.name for path in (ssh.home / PLACE).parent.iterdir()] == [NAME]


@pytest.mark.parametrize("out", ["~/models/face net", "models/face net"])
def test_another_folder_there(link: Link, ssh: LoopbackSsh, astronaut: NDArray[np.uint8], out: str) -> None:
    done = deploy(link, NAME, astronaut, directory=out)
    assert done.directory == str(ssh.home / "models/face net")
    assert bundle_files(Path(done.directory)) == bundle_files(catalog.find(NAME))


def test_this_machine_is_a_board_as_well(
    astronaut: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    done = deploy(open_link(boards.find("host")), NAME, astronaut)
    assert done.directory == str(tmp_path / "edgeface" / "bundles" / NAME)
    assert len(edgeface.load(done.directory)(astronaut)) == 1


def test_nothing_on_the_board_changes_when_it_goes_away_while_files_are_copied(
    link: Link, ssh: LoopbackSsh, occupied: dict[str, bytes | None], astronaut: NDArray[np.uint8]
) -> None:
    marker = ssh.folder / "copying"
    ssh.behave(f"case $SSH_ORIGINAL_COMMAND in rsync*) touch '{marker}'; sleep 5;; esac")
    cutter = ssh.cut_when(marker)
    with pytest.raises(DeviceLostError, match="robot at robot1: the connection broke off"):
        deploy(link, NAME, astronaut)
    cutter.join()
    marker.unlink()
    assert settled(ssh, occupied)


def test_nothing_on_the_board_changes_when_it_goes_away_once_all_is_copied(
    link: Link, ssh: LoopbackSsh, occupied: dict[str, bytes | None], astronaut: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = Client.load

    def cut_and_load(client: Client, bundle: str) -> LoadedBundle:
        assert bundle_files(Path(bundle)) == bundle_files(catalog.find(NAME))
        ssh.cut()
        return load(client, bundle)

    monkeypatch.setattr(Client, "load", cut_and_load)
    with pytest.raises(DeviceLostError, match="the connection broke off"):
        deploy(link, NAME, astronaut)
    assert settled(ssh, occupied)


def test_what_a_board_without_power_left_behind_is_removed_by_the_next(
    link: Link, ssh: LoopbackSsh, astronaut: NDArray[np.uint8]
) -> None:
    parent = (ssh.home / PLACE).parent
    for name, age_s in ((f".{NAME}.dead", 2 * 3600), (f".{NAME}.busy", 60)):
        (parent / name / "incoming").mkdir(parents=True)
        os.utime(parent / name, (time.time() - age_s,) * 2)
    deploy(link, NAME, astronaut)
    assert sorted(path.name for path in parent.iterdir()) == [f".{NAME}.busy", NAME]


class Damaging(SshLink):
    """A way on which one byte is changed."""

    def put(self, source: Path, target: str, *, timeout_s: float) -> None:
        super().put(source, target, timeout_s=timeout_s)
        weights = Path(target) / "dense.bin"
        content = bytearray(weights.read_bytes())
        content[1000] ^= 1
        weights.write_bytes(content)


def test_a_byte_that_changed_on_the_way(
    ssh: LoopbackSsh, occupied: dict[str, bytes | None], astronaut: NDArray[np.uint8]
) -> None:
    board = ssh.board()
    with pytest.raises(BundleHashError, match=r"robot \(board at robot1\): .*dense.bin: sha256"):
        deploy(Damaging(board, board.python), NAME, astronaut)
    assert settled(ssh, occupied)


def test_other_faces_there(
    link: Link, ssh: LoopbackSsh, occupied: dict[str, bytes | None], astronaut: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    detect = Client.detect

    def moved(client: Client, loaded: LoadedBundle, picture: NDArray[np.uint8]) -> Faces:
        faces = detect(client, loaded, picture)
        return replace(faces, boxes=faces.boxes + 40)

    monkeypatch.setattr(Client, "detect", moved)
    with pytest.raises(DeviceError, match=r"finds other faces there \(1 face here and there, 0 of them at the same"):
        deploy(link, NAME, astronaut)
    assert settled(ssh, occupied)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB, which root may mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_that_is_full(link: Link, tiny_disk: Path, astronaut: NDArray[np.uint8]) -> None:
    (tiny_disk / "mine").write_text("mine")
    with pytest.raises(DeviceError, match="robot at robot1: its disk is full: free some space there"):
        deploy(link, NAME, astronaut, directory=str(tiny_disk / "models" / NAME))
    until = time.monotonic() + DEADLINE_S
    while (left := [p for p in tiny_disk.rglob("*") if p.is_file()]) != [tiny_disk / "mine"]:
        assert time.monotonic() < until, left


def test_a_file_that_is_too_large_for_the_board(
    link: Link, ssh: LoopbackSsh, occupied: dict[str, bytes | None], astronaut: NDArray[np.uint8]
) -> None:
    ssh.behave("ulimit -f 100")
    with pytest.raises(DeviceError, match="robot at robot1: its user may not write as much"):
        deploy(link, NAME, astronaut)
    assert settled(ssh, occupied)


def test_a_folder_that_is_no_bundle_stays(link: Link, ssh: LoopbackSsh, astronaut: NDArray[np.uint8]) -> None:
    (ssh.home / "robot").mkdir()
    (ssh.home / "robot" / "diary").write_text("dear diary")
    before = ssh.files()
    with pytest.raises(OutputError, match="robot: exists and is not a bundle: choose another --out"):
        deploy(link, NAME, astronaut, directory="~/robot")
    assert settled(ssh, before)


def test_an_engine_that_the_board_lacks(
    link: Link, ssh: LoopbackSsh, astronaut: NDArray[np.uint8]
) -> None:
    for package in ("ai_edge_litert", "tflite_runtime"):
        (ssh.folder / "bare" / package).mkdir(parents=True)
        (ssh.folder / "bare" / package / "__init__.py").write_text(f"raise ImportError('no {package}')")
    ssh.behave(f"export PYTHONPATH='{ssh.folder}/bare'")
    with pytest.raises(MissingExtraError, match=r"robot \(board at robot1\): .*tflite"):
        deploy(link, "mos_s-int8-tflite", astronaut)
    empty = (".local", ".local/share", ".local/share/edgeface", ".local/share/edgeface/bundles")
    assert settled(ssh, dict.fromkeys(empty))


def test_a_checkpoint_is_no_bundle(link: Link, tmp_path: Path, astronaut: NDArray[np.uint8]) -> None:
    (tmp_path / "net.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(BundleError, match=r"net.pt: is not a bundle: make one with edgeface convert"):
        deploy(link, tmp_path / "net.pt", astronaut)


def test_a_name_that_would_lead_elsewhere(link: Link, ssh: LoopbackSsh) -> None:
    with Client(link) as client:
        for name in ("../x", "", ".hidden", "a/b"):
            with pytest.raises(OptionError, match="has no place of its own"):
                client.request("receive", {"name": name})
        with pytest.raises(DeviceError, match="no bundle was received for it"):
            client.request("keep", {"directory": "/nowhere"})


def test_where_bundles_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert user_folders.bundles_directory() == Path("/data/edgeface/bundles")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/pi")
    assert user_folders.bundles_directory() == Path("/home/pi/.local/share/edgeface/bundles")


def faces(*boxes: tuple[float, float, float, float], score: float = 0.9, pose: float = 0.0) -> Faces:
    n = len(boxes)
    return Faces(
        np.array(boxes, np.float32).reshape(n, 4), np.full(n, score, np.float32),
        np.zeros((n, 5, 2), np.float32), np.full((n, 3), pose, np.float32),
    )


def test_agreement_of_faces() -> None:
    one, other = (0.0, 0.0, 100.0, 100.0), (200.0, 0.0, 260.0, 60.0)
    shifted = (1.0, 0.0, 101.0, 100.0)
    raw = {"score": np.array([0.0, 4.0], np.float32)}
    same = compare(faces(one, other), faces(other, shifted), raw, {"score": np.array([1.0, 4.0], np.float32)})
    assert same.is_same
    assert (same.matched, same.box_px, same.raw_difference) == (2, 1.0, 0.25)
    assert same.text.startswith("2 faces here and there; boxes within 1 px; scores within 0;")
    assert not compare(faces(one), faces(other), raw, raw).is_same
    assert not compare(faces(one), faces(one, other), raw, raw).is_same
    assert not compare(faces(one), faces(), raw, raw).is_same
    assert not compare(faces(one), faces(one, score=0.8), raw, raw).is_same
    assert not compare(faces(one), faces(one, pose=5.0), raw, raw).is_same
    masked = [replace(faces(one), attributes={"mask": np.array([p], np.float32)}) for p in (0.9, 0.895, 0.4)]
    assert compare(masked[0], masked[1], raw, raw).is_same
    assert "attributes within 0.005;" in compare(masked[0], masked[1], raw, raw).text
    assert not compare(masked[0], masked[2], raw, raw).is_same
    nothing = compare(faces(), faces(), raw, {})
    assert nothing.is_same
    assert nothing.raw_difference == 1.0
    assert nothing.box_px is None


@pytest.fixture
def own_board(ssh: LoopbackSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """robot.toml among the user's own boards."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return ssh.describe(tmp_path / "config" / "edgeface" / "devices" / "robot.toml")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["deploy", *arguments])


def test_the_command_says_where_the_bundle_lies_and_how_to_load_it(own_board: Path, ssh: LoopbackSsh) -> None:
    result = run(NAME, "--device", "robot")
    assert result.exit_code == 0, result.output
    there = ssh.home / PLACE
    lines = result.stdout.splitlines()
    assert lines[0] == f"{NAME} -> robot (board at robot1): {there}"
    assert "every sha256 there is bundle.json's" in lines[1]
    assert "1 face here and there" in lines[2]
    assert f"edgeface.load({str(there)!r})" in lines[3]
    assert f"--model '{there}'" in lines[3]
    assert result.stderr == ""


def test_the_command_s_json(own_board: Path, ssh: LoopbackSsh, tmp_path: Path) -> None:
    from edgeface.images import write_image

    write_image(tmp_path / "grey.png", np.full((120, 160, 3), 90, np.uint8))
    result = run(NAME, "--device", "robot", "--picture", str(tmp_path / "grey.png"), "--json")
    assert result.exit_code == 0, result.output
    done = msgspec.convert(json.loads(result.stdout), Deployment)
    assert (done.directory, done.agreement.here) == (str(ssh.home / PLACE), 0)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        ((NAME, "--device", "robto"), 2, "no device 'robto'. Did you mean 'robot'?"),
        (("no_such", "--device", "robot"), 2, "no model 'no_such'"),
        ((NAME, "--device", "robot", "--picture", "none.jpg"), 3, "none.jpg: no such file"),
        ((NAME,), 2, "Missing option '--device'"),
    ],
)
def test_the_command_s_mistakes(own_board: Path, arguments: tuple[str, ...], exit_code: int, said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == exit_code
    assert said in result.stderr
    assert result.stdout == ""


def test_the_command_s_failure_is_one_line(own_board: Path, ssh: LoopbackSsh) -> None:
    ssh.trust(None)
    result = run(NAME, "--device", "robot")
    assert result.exit_code == DeviceError.exit_code
    [line] = result.stderr.splitlines()
    assert line.startswith("edgeface: robot at robot1: its host key is not known here")
