"""A whole arm64 machine under QEMU: a kernel, a file system that lies in its memory, and what its console says."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Container
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from edgeface.devices.emulation.programs import find_program

from edgeface.errors import DeviceError

_MEMORY_MB = 2048
_PROCESSORS = 2
_LAST_LINES = 5


class Initramfs:
    """A writer of the archive that Linux unpacks into its memory at the start (cpio "newc"): all of it root's own.

    Links stay links; the kernel makes no folder by itself, so ``folder`` comes before what lies in it.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._number = 0

    def __enter__(self) -> Initramfs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._add("TRAILER!!!", 0, b"")
        self._file.close()

    def folder(self, name: str) -> None:
        """An empty folder."""
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, content: bytes, *, executable: bool = False) -> None:
        """A file."""
        self._add(name, stat.S_IFREG | (0o755 if executable else 0o644), content)

    def tree(self, directory: Path, name: str, without: Container[str] = ()) -> None:
        """All that lies in ``directory``, but for the entries of its top that are named in ``without``."""
        for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
            if entry.name in without:
                continue
            path, within = Path(entry.path), f"{name}/{entry.name}".lstrip("/")
            if entry.is_symlink():
                self._add(within, stat.S_IFLNK | 0o777, os.fsencode(path.readlink()))
            elif entry.is_dir():
                self.folder(within)
                self.tree(path, within)
            else:
                self.file(within, path.read_bytes(), executable=os.access(path, os.X_OK))

    def _add(self, name: str, mode: int, content: bytes) -> None:
        encoded = os.fsencode(name) + b"\0"
        self._number += 1
        # inode, mode, uid, gid, links, mtime, size, device twice two numbers, length of the name, checksum.
        fields = (self._number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
        self._file.write(head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4))


def find_qemu() -> Path:
    """QEMU's emulator of whole machines. Raises InstallError with the line for apt."""
    return find_program(["qemu-system-aarch64"], "it emulates the machine: sudo apt-get install qemu-system-arm")


def boot(
    qemu: Path, cpu: str, kernel: Path, initramfs: Path, said: Callable[[str], None], timeout_s: float
) -> None:
    """Run a machine until it powers off; ``said`` gets every line of its console, and ends the machine by raising.

    Raises DeviceError with the last lines when it is not off within ``timeout_s``.
    """
    argv = [
        str(qemu), "-M", "virt", "-cpu", cpu, "-smp", str(_PROCESSORS), "-m", str(_MEMORY_MB),
        "-kernel", str(kernel), "-initrd", str(initramfs),
        # A panic restarts, which ends QEMU: nothing waits for the deadline.
        "-append", "console=ttyAMA0 rdinit=/init quiet loglevel=3 panic=-1", "-no-reboot",
        "-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none",
    ]
    setpriv = shutil.which("setpriv")
    if setpriv is not None:
        argv = [setpriv, "--pdeathsig", "KILL", "--", *argv]
    last: list[str] = []
    is_late = threading.Event()
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        def give_up() -> None:
            is_late.set()
            process.kill()

        timer = threading.Timer(timeout_s, give_up)
        timer.start()
        try:
            assert process.stdout is not None
            for raw in process.stdout:
                line = raw.decode("utf-8", "replace").rstrip()
                if line:
                    last = [*last, line][-_LAST_LINES:]
                    said(line)
            process.wait()      # the timer still runs
        except BaseException:
            process.kill()
            raise
        finally:
            timer.cancel()
    code = process.returncode
    end = f"it last said: {' | '.join(last) or 'nothing'}"
    if is_late.is_set():
        raise DeviceError(f"the emulated machine was not off within {timeout_s:.0f} s; {end}")
    if code != 0:
        raise DeviceError(f"qemu-system-aarch64 ended with {code}; {end}")
