"""The service as systemd has it: what it says of a unit, and taking one away again.

A unit counts as ours by its description, so that nothing of others is ever stopped or removed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgeface.errors import InstallError, OutputError
from edgeface.stream.service import DESCRIPTION, SYSTEM_UNITS, check_name
from edgeface.user_folders import config_directory

# Stopping waits for TimeoutStopSec of the unit, 10 s.
_DEADLINE_S = 60
_PROPERTIES = (
    "LoadState", "ActiveState", "SubState", "StatusText", "MainPID", "NRestarts", "Result", "UnitFileState",
    "ActiveEnterTimestamp",
)
SUDO = 'sudo "$(command -v edgeface)"'


@dataclass(frozen=True)
class ServiceState:
    """What systemd says: ``active`` ("active", "failed" ...) with ``detail``, since when (its own text), the camera's
    last word, process, restarts, how the last run ended, and whether it starts with the machine."""

    name: str
    unit: Path
    active: str
    detail: str
    since: str
    says: str
    pid: int
    restarts: int
    result: str
    starts_with_machine: bool


class ServiceManager:
    """systemd's manager of the machine, or with ``own`` the user's own one."""

    def __init__(self, *, own: bool) -> None:
        self._own = own
        self.units = _own_units() if own else SYSTEM_UNITS

    def unit(self, name: str) -> Path:
        """Where the unit of that name lies or would; raises OptionError for what is no name."""
        check_name(name)
        return self.units / f"{name}.service"

    def installed(self, name: str) -> Path:
        """The unit's file. Raises InstallError where there is none, or one that 'edgeface service' did not write."""
        path = self.unit(name)
        try:
            text = path.read_text(errors="replace")
        except FileNotFoundError:
            raise InstallError(f"{path}: no such service: {self._known()}") from None
        except OSError as error:
            raise InstallError(f"{path}: {error.strerror}: check its rights") from None
        if f"Description={DESCRIPTION}" not in text:
            raise InstallError(f"{path}: was not written by 'edgeface service': systemctl is the tool for it")
        return path

    def uninstall(self, name: str) -> Path:
        """Stop the service, so that it does not start again either, and remove its unit; where that was.

        Raises InstallError where systemd does not stop it, which leaves the unit, and OutputError without the rights.
        """
        path = self.installed(name)
        if not os.access(path.parent, os.W_OK):
            raise OutputError(f"{path}: no permission to remove it: {SUDO} service uninstall --name {name}")
        try:
            self._systemctl("disable", "--now", path.name)
        except InstallError as error:
            raise InstallError(f"{error}: {path} stays, remove it by hand where no systemd runs") from None
        try:
            path.unlink()
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror}: it is stopped, remove it by hand") from None
        self._systemctl("daemon-reload")
        return path

    def state(self, name: str) -> ServiceState:
        """Raises InstallError where there is no such service, or systemd does not answer."""
        path = self.installed(name)
        shown = self._systemctl("show", path.name, f"--property={','.join(_PROPERTIES)}")
        values = dict(line.partition("=")[::2] for line in shown.splitlines())
        return ServiceState(
            name=name,
            unit=path,
            active=values.get("ActiveState") or "unknown",
            detail=values.get("SubState", ""),
            since=values.get("ActiveEnterTimestamp", ""),
            says=values.get("StatusText", ""),
            pid=_number(values.get("MainPID", "")),
            restarts=_number(values.get("NRestarts", "")),
            result=values.get("Result", ""),
            starts_with_machine=values.get("UnitFileState", "").startswith("enabled"),
        )

    def logs(self, name: str, *, lines: int, follow: bool) -> int:
        """Show the service's log on the standard streams; journalctl's exit code. Raises InstallError as ``state``."""
        path = self.installed(name)
        command = [_found("journalctl"), *self._user(), "--unit", path.name, f"--lines={lines}", "--no-pager"]
        # Followed until Ctrl-C, so without a deadline.
        return subprocess.run([*command, *(["--follow"] if follow else [])], check=False).returncode

    def _systemctl(self, *arguments: str) -> str:
        command = [_found("systemctl"), *self._user(), "--no-pager", *arguments]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=_DEADLINE_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise InstallError(f"systemctl {arguments[0]}: no answer within {_DEADLINE_S} s: see 'systemctl list-jobs'"
                               ) from None
        if done.returncode:
            why = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise InstallError(f"systemctl {' '.join(arguments[:2])}: {why}")
        return done.stdout

    def _user(self) -> list[str]:
        return ["--user"] if self._own else []

    def _known(self) -> str:
        """What to do where a service is not there."""
        names = []
        for path in sorted(self.units.glob("*.service")):
            try:
                is_ours = f"Description={DESCRIPTION}" in path.read_text(errors="replace")
            except OSError:
                continue
            names += [path.stem] if is_ours else []
        if names:
            return f"there is {', '.join(names)}: give --name"
        other = "without --user" if self._own else "with --user"
        return f"'edgeface service install' writes one; look {other} too"


def _found(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise InstallError(f"no {program} here: this machine is not run by systemd")
    return path


def _own_units() -> Path:
    return config_directory() / "systemd" / "user"


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
