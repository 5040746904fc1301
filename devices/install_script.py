"""Runs on a board that has no edgeface yet, and puts one there: sent to its Python on standard input.

Standard library alone. Called with a step and its arguments; every line of output is one JSON object: ``say`` (a line
of progress), and last ``result`` or ``error``. An installation lies in a folder of its own under ``venvs``, and the
link ``venv`` beside that names the one in use, so that the old one works until the new one does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

HOME = Path.home() / ".local" / "share" / "edgeface"
# What the wheel needs with its dependencies, unpacked, and pip's own copies while it works.
NEEDED_MB = 500
_STALE_S = 3600


class FailedError(Exception):
    """The step cannot be done; the text says why and what to do."""


def emit(kind: str, content: object) -> None:
    # Flushed, so that a connection that is gone is noticed at the next line.
    print(json.dumps({kind: content}), flush=True)  # noqa: T201


def prepare() -> dict[str, str]:
    """Make an empty folder for the wheel, and the new environment around it."""
    if find_spec("venv") is None or find_spec("ensurepip") is None:
        raise FailedError("its Python cannot make environments: sudo apt install python3-venv there")
    venvs = HOME / "venvs"
    venvs.mkdir(parents=True, exist_ok=True)
    if (HOME / "venv").exists() and not (HOME / "venv").is_symlink():
        raise FailedError(f"{HOME / 'venv'} was not made by this command: move it away")
    current = (HOME / "venv").resolve()
    for left in venvs.iterdir():
        # Another setup may be under way; what nobody has touched for an hour was left by one that was cut off.
        if left != current and time.time() - left.stat().st_mtime > _STALE_S:
            shutil.rmtree(left, ignore_errors=True)
    free_mb = shutil.disk_usage(venvs).free >> 20
    if free_mb < NEEDED_MB:
        raise FailedError(f"its disk is full: {free_mb} MB are free at {venvs}, {NEEDED_MB} are needed")
    return {"directory": tempfile.mkdtemp(prefix="new-", dir=venvs)}


def install(directory: str, wheel: str, into: str) -> dict[str, str]:
    """Install the wheel that was copied into ``directory`` into an environment there; the Python to try it with.

    On top of the environment it is to go ``into``, if any, so that it is tried with what that has.
    """
    folder = Path(directory)
    emit("say", f"making {folder}")
    # With the system's packages: a camera of a Raspberry Pi is reached through one that only apt has.
    finish([sys.executable, "-m", "venv", "--system-site-packages", str(folder)])
    python = str(folder / "bin" / "python")
    if into:
        [site] = folder.glob("lib/python3*/site-packages")
        own = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
        (site / "edgeface-tried-with.pth").write_text("".join(f"{path}\n" for path in own))
    pip_install(python, folder / wheel)
    return {"python": python}


def commit(directory: str, wheel: str, into: str) -> dict[str, str]:
    """Put the installation that was tried in the old one's place."""
    folder = Path(directory)
    if into:
        pip_install(sys.executable, folder / wheel)
        return discard(directory)
    (folder / wheel).unlink()
    link = HOME / "venv"
    old = link.resolve() if link.is_symlink() else None
    fresh = HOME / f".venv-{folder.name}"
    fresh.symlink_to(folder)
    os.sync()
    fresh.replace(link)
    if old is not None and old.parent == HOME / "venvs" and old != folder:
        shutil.rmtree(old, ignore_errors=True)
    return {}


def discard(directory: str) -> dict[str, str]:
    """Remove an installation that did not work."""
    shutil.rmtree(directory, ignore_errors=True)
    return {}


def pip_install(python: str, wheel: Path) -> None:
    """Install a wheel and then what it needs; pip's lines are progress. Raises FailedError with what went wrong."""
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    # Alone and by force first: pip would leave one of the same version as it is, wherever Python finds it.
    finish([*command, "--force-reinstall", "--no-deps", str(wheel)])
    finish([*command, str(wheel)])


def finish(command: list[str]) -> None:
    """Run a program; its lines are progress. Raises FailedError with the one that says what went wrong."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    lines = []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", env=environment,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line.strip())
                emit("say", lines[-1])
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise FailedError(reason(lines))


def reason(lines: list[str]) -> str:
    """The one line of a failed pip or venv that its user should see."""
    said = "\n".join(lines)
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return "its disk is full: free some space there"
    if "is not a supported wheel on this platform" in said:
        return "the wheel is for another architecture or an older system: build it for this one (--wheel FILE)"
    if "externally-managed-environment" in said:
        return "its Python belongs to the system: leave python out of the description, and setup makes an environment"
    if "No module named pip" in said:
        return "its Python has no pip: sudo apt install python3-pip there"
    if "No matching distribution found" in said or "Failed to establish a new connection" in said:
        missing = [line for line in lines if "No matching distribution found" in line]
        what = missing[-1].rpartition(" for ")[2] if missing else "the packages that edgeface needs"
        return f"pip finds no {what} there: the board needs the internet, or a pip.conf that names a mirror"
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["no reason was given"]
    return errors[-1].removeprefix("ERROR: ")


STEPS: dict[str, Callable[..., dict[str, str]]] = {
    "prepare": prepare, "install": install, "commit": commit, "discard": discard,
}  # fmt: skip


def main(step: str, *arguments: str) -> None:
    """Do one step. A board that loses its connection in one of them keeps nothing of it."""
    try:
        emit("result", STEPS[step](*arguments))
    except (FailedError, OSError) as error:
        if step == "install":
            discard(arguments[0])
        # A BrokenPipeError once more: then nobody is there to be told.
        emit("error", str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
