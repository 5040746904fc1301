"""A systemd unit for ``edgeface camera``: started with the machine, watched, restarted, and let near nothing else."""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeface.errors import OptionError

SYSTEM_UNITS = Path("/etc/systemd/system")
WATCHDOG_S = 60
_TRIAL_S = 60.0
# By which a unit is known as one of ours.
DESCRIPTION = "edgeface camera"

_UNIT = """\
[Unit]
Description={description} ({name})
Wants=network-online.target
After=network-online.target
# A camera that stays away ends in a restart a minute by the watchdog; a mistake in the settings, which is found within
# seconds even on a slow board, ends here.
StartLimitIntervalSec=120
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
ExecStartPre={check}
ExecStart={run}
Restart=always
RestartSec=5
TimeoutStartSec=90
TimeoutStopSec=10
WatchdogSec={watchdog_s}
# The encoder of a recording gets the frames up to the end.
KillMode=mixed
{identity}WorkingDirectory={folder}
Environment=PYTHONUNBUFFERED=1
# Secrets, such as EDGEFACE_TOKEN=... and EDGEFACE_MQTT_PASSWORD=..., where nobody else reads them.
EnvironmentFile=-{secrets}
UMask=0077
NoNewPrivileges=yes
{hardening}
[Install]
WantedBy={target}
"""

# What a manager without privileges cannot set up is left out of a user's unit.
_HARDENING = """\
DevicePolicy=closed
DeviceAllow=char-video4linux rw
DeviceAllow=char-media rw
DeviceAllow=char-dma_heap rw
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={folder}
PrivateTmp=yes
PrivateMounts=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
"""


@dataclass(frozen=True)
class Service:
    """What a unit is made of. ``arguments`` are those of ``edgeface camera``; ``folder`` is where it runs and all that
    it may write to; ``user`` is whose rights it has, None for a unit of the user's own manager."""

    name: str
    program: Sequence[str]
    arguments: Sequence[str]
    folder: Path
    user: str | None

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.folder.is_dir():
            raise OptionError(f"{self.folder}: no such folder: make it, the service writes there")
        for word in (*self.program, *self.arguments, str(self.folder)):
            if any(ord(c) < 32 for c in word):
                raise OptionError(f"a unit cannot hold {word!r}: leave control characters out")

    @property
    def secrets(self) -> Path:
        """The file for the token and passwords, read by systemd where it is there."""
        return self.folder / f"{self.name}.env"

    def unit(self) -> str:
        """The unit file's text."""
        camera = [*self.program, "camera", *self.arguments]
        own = self.user is None
        return _UNIT.format(
            name=self.name,
            description=DESCRIPTION,
            check=_command([*camera, "--check"]),
            run=_command(camera),
            watchdog_s=WATCHDOG_S,
            identity="" if own else f"User={self.user}\nSupplementaryGroups=video\n",
            folder=_escaped(str(self.folder)),
            secrets=_escaped(str(self.secrets)),
            hardening="" if own else _HARDENING.format(folder=_escaped(str(self.folder))),
            target="default.target" if own else "multi-user.target",
        )


def require_rights(service: Service) -> None:
    """Raise OptionError where the service's user is not there, cannot run its program, or not write to its folder.

    Only root can try that as somebody else; for others there is nothing to try.
    """
    if service.user is None or os.geteuid() != 0:
        return
    try:
        user = pwd.getpwnam(service.user)
    except KeyError:
        raise OptionError(f"no user {service.user!r} here: name another with --run-as, or make one") from None
    script = "import os, sys, edgeface; sys.exit(0 if os.access('.', os.W_OK) else 3)"
    python = service.program[0]
    try:
        tried = subprocess.run(
            [python, "-c", script], cwd=service.folder, user=user.pw_uid, group=user.pw_gid, extra_groups=(),
            env={"PATH": os.defpath, "HOME": user.pw_dir}, capture_output=True, timeout=_TRIAL_S, check=False,
        )
        code, why = tried.returncode, " ".join(tried.stderr.decode(errors="replace").split()[-12:])
    except (OSError, subprocess.TimeoutExpired) as error:
        code, why = 1, str(error)
    if code == 3:
        raise OptionError(
            f"{service.folder}: {service.user} cannot write there: 'chown {service.user}' it, or give another --folder"
        )
    if code:
        raise OptionError(
            f"{service.user} cannot run {python} in {service.folder}: {why}: install edgeface where {service.user} may "
            "read it, as in a folder below /opt, or choose another --run-as"
        )


def check_name(name: str) -> None:
    """Raise OptionError for what cannot be a service's name."""
    if not name or not all(c.isascii() and (c.isalnum() or c in "-_") for c in name):
        raise OptionError(f"a service cannot be named {name!r}: use letters, digits, '-' and '_'")


def _command(words: Sequence[str]) -> str:
    """As ExecStart= takes it: quoted words in which systemd replaces nothing."""
    return " ".join(_quoted(_escaped(word).replace("$", "$$")) for word in words)


def _quoted(word: str) -> str:
    if word and shlex.quote(word) == word:
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    """With systemd's specifiers as plain text."""
    return text.replace("%", "%%")
