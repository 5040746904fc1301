"""The systemd unit, judged by systemd's own tools where they are installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgeface.cli import main
from edgeface.errors import OptionError
from edgeface.stream.service import Service, require_rights

ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze here: apt-get install systemd")


def install(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["service", "install", *map(str, arguments)])


def settings(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_runs_the_camera_with_the_options_given(tmp_path: Path) -> None:
    done = install("--print", "--folder", tmp_path, "--source", "demo", "--show", "--size", "320")
    assert done.exit_code == 0
    unit = settings(done.stdout)
    assert unit["ExecStart"] == [f"{sys.executable} -m edgeface camera --source demo --show --size 320"]
    assert unit["ExecStartPre"] == [unit["ExecStart"][0] + " --check"]
    assert unit["Type"] == ["notify"]
    assert unit["WatchdogSec"] == ["60"]
    assert unit["Restart"] == ["always"]
    assert unit["ReadWritePaths"] == [str(tmp_path)]


@needs_systemd
@pytest.mark.parametrize("own", [False, True])
def test_systemd_accepts_the_unit(tmp_path: Path, own: bool) -> None:
    options = ["--user"] if own else []
    done = install("--print", *options, "--folder", tmp_path, "--source", "demo", "--show")
    path = tmp_path / "edgeface-camera.service"
    path.write_text(done.stdout)
    verified = subprocess.run(
        [str(ANALYZE), "verify", *options, str(path)], capture_output=True, text=True, timeout=60,
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert (verified.returncode, verified.stderr) == (0, "")


@needs_systemd
def test_systemd_finds_the_unit_little_exposed(tmp_path: Path) -> None:
    path = tmp_path / "edgeface-camera.service"
    path.write_text(install("--print", "--folder", tmp_path, "--source", "demo").stdout)
    judged = subprocess.run(
        [str(ANALYZE), "security", "--offline=yes", "--no-pager", "--threshold=30", str(path)],
        capture_output=True, text=True, timeout=60,
    )
    assert judged.returncode == 0, judged.stdout
    exposure = re.search(r"Overall exposure level .*: ([\d.]+)", judged.stdout)
    assert exposure is not None
    assert float(exposure[1]) < 3.0


def test_words_that_mean_something_to_systemd_stay_words(tmp_path: Path) -> None:
    service = Service("cam", ["/usr/bin/python3"], ["--source", 'rtsp://h/a b?c=%20&d="$HOME"'], tmp_path, "robot")
    (run,) = settings(service.unit())["ExecStart"]
    assert run == '/usr/bin/python3 camera --source "rtsp://h/a b?c=%%20&d=\\"$$HOME\\""'


def test_a_unit_of_ones_own_is_written_where_systemd_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    done = install("--user", "--name", "door", "--folder", tmp_path, "--source", "demo")
    assert done.exit_code == 0
    path = tmp_path / "config" / "systemd" / "user" / "door.service"
    assert "systemctl --user daemon-reload && systemctl --user enable --now door" in done.stdout
    unit = path.read_text()
    assert "User=" not in unit
    assert "WantedBy=default.target" in unit


def test_options_that_cannot_work_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    done = install("--user", "--source", "demo", "--detect-every", "3", "--no-track")
    assert done.exit_code == 2
    assert "frames are left out only where tracking fills in" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert install("--user", "--source", "demo", "--no-such-option").exit_code == 2
    assert install("--user", "--run-as", "robot", "--source", "demo").exit_code == 2


def test_files_are_looked_for_where_the_service_will(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = tmp_path / "robot", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "camera.toml").write_text('[source]\nsource = "demo"\n')
    monkeypatch.chdir(elsewhere)
    options = ("--print", "--config", "camera.toml")
    assert install(*options).exit_code == 2
    done = install(*options, "--folder", folder)
    assert done.exit_code == 0
    assert settings(done.stdout)["WorkingDirectory"] == [str(folder)]
    assert Path.cwd() == elsewhere


@pytest.mark.parametrize(("options", "says"), [
    (("--source", "demo", "--show", "--token", "a-token-of-good-length"), "EDGEFACE_TOKEN=... into"),
    (("--source", "rtsp://me:secret@camera/1"), "a file for --config"),
    (("--source", "http://camera/live?user=me&pwd=secret"), "a file for --config"),
    (("--source", "demo", "--mqtt", "mqtt://me:secret@broker"), "a file for --config"),
])
def test_what_others_must_not_read_is_not_in_the_unit(options: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = install("--print", "--folder", tmp_path, *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr
    assert "secret" not in done.stderr
    assert install("--print", "--folder", tmp_path, "--source", "demo", "--mqtt", "mqtt://me@broker").exit_code == 0


@pytest.mark.parametrize("name", ["", "a b", "../x", "é"])
def test_names_that_are_no_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be named"):
        Service(name, ["python3"], [], tmp_path, None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try what another user may do")
def test_a_service_is_not_written_for_a_user_that_cannot_run_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(OptionError, match="no user 'no-such-user' here: name another with --run-as"):
        require_rights(Service("cam", [sys.executable], [], tmp_path, "no-such-user"))
    with pytest.raises(OptionError, match=f"nobody cannot run {sys.executable} in .*: install edgeface where"):
        require_rights(Service("cam", [sys.executable], [], tmp_path, "nobody"))
    require_rights(Service("cam", [sys.executable], [], tmp_path, "root"))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's own units, with systemctl and journalctl that note what they are asked for: they stand
    in for a systemd that runs, which the machine of a test seldom has for it to play with."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("systemctl", "journalctl"):
        path = programs / name
        path.write_text(
            f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/asked\ncat {tmp_path}/answer 2> {os.devnull}\n'
            f'[ ! -e {tmp_path}/fails ] || {{ cat {tmp_path}/fails >&2; exit 1; }}\n'
        )
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert install("--user", "--folder", tmp_path, "--source", "demo").exit_code == 0
    return tmp_path / "config" / "systemd" / "user"


def service(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["service", *arguments])


def test_a_service_that_is_there_is_replaced_only_when_asked_to(own: Path, tmp_path: Path) -> None:
    options = ("--user", "--folder", tmp_path, "--source", "demo", "--size", "320")
    unit = own / "edgeface-camera.service"
    before = unit.read_text()
    done = install(*options)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"edgeface: {unit}: is there already: --replace ")
    assert len(done.stderr.splitlines()) == 1
    assert unit.read_text() == before
    replaced = install("--replace", *options)
    assert replaced.exit_code == 0
    assert "restart edgeface-camera" in replaced.stdout
    assert "--size 320" in unit.read_text()


def test_uninstall_stops_and_removes_it(own: Path, tmp_path: Path) -> None:
    done = service("uninstall", "--user")
    assert (done.exit_code, done.stdout) == (0, f"{own}/edgeface-camera.service: stopped and removed\n")
    assert list(own.iterdir()) == []
    assert (tmp_path / "asked").read_text().splitlines() == [
        "systemctl --user --no-pager disable --now edgeface-camera.service",
        "systemctl --user --no-pager daemon-reload",
    ]
    again = service("uninstall", "--user")
    assert again.exit_code == 11
    assert "no such service: 'edgeface service install' writes one" in again.stderr


def test_a_service_that_systemd_does_not_stop_stays(own: Path, tmp_path: Path) -> None:
    (tmp_path / "fails").write_text("Failed to connect to bus:\nNo medium found\n")
    done = service("uninstall", "--user")
    assert done.exit_code == 11
    assert done.stderr.startswith("edgeface: systemctl disable --now: Failed to connect to bus: No medium found: ")
    assert "edgeface-camera.service stays, remove it by hand" in done.stderr
    assert (own / "edgeface-camera.service").exists()


def test_services_of_others_are_let_alone(own: Path, tmp_path: Path) -> None:
    (own / "ssh.service").write_text("[Unit]\nDescription=OpenSSH\n")
    for verb in ("uninstall", "status", "logs"):
        done = service(verb, "--user", "--name", "ssh")
        assert done.exit_code == 11
        assert "was not written by 'edgeface service'" in done.stderr
    assert install("--user", "--replace", "--name", "ssh", "--folder", tmp_path, "--source", "demo").exit_code == 11
    assert "OpenSSH" in (own / "ssh.service").read_text()
    assert not (tmp_path / "asked").exists()
    assert "there is edgeface-camera: give --name" in service("status", "--user", "--name", "door").stderr


def test_status_says_what_systemd_knows(own: Path, tmp_path: Path) -> None:
    known = {
        "ActiveState": "active", "SubState": "running", "StatusText": "stalled: no frame for 3 s", "MainPID": "42",
        "NRestarts": "1", "Result": "success", "UnitFileState": "enabled", "ActiveEnterTimestamp": "Sun 2026-11-29",
    }
    (tmp_path / "answer").write_text("".join(f"{key}={value}\n" for key, value in known.items()))
    done = service("status", "--user")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "edgeface-camera: active (running) since Sun 2026-11-29",
        "camera    stalled: no frame for 3 s",
        "process   42, restarted 1 time",
        "at start  starts with the machine",
        f"unit      {own}/edgeface-camera.service",
    ]
    ended = known | {"ActiveState": "failed", "SubState": "failed", "Result": "watchdog", "MainPID": "0"}
    (tmp_path / "answer").write_text("".join(f"{key}={value}\n" for key, value in ended.items()))
    done = service("status", "--user")
    assert done.exit_code == 3
    assert "last run  watchdog: edgeface service logs --user --name edgeface-camera" in done.stdout
    record = json.loads(service("status", "--user", "--json").stdout)
    assert (record["active"], record["result"], record["pid"], record["restarts"]) == ("failed", "watchdog", None, 1)


def test_logs_are_the_journals_of_this_service(own: Path, tmp_path: Path) -> None:
    assert service("logs", "--user", "--lines", "7").exit_code == 0
    asked = (tmp_path / "asked").read_text()
    assert asked == "journalctl --user --unit edgeface-camera.service --lines=7 --no-pager\n"


def test_a_machine_without_systemd_is_named(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for verb in ("uninstall", "status", "logs"):
        done = service(verb, "--user")
        assert done.exit_code == 11
        assert "this machine is not run by systemd" in done.stderr
    assert (own / "edgeface-camera.service").exists()
