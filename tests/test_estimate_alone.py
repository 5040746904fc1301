"""A root in which a board has the cores alone that are counted for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from edgeface.devices import boards
from edgeface.devices.emulation.identity import identity_files, write_identity
from edgeface.devices.emulation.root import EmulatedRoot
from edgeface.devices.estimate.count import alone


@pytest.fixture
def root(tmp_path: Path) -> EmulatedRoot:
    directory = tmp_path / "root"
    (directory / "usr" / "bin").mkdir(parents=True)
    (directory / "usr" / "bin" / "python3.11").write_text("a program")
    (directory / "lib").symlink_to("usr/lib")
    write_identity(identity_files(boards.find("rk3399")), directory)
    return EmulatedRoot("rk3399", directory, tmp_path / "site", tmp_path / "project", Path("/usr/bin/qemu-aarch64"))


@pytest.mark.parametrize(("cpu", "part", "cores"), [("cortex-a72", "0xd08", 2), ("cortex-a53", "0xd03", 4)])
def test_every_core_that_is_seen_is_of_the_kind(
    root: EmulatedRoot, tmp_path: Path, cpu: str, part: str, cores: int
) -> None:
    seen = alone(root, cpu, tmp_path / "seen")
    described = (seen.directory / "proc" / "cpuinfo").read_text()
    assert re.findall(r"CPU part\t: (\S+)", described) == [part] * cores
    assert (seen.directory / "sys/devices/system/cpu/present").read_text() == f"0-{cores - 1}\n"
    assert seen.python.read_text() == "a program"
    assert (seen.site, seen.project) == (root.site, root.project)
    # The root itself is not touched.
    assert (root.directory / "sys/devices/system/cpu/present").read_text() == "0-5\n"


def test_a_board_without_such_cores_is_left_as_it_is(root: EmulatedRoot, tmp_path: Path) -> None:
    assert alone(root, "cortex-a76", tmp_path / "seen") is root
