"""A real sshd on loopback with keys of its own, whose home folder is a board for the tests."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
DEADLINE_S = 20.0


def require_ssh() -> str:
    """The path of sshd; skips where the system lacks what these tests run."""
    if SSHD is None or shutil.which("ssh") is None or shutil.which("rsync") is None:
        pytest.skip("no sshd, ssh or rsync: sudo apt install openssh-server openssh-client rsync")
    return SSHD


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return path


def public(key: Path) -> str:
    return key.with_name(f"{key.name}.pub").read_text().strip()


class LoopbackSsh:
    """A running sshd. ``home`` is the home folder of whoever comes in; ``config`` is the client's configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.key, self.host_key = make_key(folder / "user_key"), make_key(folder / "host_key")
        self.known_hosts = folder / "known hosts"
        self.config = folder / "ssh config"        # with a space, as people have them
        self._shell = folder / "shell"
        self.behave()
        self.port = self._start()
        self.trust(self.host_key)
        self.configure()

    def reset(self) -> None:
        """As it was in the beginning, with an empty home folder."""
        for entry in self.home.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        self.behave()
        self.trust(self.host_key)
        self.configure()

    def files(self) -> dict[str, bytes | None]:
        """Everything in the home folder: the content of files, None for folders."""
        entries = sorted(self.home.rglob("*"))
        return {str(p.relative_to(self.home)): p.read_bytes() if p.is_file() else None for p in entries}

    def behave(self, *lines: str) -> None:
        """What the shell of the board does before every command, as lines of sh; nothing by default."""
        start = [f"export HOME={shlex.quote(str(self.home))}", "cd", *lines]
        script = "\n".join(["#!/bin/sh", *start, 'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"', ""])
        # Put there whole: a session may be starting.
        fresh = self._shell.with_suffix(".new")
        fresh.write_text(script)
        fresh.chmod(0o755)
        fresh.replace(self._shell)

    def configure(self, **changes: str) -> None:
        """Write the client's configuration, with other values for some of its keywords."""
        words = {
            "HostName": "127.0.0.1", "Port": str(self.port), "User": getpass.getuser(), "IdentitiesOnly": "yes",
            "IdentityAgent": "none", "IdentityFile": f'"{self.key}"', "UserKnownHostsFile": f'"{self.known_hosts}"',
            "GlobalKnownHostsFile": "/dev/null",
        } | changes
        self.config.write_text("Host robot1\n" + "".join(f"  {word} {value}\n" for word, value in words.items()))

    def trust(self, key: Path | None) -> None:
        """Have the client know this host key, or none."""
        kind, value = public(key or self.host_key).split()[:2]
        self.known_hosts.write_text("" if key is None else f"[127.0.0.1]:{self.port} {kind} {value}\n")

    def _start(self) -> int:
        authorized = self.folder / "authorized_keys"
        authorized.write_text(public(self.key) + "\n")
        if os.geteuid() == 0:
            # sshd's own unprivileged half lives there; the system's service makes it when it starts.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for _attempt in range(5):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            config = self.folder / "sshd_config"
            config.write_text("\n".join([
                f"ListenAddress 127.0.0.1:{port}", f'HostKey "{self.host_key}"', f'AuthorizedKeysFile "{authorized}"',
                "PidFile none", "StrictModes no", "UsePAM no", "PasswordAuthentication no",
                "KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password", "MaxStartups 50",
                f"ForceCommand {shlex.quote(str(self._shell))}", "",
            ]))
            self.log = self.folder / "sshd.log"
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    [require_ssh(), "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stderr=log
                )
            if self._listens(port):
                return port
        raise RuntimeError(f"sshd does not start: {self.log.read_text()}")

    def _listens(self, port: int) -> bool:
        until = time.monotonic() + DEADLINE_S
        while time.monotonic() < until and self._process.poll() is None:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    return True
            time.sleep(0.02)
        return False

    def sessions(self) -> list[int]:
        """The process numbers of sshd's children: a connection each."""
        found, parents = [], {self._process.pid}
        entries = [(int(p.name), *_name_and_parent(p)) for p in Path("/proc").iterdir() if p.name.isdigit()]
        for pid, name, parent in sorted(entries):
            if parent in parents and name.startswith("sshd"):
                found.append(pid)
                parents.add(pid)
        return found

    def cut(self) -> None:
        """Cut every connection, as a board does that loses its power."""
        for pid in self.sessions():
            os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        self.cut()
        self._process.kill()
        self._process.wait()

    def cut_when(self, path: Path) -> threading.Thread:
        """Cut every connection as soon as ``path`` exists; the thread that waits for it."""

        def wait() -> None:
            until = time.monotonic() + DEADLINE_S
            while not path.exists() and time.monotonic() < until:
                time.sleep(0.02)
            self.cut()

        thread = threading.Thread(target=wait)
        thread.start()
        return thread

    def board(self, **changes: Any) -> Any:
        """The Board of it, with this test's Python there."""
        from edgeface.devices import boards

        host = boards.find("host")
        told = {
            "name": "robot", "local": False, "address": "robot1", "ssh_config": str(self.config),
            "python": sys.executable,
        }
        return msgspec.structs.replace(host, **(told | changes))

    def describe(self, path: Path, *lines: str) -> Path:
        """Write the TOML of a board that extends rpi4 and is reached here; ``lines`` instead of its python."""
        path.parent.mkdir(parents=True, exist_ok=True)
        words = ['extends = "rpi4"', 'address = "robot1"', f'ssh_config = "{self.config}"']
        path.write_text("\n".join([*words, *(lines or [f'python = "{sys.executable}"']), ""]))
        return path


def _name_and_parent(process: Path) -> tuple[str, int]:
    try:
        name, _, rest = (process / "stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return "", 0
    return name, int(rest.split()[1])


@contextmanager
def loopback_ssh(folder: Path) -> Iterator[LoopbackSsh]:
    require_ssh()
    server = LoopbackSsh(folder)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])
