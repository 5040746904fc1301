"""``edgeface devices``: what boards are said to be, what they are, and making one ready."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from edgeface.devices import boards, install_script
from edgeface.devices.boards import Board
from edgeface.devices.cores import Cluster, Midr
from edgeface.devices.machine import Machine
from edgeface.devices.probe import differences

from board_wheel import link_dependencies, make_wheel
from edgeface.cli import main
from edgeface.errors import DeviceError
from loopback_ssh import LoopbackSsh

ENVIRONMENT = ".local/share/edgeface"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's own boards."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "edgeface" / "devices"
    folder.mkdir(parents=True)
    return folder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["devices", *map(str, arguments)])


def printed(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_list_says_how_each_would_be_reached(own: Path) -> None:
    (own / "robot1.toml").write_text('extends = "rk3399"\naddress = "pi@robot1"\nport = 2222\n')
    rows = [line.split("  ") for line in printed("list").splitlines()]
    told = {row[0].strip(): row[-1].strip() for row in rows}
    assert told["NAME"] == "REACHED"
    assert told["host"] == "this machine"
    assert told["rk3399"] == "emulated cortex-a72, cortex-a53"
    assert told["robot1"] == "board at pi@robot1, port 2222"
    assert {"rpi4", "rpi5", "rk3588"} <= told.keys()
    listed = json.loads(printed("list", "--json"))
    assert {"name": "robot1", "title": boards.find("rk3399").title, "link": "ssh",
            "reached": "board at pi@robot1, port 2222"} in listed


def test_a_board_that_is_described_wrong_does_not_hide_the_others(own: Path) -> None:
    (own / "robot1.toml").write_text("extends = 3")
    result = run("list")
    assert result.exit_code == DeviceError.exit_code
    assert "rk3399" in result.stdout
    assert str(own / "robot1.toml") in result.stderr


def test_info_of_a_board() -> None:
    text = printed("info", "rk3399")
    for expected in (
        "CPU 4-5     cortex-a72 r0p2, armv8.0-a, 408 to 1800 MHz", "reached     emulated cortex-a72, cortex-a53",
        "memory      4096 MB", "engine      ncnn, 2 threads on CPU 4-5",
    ):
        assert expected in text
    assert "kernels" not in text
    described = json.loads(printed("info", "rk3399", "--json"))
    assert described.pop("reached") == "emulated cortex-a72, cortex-a53"
    assert described.pop("installed") is None
    assert msgspec.convert(described, Board) == boards.find("rk3399")


def test_info_of_this_machine_says_what_is_installed() -> None:
    from edgeface.runtime.kernels import status

    text = printed("info", "host")
    assert f"kernels     {status().text}" in text
    assert "engines     ncnn " in text


def test_probe_of_this_machine_has_nothing_to_warn_of() -> None:
    result = run("probe", "host")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "reached     this machine" in result.stdout
    found = json.loads(printed("probe", "host", "--json"))
    assert found["machine"]["memory_mb"] > 0
    assert found["warnings"] == []


def test_probe_over_ssh_warns_where_the_description_is_wrong(own: Path, ssh: LoopbackSsh) -> None:
    ssh.describe(own / "robot.toml")
    result = run("probe", "robot")
    assert result.exit_code == 0, result.output
    assert "reached     board at robot1" in result.stdout
    assert f"Python {sys.version.split()[0]}" in result.stdout
    warnings = result.stderr.splitlines()
    assert warnings
    assert all(line.startswith("edgeface: warning: robot.toml: ") for line in warnings)
    # A Raspberry Pi has four processors, of another kind.
    core = boards.find("host").clusters[0].core
    assert any(f"is {core}, described is cortex-a72" in line for line in warnings)
    assert any(line.startswith("edgeface: warning: robot.toml: memory_mb: it has ") for line in warnings)


A53 = Cluster("cortex-a53", [0, 1], 1416, "armv8.0-a", ["fp", "asimd"], 408, 381, Midr(0xD03, 0, 4))
A72 = Cluster("cortex-a72", [2, 3], 1800, "armv8.0-a", ["fp", "asimd"], 408, 1024, Midr(0xD08, 0, 2))


def board(**changes: object) -> Board:
    plain = Board("b", "a board", 4096, [A53, A72], 2, [2, 3], "ncnn", ["cortex-a72"], ["cpu-thermal"])
    return msgspec.structs.replace(plain, **changes)


def machine(*clusters: Cluster, usable: list[int] | None = None, memory_mb: int = 3800) -> Machine:
    return Machine("a board", "aarch64", "6.1", memory_mb, list(clusters), usable or [0, 1, 2, 3], ["cpu-thermal"])


def changed(cluster: Cluster, **changes: object) -> Cluster:
    return msgspec.structs.replace(cluster, **changes)


@pytest.mark.parametrize(
    ("described", "real", "said"),
    [
        (board(), machine(A53, A72), []),
        (board(memory_mb=2048), machine(A53, A72), ["memory_mb: it has 3800 MB, described are 2048"]),
        (board(), machine(A53, A72, memory_mb=1900), ["memory_mb: it has 1900 MB, described are 4096"]),
        (board(), machine(A53), ["clusters: there is no CPU 2-3"]),
        (board(clusters=[A53], affinity=[0]), machine(A53, A72), ["clusters: CPU 2-3 (cortex-a72) is not described"]),
        (board(), machine(A53, changed(A72, core="cortex-a76", mhz=1)),
         ["clusters: CPU 2-3 is cortex-a76, described is cortex-a72"]),
        (board(), machine(A53, changed(A72, mhz=1992)),
         ["clusters: CPU 2-3 runs at 1992 MHz at most, described are 1800"]),
        (board(), machine(A53, changed(A72, mhz=0)), []),
        (board(), machine(A53, changed(A72, midr=Midr(0xD08, 1, 3))),
         ["clusters: CPU 2-3 is revision r1p3, described is r0p2"]),
        (board(), machine(A53, changed(A72, features=["fp"])), ["clusters: CPU 2-3 does not have asimd"]),
        (board(), machine(A53, changed(A72, features=["fp", "asimd", "asimddp", "sha1"])),
         ["clusters: CPU 2-3 also has asimddp, which engines make use of"]),
        (board(), machine(A53, changed(A72, isa="armv8.2-a")),
         ["clusters: CPU 2-3 shows armv8.2-a, described is armv8.0-a"]),
        (board(), machine(A53, A72, usable=[0, 1, 2]),
         ["affinity: CPU 3 cannot be used by this user: it is off, or kept for something else"]),
        (board(thermal_zones=["gpu", "cpu-thermal"]), machine(A53, A72), []),
        (board(thermal_zones=["gpu"]), machine(A53, A72),
         ["thermal_zones: gpu: none of them is there; there are: cpu-thermal"]),
    ],
)
def test_what_is_wrong_in_a_description(described: Board, real: Machine, said: list[str]) -> None:
    assert list(differences(described, real)) == said


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What edgeface needs, as packages of the board's system: nothing is downloaded."""
    return link_dependencies(tmp_path_factory.mktemp("board") / "packages")


@pytest.fixture
def bare(own: Path, ssh: LoopbackSsh, dependencies: Path) -> LoopbackSsh:
    """A board without edgeface, robot, whose python3 is that of the tests."""
    (ssh.home / "bin").mkdir()
    (ssh.home / "bin" / "python3").symlink_to(sys.executable)
    ssh.describe(own / "robot.toml", "")
    ssh.behave(f"export PATH=~/bin:$PATH PIP_NO_INDEX=1 PIP_NO_COMPILE=1 PYTHONPATH='{dependencies}'")
    return ssh


def installed(ssh: LoopbackSsh) -> list[Path]:
    return sorted((ssh.home / ENVIRONMENT / "venvs").iterdir())


def setup_error(*arguments: str | Path) -> str:
    """The one line of a setup that fails."""
    result = run("setup", "robot", *arguments)
    assert result.exit_code == DeviceError.exit_code, result.output
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    return line.removeprefix("edgeface: ")


def test_setup_installs_edgeface_on_a_board_and_keeps_it_when_the_next_does_not_work(
    bare: LoopbackSsh, dependencies: Path, tmp_path: Path
) -> None:
    assert "edgeface is not installed there: edgeface devices setup robot" in run("probe", "robot").stderr

    first = printed("setup", "robot", "--wheel", make_wheel(tmp_path))
    assert first.startswith("robot: board at robot1: edgeface ")
    [environment] = installed(bare)
    link = bare.home / ENVIRONMENT / "venv"
    assert link.resolve() == environment
    assert not list(environment.glob("*.whl"))
    assert run("probe", "robot").exit_code == 0
    environ = {**os.environ, "PYTHONPATH": str(dependencies)}
    version = [link / "bin" / "edgeface", "--version"]
    there = subprocess.run(version, capture_output=True, text=True, check=False, env=environ)
    assert there.returncode == 0, there.stderr
    assert there.stdout.startswith("edgeface ")

    (tmp_path / "broken").mkdir()
    said = setup_error("--wheel", make_wheel(tmp_path / "broken", broken=True))
    assert "no worker starts" in said
    assert "this worker is broken" in said
    assert installed(bare) == [environment]
    assert link.resolve() == environment
    assert run("probe", "robot").exit_code == 0


def test_setup_of_the_environment_that_the_description_names(
    own: Path, bare: LoopbackSsh, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", bare.home / "own"], check=True)
    bare.describe(own / "robot.toml", 'python = "~/own/bin/python"')
    assert "~/own/bin/python there has no edgeface" in run("probe", "robot").stderr
    assert run("setup", "robot", "--wheel", make_wheel(tmp_path)).exit_code == 0
    assert run("probe", "robot").exit_code == 0
    assert installed(bare) == []


def test_setup_that_is_cut_off_leaves_nothing(bare: LoopbackSsh, dependencies: Path, tmp_path: Path) -> None:
    marker = bare.folder / "installing"
    bare.behave(
        f"export PATH=~/bin:$PATH PIP_NO_INDEX=1 PIP_NO_COMPILE=1 PYTHONPATH='{dependencies}'",
        f"case $SSH_ORIGINAL_COMMAND in *' install '*) touch '{marker}';; esac",
    )
    cutter = bare.cut_when(marker)
    assert "robot at robot1: the connection broke off" in setup_error("--wheel", make_wheel(tmp_path))
    cutter.join()
    marker.unlink()
    until = time.monotonic() + 60
    while installed(bare) and time.monotonic() < until:
        time.sleep(0.1)
    assert installed(bare) == []
    assert not (bare.home / ENVIRONMENT / "venv").is_symlink()


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("py3-none-manylinux_2_27_armv7l", "is for armv7l: give a wheel for it with --wheel"),
        ("py3-none-manylinux2014_s390x.manylinux_2_17_s390x", "is for s390x"),
        ("py3-none-win_amd64", "is for win_amd64"),
        (f"py3-none-manylinux_2_99_{platform.machine()}", "needs 2.99"),
    ],
)
def test_a_wheel_that_does_not_fit(bare: LoopbackSsh, tmp_path: Path, tag: str, said: str) -> None:
    before = bare.files()
    assert said in setup_error("--wheel", make_wheel(tmp_path, tag))
    assert bare.files() == before


def python_that_says(ssh: LoopbackSsh, text: str) -> None:
    (ssh.home / "bin" / "python3").unlink()
    (ssh.home / "bin" / "python3").write_text(f"#!/bin/sh\n{text}\n")
    (ssh.home / "bin" / "python3").chmod(0o755)


@pytest.mark.parametrize(
    ("python3", "said"),
    [
        ("""echo '{"version": [3, 7, 3], "bits": 64, "machine": "aarch64", "libc": "2.28"}'""",
         "python3 there is Python 3.7.3, edgeface needs 3.10 or newer"),
        ("""echo '{"version": [3, 11, 2], "bits": 32, "machine": "armv7l", "libc": "2.36"}'""",
         "its system is a 32-bit one, for which engines have no wheels"),
        ("echo 3", "python3 there is no Python"),
        ("exit 127", "there is no python3: install it there (sudo apt install python3 python3-venv)"),
    ],
)
def test_a_python_that_does_not_do(bare: LoopbackSsh, tmp_path: Path, python3: str, said: str) -> None:
    python_that_says(bare, python3)
    before = bare.files()
    assert said in setup_error("--wheel", make_wheel(tmp_path))
    assert bare.files() == before


def test_a_board_that_finds_no_packages(bare: LoopbackSsh, tmp_path: Path) -> None:
    bare.behave("export PATH=~/bin:$PATH PIP_NO_INDEX=1")
    said = setup_error("--wheel", make_wheel(tmp_path))
    assert "pip finds no " in said
    assert "the board needs the internet" in said
    assert installed(bare) == []


def test_a_limit_that_is_reached(bare: LoopbackSsh, dependencies: Path, tmp_path: Path) -> None:
    bare.behave(f"export PATH=~/bin:$PATH PIP_NO_INDEX=1 PIP_NO_COMPILE=1 PYTHONPATH='{dependencies}'", "ulimit -f 200")
    assert "robot at robot1: its user may not write as much" in setup_error("--wheel", make_wheel(tmp_path))
    assert installed(bare) == []


def test_setup_without_a_wheel_for_this_board(bare: LoopbackSsh, tmp_path: Path) -> None:
    assert "no such wheel: make one with" in setup_error("--wheel", tmp_path / "nothing.whl")


def test_setup_of_this_machine() -> None:
    assert "needs no setup" in printed("setup", "host")
    result = run("setup", "host", "--wheel", "x.whl")
    assert result.exit_code == 2
    assert "leave --wheel out" in result.stderr


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, object]]:
    """Runs a step of the script that boards run, here, in an empty home folder."""
    monkeypatch.setattr(install_script, "HOME", tmp_path / "edgeface")
    said: dict[str, object] = {}
    monkeypatch.setattr(install_script, "emit", lambda kind, content: said.update({kind: content}))

    def step(*arguments: str) -> dict[str, object]:
        said.clear()
        install_script.main(*arguments)
        return dict(said)

    return step


def test_prepare_removes_what_was_left_and_nothing_else(
    script: Callable[..., dict[str, object]], tmp_path: Path
) -> None:
    venvs = tmp_path / "edgeface" / "venvs"
    for name, age_s in (("current", 9e5), ("left", 9e5), ("busy", 60.0)):
        (venvs / name).mkdir(parents=True)
        os.utime(venvs / name, (time.time() - age_s,) * 2)
    (tmp_path / "edgeface" / "venv").symlink_to(venvs / "current")
    [directory] = script("prepare")["result"].values()      # type: ignore[attr-defined]  # a dict, of this operation
    assert sorted(p.name for p in venvs.iterdir()) == sorted(["busy", "current", Path(directory).name])
    script("discard", directory)
    assert sorted(p.name for p in venvs.iterdir()) == ["busy", "current"]


def test_commit_turns_the_link_and_removes_the_old_environment(
    script: Callable[..., dict[str, object]], tmp_path: Path
) -> None:
    home = tmp_path / "edgeface"
    for name in ("first", "second"):
        (home / "venvs" / name).mkdir(parents=True)
        (home / "venvs" / name / "edgeface.whl").touch()
        assert script("commit", str(home / "venvs" / name), "edgeface.whl", "") == {"result": {}}
    assert (home / "venv").resolve() == home / "venvs" / "second"
    assert sorted(str(p.relative_to(home)) for p in home.rglob("*")) == ["venv", "venvs", "venvs/second"]


def test_prepare_leaves_what_somebody_else_made(script: Callable[..., dict[str, object]], tmp_path: Path) -> None:
    (tmp_path / "edgeface" / "venv").mkdir(parents=True)
    assert "was not made by this command: move it away" in str(script("prepare")["error"])


def test_prepare_asks_for_room(
    script: Callable[..., dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=100 << 20)
    monkeypatch.setattr(install_script.shutil, "disk_usage", lambda _path: usage)
    assert str(script("prepare")["error"]).startswith("its disk is full: 100 MB are free at ")


def test_prepare_without_the_module_for_environments(
    script: Callable[..., dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install_script, "find_spec", lambda name: None if name == "ensurepip" else object())
    assert "sudo apt install python3-venv" in str(script("prepare")["error"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: edgeface-1-py3-none-any.whl is not a supported wheel on this platform.", "another architecture"),
        ("error: externally-managed-environment", "leave python out of the description"),
        ("/usr/bin/python3: No module named pip", "sudo apt install python3-pip"),
        ("ERROR: No matching distribution found for ncnn>=1", "pip finds no ncnn>=1 there"),
        ("ERROR: something new", "something new"),
    ],
)
def test_what_pip_says(line: str, said: str) -> None:
    assert said in install_script.reason(["Processing ./edgeface.whl", line, ""])


def test_completion_offers_boards(own: Path) -> None:
    (own / "robot1.toml").write_text('extends = "rk3399"\naddress = "pi@robot1"\n')
    words = {"COMP_WORDS": "edgeface devices probe ro", "COMP_CWORD": "3", "_EDGEFACE_COMPLETE": "bash_complete"}
    assert CliRunner(env=words).invoke(main, [], prog_name="edgeface").stdout.splitlines() == ["plain,robot1"]
