"""A board reached by the system's ssh and rsync: argument lists, host keys checked, a deadline on every wait."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgeface.devices.boards import Board
from edgeface.devices.emulation.programs import find_program
from edgeface.devices.progress import Progress, silent
from edgeface.devices.ssh_failures import Reached, command_failure

from edgeface.errors import DeviceLostError

CONNECT_TIMEOUT_S = 10
_LAST_WORDS_S = 2.0
# ssh gives a silent connection up after so many unanswered questions, so a board that lost its power is noticed.
_ALIVE_INTERVAL_S, _ALIVE_COUNT = 5, 3
_OPTIONS = (
    "-T",
    "-o", "BatchMode=yes",
    "-o", "StrictHostKeyChecking=yes",
    "-o", "UpdateHostKeys=no",
    "-o", "ForwardAgent=no",
    "-o", "ClearAllForwardings=yes",
    # What is said below errors, banners among it, would be taken for the reason of a failure.
    "-o", "LogLevel=ERROR",
    "-o", f"ConnectTimeout={CONNECT_TIMEOUT_S}",
    "-o", f"ServerAliveInterval={_ALIVE_INTERVAL_S}",
    "-o", f"ServerAliveCountMax={_ALIVE_COUNT}",
)  # fmt: skip


def environment() -> dict[str, str]:
    """What ssh and rsync are started with: the reasons of their failures are told apart by the English words."""
    return os.environ | {"LC_ALL": "C"}


@dataclass(frozen=True)
class SshHost:
    """A board with an address. Everything else that ssh should know comes from its own configuration."""

    board: Board

    @property
    def reached(self) -> Reached:
        """The board as messages name it."""
        return Reached(self.board.name, self._address, ["ssh", *self._where(), self._address])

    @property
    def _address(self) -> str:
        assert self.board.address is not None       # find() gives the link ssh to no other board
        return self.board.address

    def _where(self) -> list[str]:
        config = [] if self.board.ssh_config is None else ["-F", str(Path(self.board.ssh_config).expanduser())]
        port = [] if self.board.port is None else ["-p", str(self.board.port)]
        return config + port

    def command(self, words: Sequence[str]) -> list[str]:
        """The argument list that runs ``words`` on the board, in the home folder of its user.

        A word that starts with ``~/`` is taken from that folder; no other character means anything to the shell there.
        Raises InstallError when this machine has no ssh.
        """
        remote = " ".join(shlex.quote(from_home(word)) for word in words)
        return [_ssh(), *self._where(), *_OPTIONS, "--", self._address, remote]

    def run(
        self,
        words: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        watch: Progress = silent,
    ) -> list[str]:
        """The lines that ``words``, run there on ``stdin``, print on standard output; ``watch`` gets each as it comes.

        Raises DeviceError as ``command_failure`` has it, and DeviceLostError after ``timeout_s`` seconds.
        """
        return self._watched(self.command(words), words[0], stdin, timeout_s, watch)

    def copy(self, source: Path, target: str, *, timeout_s: float) -> None:
        """Copy a file to the file ``target`` there, or a folder's content into the folder ``target``.

        What was copied when an error comes stays. Raises as ``run`` does, and InstallError when this machine has no
        rsync.
        """
        self._rsync(f"{source}/" if source.is_dir() else str(source), self._there(target), timeout_s)

    def fetch(self, source: str, target: Path, *, timeout_s: float) -> None:
        """Copy the file ``source`` there to the file ``target``; errors as in ``copy``."""
        self._rsync(self._there(source), str(target), timeout_s)

    def _there(self, path: str) -> str:
        return f"{_bracketed(self._address)}:{from_home(path)}"

    def _rsync(self, source: str, target: str, timeout_s: float) -> None:
        ssh = [_ssh(), *self._where(), *_OPTIONS]
        command = [
            _rsync(), "--recursive", "--perms", "--chmod=D755,F644", "--protect-args",
            # The other ways lose what the board says when its disk is full.
            "--stderr=client",
            f"--timeout={_ALIVE_INTERVAL_S * _ALIVE_COUNT}", "--rsh", " ".join(map(_quoted_for_rsync, ssh)),
            "--", source, target,
        ]  # fmt: skip
        self._watched(command, "rsync", b"", timeout_s, silent)

    def _watched(
        self, command: Sequence[str], name: str, stdin: bytes, timeout_s: float, watch: Progress
    ) -> list[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment(), start_new_session=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        errors: list[bytes] = []
        threads = [
            threading.Thread(target=_feed, args=(process.stdin, stdin), daemon=True),
            threading.Thread(target=errors.extend, args=(process.stderr,), daemon=True),
        ]
        expired = threading.Event()

        def end() -> None:
            expired.set()
            kill()

        def kill() -> None:
            # With what it started: the ssh of an rsync would go on holding the pipes.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        clock = threading.Timer(timeout_s, end)
        for thread in (*threads, clock):
            thread.start()
        lines = []
        try:
            for raw in process.stdout:
                lines.append(raw.decode(errors="replace").rstrip("\n"))
                watch(lines[-1])
            process.wait()
        finally:
            # What a program says at its end may still be on its way through its ssh.
            threads[1].join(timeout=_LAST_WORDS_S if process.returncode is not None else 0)
            # Also after Ctrl-C: what runs on the board ends when its connection does.
            kill()
            process.wait()
            clock.cancel()
            for thread in threads:
                thread.join(timeout=_LAST_WORDS_S)
            process.stdout.close()
        if expired.is_set() and process.returncode:
            raise DeviceLostError(
                f"{self.reached}: {name} was not done within {timeout_s:g} s: look there what keeps it, and try again"
            )
        if process.returncode:
            said = b"".join(errors).decode(errors="replace").replace("\r\n", "\n")
            raise command_failure(self.reached, name, process.returncode, said)
        return lines


def _feed(stream: IO[bytes], content: bytes) -> None:
    # What ends before it has read everything says why on its standard error.
    with suppress(BrokenPipeError):
        stream.write(content)
    with suppress(BrokenPipeError):
        stream.close()


def _ssh() -> str:
    return str(find_program(["ssh"], "boards are reached by it: sudo apt-get install openssh-client"))


def _rsync() -> str:
    return str(find_program(["rsync"], "bundles and wheels are copied by it: sudo apt-get install rsync"))


def from_home(word: str) -> str:
    """ssh starts in the home folder, so a path from there needs no ``~``, which quoted would mean nothing."""
    return f".{word[1:]}" if word.startswith("~/") else word


def _quoted_for_rsync(word: str) -> str:
    """rsync splits a command at spaces outside quotes, and reads a doubled quote inside quotes as one."""
    return "'" + word.replace("'", "''") + "'"


def _bracketed(address: str) -> str:
    """rsync ends a host at the first colon; an IPv6 address has its own."""
    user, at, host = address.rpartition("@")
    return f"{user}{at}[{host}]" if ":" in host else address
