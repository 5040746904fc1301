#!/usr/bin/python3.11
"""The first program of the emulated machine: makes it a camera, runs what steps.json lists, and powers it off.

Runs in Debian's minimal Python alone. It speaks to cross/try_v4l2.py by lines of the console: "@" and JSON.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

_PYTHON = "/usr/bin/python3.11"
_CAMERA = "/dev/video0"
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin", "HOME": "/tmp", "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": "/opt/edgeface:/opt/site", "PYTHONNOUSERSITE": "1", "PYTHONSAFEPATH": "1",
}
_FINIT_MODULE = 273     # its number on arm64
_POWER_OFF = 0x4321FEDC
# linux/videodev2.h: VIDIOC_REQBUFS of two buffers for pictures, in the driver's memory.
_REQBUFS, _TWO_BUFFERS = 0xC0145608, struct.pack("=III8x", 2, 1, 1)
_DRIVER = Path("/sys/bus/platform/drivers/vivid")
_NODE_TIMEOUT_S = 20.0
_LAST_LINES_S = 5.0
_libc = ctypes.CDLL(None, use_errno=True)


def tell(type: str, **fields: Any) -> None:
    """A line for the script outside."""
    sys.stdout.write("@" + json.dumps({"type": type, **fields}) + "\n")
    sys.stdout.flush()


def mount(kind: str, at: str) -> None:
    Path(at).mkdir(exist_ok=True)
    if _libc.mount(kind.encode(), at.encode(), kind.encode(), 0, None):
        raise OSError(ctypes.get_errno(), f"{kind} cannot be mounted")


def load(module: Path, parameters: str) -> None:
    with module.open("rb") as file:
        if _libc.syscall(_FINIT_MODULE, file.fileno(), parameters.encode(), 0):
            raise OSError(ctypes.get_errno(), f"{module.name} cannot be loaded")


def wait_for(path: Path) -> None:
    deadline_s = time.monotonic() + _NODE_TIMEOUT_S
    while not path.exists():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{path} did not appear")
        time.sleep(0.1)


class Lines:
    """What a program writes, line by line as it comes; ``react`` sees each one."""

    def __init__(self, stream: IO[str], react: Callable[[str], None] | None = None) -> None:
        self.lines: list[str] = []
        self._stream = stream
        self._react = react
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            self.lines.append(line.rstrip("\n"))
            if self._react is not None:
                self._react(line)

    def join(self) -> None:
        self._thread.join(_LAST_LINES_S)


class Plug:
    """Takes the camera away from its driver after some frames, and gives it back once edgeface has noticed."""

    def __init__(self, after_frames: int) -> None:
        self._frames = after_frames
        self._name = next(path.name for path in _DRIVER.iterdir() if path.name.startswith("vivid."))

    def __call__(self, line: str) -> None:
        if '"type":"frame"' in line:
            self._frames -= 1
            if self._frames == 0:
                (_DRIVER / "unbind").write_text(self._name)
        elif '"state":"offline"' in line and self._frames <= 0:
            with suppress(OSError):     # the system is asked twice where a second try failed as well
                (_DRIVER / "bind").write_text(self._name)


@contextmanager
def held() -> Iterator[None]:
    """Be the other program that has the camera."""
    descriptor = os.open(_CAMERA, os.O_RDWR)
    try:
        fcntl.ioctl(descriptor, _REQBUFS, _TWO_BUFFERS)
        yield
    finally:
        os.close(descriptor)


def run(step: dict[str, Any]) -> None:
    react = Plug(step["unplug_after"]) if step["unplug_after"] else None
    started_s = time.monotonic()
    with held() if step["held"] else nullcontext():
        process = subprocess.Popen(
            [_PYTHON, *step["argv"]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=_ENVIRONMENT, cwd="/tmp", text=True, errors="replace", user=step["user"],
        )
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = Lines(process.stdout, react), Lines(process.stderr)
        try:
            code: int | None = process.wait(step["timeout_s"])
        except subprocess.TimeoutExpired:
            process.kill()
            code = None
        out.join()
        err.join()
    seconds = round(time.monotonic() - started_s, 1)
    tell("outcome", name=step["name"], code=code, out=out.lines, err=err.lines, seconds=seconds)


def main() -> None:
    for kind, at in (("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/tmp")):
        mount(kind, at)
    Path("/tmp").chmod(0o1777)
    job = json.loads(Path("/job.json").read_text())
    for module in sorted(Path("/modules").glob("*.ko")):
        load(module, job["parameters"] if module.stem.endswith("vivid") else "")
    wait_for(Path(_CAMERA))
    devices = sorted(str(path) for path in Path("/dev").glob("video*"))
    tell("ready", kernel=os.uname().release, devices=devices)
    for step in job["steps"]:
        run(step)


try:
    main()
except BaseException as error:
    tell("failed", why=f"{type(error).__name__}: {error}")
finally:
    _libc.reboot(_POWER_OFF)
