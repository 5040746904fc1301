"""Run ``edgeface camera`` on a real /dev/video0: Debian's arm64 kernel with vivid, its driver of a camera that is none.

The machine is emulated whole, kernel and all, and holds the root of an emulated board in its memory. Takes minutes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from edgeface.devices import boards
from edgeface.devices.emulation import EmulatedRoot, ensure_root

from camera_trials import TRIALS, Outcome, Step, Trial, WrongError
from edgeface.atomic import refused
from edgeface.errors import DeviceError
from prerequisites import kernel
from reporting import Script, progress
from virtual_machine import Initramfs, boot, find_qemu

_INSIDE = Path(__file__).resolve().parent / "camera_machine"
_CPU = "cortex-a72"
# One device with two nodes: /dev/video0 takes pictures, /dev/video1 shows them.
_PARAMETERS = "n_devs=1 node_types=0x101"
# Nothing here needs TFLite, and the whole archive lies in memory twice.
_LEFT_OUT = ("ai_edge_litert",)
_TIMEOUT_S = 900.0


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The machine runs and has cameras."""

    kernel: str
    devices: list[str]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The machine gave up."""

    why: str


def pack(path: Path, root: EmulatedRoot, kernel_folder: Path, steps: Sequence[Step]) -> None:
    """Write the machine's file system to ``path``. Raises OutputError."""
    try:
        with Initramfs(path) as archive:
            for folder in ("dev", "proc", "sys", "tmp", "opt", "opt/site", "opt/edgeface", "modules"):
                archive.folder(folder)
            # These say what the board is, to programs that are emulated alone; a kernel has its own.
            archive.tree(root.directory, "", without=("proc", "sys"))
            archive.tree(root.site, "opt/site", without=_LEFT_OUT)
            archive.tree(root.project, "opt/edgeface")
            for module in kernel_folder.glob("*.ko"):
                archive.file(f"modules/{module.name}", module.read_bytes())
            archive.file("init", (_INSIDE / "init.py").read_bytes(), executable=True)
            archive.file("look.py", (_INSIDE / "look.py").read_bytes())
            archive.file("job.json", msgspec.json.encode({"parameters": _PARAMETERS, "steps": steps}))
    except OSError as error:
        raise refused(error.filename or path, error) from None


def judge(trial: Trial, outcome: Outcome) -> bool:
    """Say what came of a trial, with all that it wrote where that is wrong; whether it is right."""
    name = trial.step.name
    try:
        click.echo(f"{name}: {trial.judge(outcome)} ({outcome.seconds:.1f} s emulated)")
        return True
    except WrongError as error:
        click.echo(f"{name}: WRONG: {error}")
        for line in (*outcome.out, *outcome.err):
            click.echo(f"    {line}")
        return False


@click.command(cls=Script)
@click.option("--wheel", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="edgeface for aarch64.  [default: built from this clone]")
def command(wheel: Path | None) -> None:
    """Try the V4L2 source on a real /dev/video0 in an emulated machine; exits with 12 when something did not hold."""
    qemu = find_qemu()
    root = ensure_root(boards.find("rk3399"), wheel=wheel, progress=progress)
    kernel_folder = kernel("vivid")
    waiting = {trial.step.name: trial for trial in TRIALS}
    wrong: list[str] = []

    def said(line: str) -> None:
        if not line.startswith("@"):
            return
        try:
            message = msgspec.json.decode(line[1:], type=Ready | Outcome | Failed)
        except msgspec.DecodeError as error:
            raise DeviceError(f"the emulated machine said {line[:200]!r}: {error}") from None
        if isinstance(message, Failed):
            raise DeviceError(f"the emulated machine gave up: {message.why}")
        if isinstance(message, Ready):
            click.echo(f"Linux {message.kernel} on {_CPU} with {', '.join(message.devices)}")
        elif not judge(waiting.pop(message.name), message):
            wrong.append(message.name)

    with tempfile.TemporaryDirectory() as scratch:
        initramfs = Path(scratch) / "initramfs.cpio"
        progress("packing the machine's file system")
        pack(initramfs, root, kernel_folder, [trial.step for trial in TRIALS])
        progress("starting the machine")
        boot(qemu, _CPU, kernel_folder / "vmlinuz", initramfs, said, _TIMEOUT_S)
    wrong += [f"{name} (no answer)" for name in waiting]
    if wrong:
        raise DeviceError(f"{len(wrong)} of {len(TRIALS)} trials did not hold: {', '.join(wrong)}: see above what came")
    click.echo(f"all {len(TRIALS)} trials hold")


if __name__ == "__main__":
    command()
