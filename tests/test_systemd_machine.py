"""The camera as a service of a real systemd: one that is PID 1 of a container over this machine's own files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NSPAWN = shutil.which("systemd-nspawn")
BOOT_S, STEP_S = 60.0, 90.0
UNIT = "edgeface-camera"

Inside = Callable[..., subprocess.CompletedProcess[str]]


def until(what: Callable[[], bool], deadline_s: float) -> bool:
    end = time.monotonic() + deadline_s
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def first_child(pid: int) -> int | None:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


def command_line(leader: int, *words: str) -> list[str]:
    """In the container, with nothing of this process's environment."""
    clean = ["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]
    return ["nsenter", "-t", str(leader), "-m", "-p", "-n", "-u", "-i", "--", *clean, *words]


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Inside]:
    """Runs a command in a container that systemd started; skips where this machine gives none."""
    if NSPAWN is None or os.geteuid() != 0:
        pytest.skip("needs root and systemd-nspawn: apt-get install systemd-container")
    root, upper, work = (tmp_path / name for name in ("root", "upper", "work"))
    for folder in (root, upper, work):
        folder.mkdir()
    layers = f"lowerdir=/,upperdir={upper},workdir={work}"
    mounted = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", layers, root], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no overlay can be mounted here: {mounted.stderr.strip()}")
    machine = subprocess.Popen(
        [NSPAWN, "-q", "-D", root, "--boot", "--register=no", "--keep-unit", "--private-network", "--link-journal=no",
         "--console=pipe", f"--machine=edgeface-{os.getpid()}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )
    try:
        def run(*words: str) -> subprocess.CompletedProcess[str]:
            leader = first_child(machine.pid)
            assert leader is not None
            return subprocess.run(
                command_line(leader, *words), capture_output=True, text=True, timeout=STEP_S, check=False
            )

        def is_up() -> bool:
            leader = first_child(machine.pid) if machine.poll() is None else None
            return machine.poll() is not None or (
                leader is not None and run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")
            )

        if not until(is_up, BOOT_S) or machine.poll() is not None:
            machine.kill()
            pytest.skip(f"no systemd starts in a container here: {(machine.communicate()[1] or 'no answer').strip()}")
        if run(sys.executable, "-c", "import edgeface").returncode:
            pytest.skip("the container does not see this Python: it is on a file system of its own")
        yield run
    finally:
        if machine.poll() is None:
            machine.send_signal(signal.SIGTERM)
            try:
                machine.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                machine.kill()
                machine.communicate()
        subprocess.run(["umount", "-l", root], check=False)


def test_systemd_starts_restarts_and_removes_the_service(inside: Inside) -> None:
    def edgeface(*words: str) -> subprocess.CompletedProcess[str]:
        return inside(sys.executable, "-m", "edgeface", "service", *words)

    def state() -> dict[str, object]:
        done = edgeface("status", "--json")
        found: dict[str, object] = json.loads(done.stdout)
        assert (done.returncode == 0) is (found["active"] == "active")
        return found

    folder = "/srv/door"
    assert inside("mkdir", "-p", folder).returncode == 0
    camera = ("--source", "demo", "--size", "128", "--json", "seen.jsonl")
    done = edgeface("install", "--run-as", "root", "--folder", folder, *camera)
    assert done.returncode == 0, done.stderr
    for step in (("daemon-reload",), ("enable", "--now", UNIT)):
        done = inside("systemctl", *step)
        assert done.returncode == 0, done.stderr
    started = state()
    assert (started["active"], started["starts_with_machine"], started["restarts"]) == ("active", True, 0)
    assert inside("kill", "-9", str(started["pid"])).returncode == 0
    assert until(lambda: state()["restarts"] == 1, STEP_S)
    assert until(lambda: state()["active"] == "active", STEP_S)
    assert "Scheduled restart job" in edgeface("logs").stdout
    assert edgeface("uninstall").returncode == 0
    assert inside("systemctl", "is-active", UNIT).stdout.strip() == "inactive"
    assert inside("test", "-e", f"/etc/systemd/system/{UNIT}.service").returncode == 1
