"""What a failed ssh, rsync, or the shell behind them says, as one error with the next step."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeface.errors import DeviceError, DeviceLostError, DeviceUnreachableError

# ssh's own failures have this exit status, whatever they are; a shell's 127 and 126 are a command that is not there,
# and one that cannot be run.
SSH_FAILED, NOT_FOUND, NOT_RUNNABLE = 255, 127, 126


@dataclass(frozen=True)
class Reached:
    """A board as messages name it: its name, ``address`` and the ``ssh`` command by hand, ["ssh", "pi@robot1"]."""

    name: str
    address: str
    by_hand: Sequence[str]

    def __str__(self) -> str:
        return f"{self.name} at {self.address}"

    @property
    def ssh(self) -> str:
        """The command that a user would type."""
        return shlex.join(self.by_hand)


_Advice = Callable[[Reached, str], str]


@dataclass(frozen=True)
class _Case:
    pattern: re.Pattern[str]
    error: type[DeviceError]
    advice: _Advice


def _changed_key(board: Reached, said: str) -> str:
    offending = re.search(r"^Offending \S+ key in (.+)$", said, re.M)
    sent = re.search(r"^(SHA256:\S+?)\.?$", said, re.M)
    remove = re.search(r"^\s*(ssh-keygen .+)$", said, re.M)
    return (
        f"its host key is not the one that {offending[1] if offending else 'known_hosts'} has: the board was installed "
        "anew, or another machine answers in its place. Compare "
        f"{sent[1] if sent else 'the fingerprint'} with 'ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub' on the "
        f"board itself; only if they are equal: {remove[1] if remove else 'remove that line'}; {board.ssh}"
    )


def _unknown_key(board: Reached, _said: str) -> str:
    return f"its host key is not known here: compare the fingerprint with the board's own, and accept it: {board.ssh}"


def _denied(board: Reached, said: str) -> str:
    if "UNPROTECTED PRIVATE KEY" in said:
        return "ssh ignores a private key that others may read: chmod 600 it"
    copy = shlex.join(["ssh-copy-id", *board.by_hand[1:]])
    return f"it lets in none of your keys, and passwords are never asked for here: {copy}, or ssh-add your key"


_REFUSED = re.compile(r"^ssh: connect to host (\S+) port (\d+): Connection refused", re.M)


def _refused(_board: Reached, said: str) -> str:
    found = _REFUSED.search(said)
    port = found[2] if found else "22"
    return (
        f"no ssh server listens on port {port}: start it there (sudo systemctl enable --now ssh), or mend the port"
    )


_CASES = (
    _Case(re.compile(r"REMOTE HOST IDENTIFICATION HAS CHANGED"), DeviceUnreachableError, _changed_key),
    _Case(re.compile(r"No \S+ host key is known"), DeviceUnreachableError, _unknown_key),
    _Case(re.compile(r"Host key verification failed"), DeviceUnreachableError, _unknown_key),
    _Case(
        re.compile(r"Permission denied \(|Too many authentication failures|No more authentication methods"),
        DeviceUnreachableError, _denied,
    ),
    _Case(_REFUSED, DeviceUnreachableError, _refused),
    _Case(
        re.compile(r"Could not resolve hostname"), DeviceUnreachableError,
        lambda board, _: f"no machine of that name is known: check the address in {board.name}.toml",
    ),
    _Case(
        re.compile(r"^(ssh: connect to host .*|Connection timed out)", re.M), DeviceUnreachableError,
        lambda _board, said: f"does not answer ({_last(said)}): is it on, and in this network?",
    ),
    _Case(
        re.compile(r"Can't open user config file|Bad configuration option|terminating, \d+ bad conf|Bad owner or perm"),
        DeviceError, lambda _board, said: f"ssh cannot use its configuration: {_first(said)}: mend that file",
    ),
    _Case(
        re.compile(
            r"closed by remote host|[Cc]onnection (to \S+ )?(closed|reset)|Broken pipe|Timeout, server|"
            r"client_loop: send disconnect|Connection to \S+ timed out|connection unexpectedly closed|"
            r"^\s*$"       # ssh does not always have time for a word
        ),
        DeviceLostError,
        lambda board, _: f"the connection broke off, as when a board restarts: try again when this works: {board.ssh}",
    ),
)

_ARCHITECTURE = re.compile(r"Exec format error|cannot execute binary file|wrong ELF class|invalid ELF header")
_ABSENT = re.compile(r"rsync: (command )?not found|remote command not found", re.I)
_CHATTY = re.compile(r"is your shell clean\?")
_FULL = re.compile(r"No space left on device")
_LIMITED = re.compile(r"Disk quota exceeded|File too large")
# All of these forms: a shell's, Python's, and rsync's.
_FORBIDDEN = re.compile(r"(?:Permission denied|Read-only file system)(?: \(\d+\))?$", re.M)


def ssh_failure(board: Reached, returncode: int, stderr: str) -> DeviceError | None:
    """What ``stderr`` of a failed ssh or rsync means; None when it is not ssh that failed."""
    if returncode == SSH_FAILED or "(code 255)" in stderr or "(code 12)" in stderr or "(code 30)" in stderr:
        for case in _CASES:
            if case.pattern.search(stderr):
                return case.error(f"{board}: {case.advice(board, stderr)}")
        return DeviceUnreachableError(f"{board}: {_last(stderr)}: see what this says: {board.ssh}")
    return None


def way_failure(board: Reached, command: str, returncode: int, stderr: str) -> DeviceError | None:
    """What kept ``command`` from being run on the board, or broke off the connection; None when it ran and failed.

    ``command`` is its name for the message, "python3"; ``returncode`` and ``stderr`` are those of ssh or rsync.
    """
    # Before ssh's own: an rsync that is not there also breaks the connection off.
    if returncode == NOT_FOUND or _ABSENT.search(stderr):
        return DeviceUnreachableError(f"{board}: there is no {command}: {_how_to_get(command, board)}")
    failed = ssh_failure(board, returncode, stderr)
    if failed is None and (returncode == NOT_RUNNABLE or _ARCHITECTURE.search(stderr)):
        return DeviceUnreachableError(
            f"{board}: {command} cannot run there ({_last(stderr)}): it is for another architecture, or damaged"
        )
    return failed


def command_failure(board: Reached, command: str, returncode: int, stderr: str) -> DeviceError:
    """The error of a ``command`` that failed on the board, or on the way there; arguments as in ``way_failure``."""
    # First, because an rsync that finds the disk full also breaks the connection off.
    if _FULL.search(stderr):
        return DeviceError(f"{board}: its disk is full: free some space there; nothing was changed")
    if _LIMITED.search(stderr):
        return DeviceError(f"{board}: its user may not write as much: raise the quota or limit; nothing was changed")
    failed = way_failure(board, command, returncode, stderr)
    if failed is not None:
        return failed
    if _CHATTY.search(stderr):
        return DeviceError(f"{board}: its shell prints something at every start, which has to be silent: see ~/.bashrc")
    # rsync names the file first, and closes with lines about itself.
    why = (_first if command == "rsync" else _last)(stderr)
    if _FORBIDDEN.search(stderr):
        return DeviceError(f"{board}: {why}: choose a folder that its user may write")
    return DeviceError(f"{board}: {command} failed with {returncode}: {why}")


def _how_to_get(command: str, board: Reached) -> str:
    if command == "rsync":
        return "sudo apt install rsync there"
    return f"install it there (sudo apt install python3 python3-venv), or name another as python in {board.name}.toml"


def _lines(said: str) -> list[str]:
    return [line.strip() for line in said.splitlines() if line.strip()] or ["no reason was given"]


def _first(said: str) -> str:
    return _lines(said)[0]


def _last(said: str) -> str:
    return _lines(said)[-1]
