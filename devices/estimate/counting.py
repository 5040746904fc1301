"""How often every block of instructions runs in the regions of an emulated program.

A region is what runs between ``edgeface.runtime.kernels.mark_begin`` and ``mark_end``; ``plugin.c``, a plugin of QEMU,
counts.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edgeface.devices.emulation.programs import find_program, locked, run
from edgeface.devices.emulation.root import EmulatedRoot, cache_directory

from edgeface.atomic import refused, replacing
from edgeface.errors import DeviceError, OutputError

# By a block's instructions, 8 hex digits each: how often it ran.
Region = Counter[str]

DIGITS = 8      # of an instruction
_FORMAT = "edgeface-blocks 1"
_SOURCE = Path(__file__).with_name("plugin.c")
_FLAGS = ("-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread")
_COMPILE_TIMEOUT_S = 120.0
# Debian 12's QEMU; a newer one is built without plugins, or wants another interface of them.
_NEXT_STEP = "counting needs QEMU 6 to 8 with plugins: sudo apt-get install qemu-user on Debian 12"


def plugin() -> Path:
    """The plugin for this machine's QEMU, compiled when it is first needed. Raises InstallError without a compiler,
    DeviceError and OutputError."""
    source = _SOURCE.read_bytes()
    path = cache_directory() / "estimate" / f"plugin-{hashlib.sha256(source).hexdigest()[:16]}.so"
    if path.is_file():
        return path
    compiler = find_program(("cc", "gcc", "clang"), "QEMU's plugin is compiled with it: sudo apt-get install gcc")
    with locked(path.parent / "lock"), replacing(path) as temporary:
        run([compiler, *_FLAGS, "-o", temporary, _SOURCE], what="QEMU's plugin cannot be compiled",
            timeout_s=_COMPILE_TIMEOUT_S, next_step="see that gcc works: sudo apt-get install gcc libc6-dev")
    return path


def count_regions(
    root: EmulatedRoot, cpu: str, argv: Sequence[str | Path], *, what: str, timeout_s: float
) -> list[Region]:
    """The regions, in their order, of the root's Python with ``argv`` as its arguments, on ``cpu`` as QEMU names it.

    ``what`` begins the line of an error, as in "mos_s cannot be run". Raises DeviceError when the program fails or
    misplaces its markers, InstallError and OutputError.
    """
    library = plugin()
    try:
        with tempfile.TemporaryDirectory(prefix="edgeface-blocks-") as scratch:
            out = Path(scratch) / "blocks"
            # QEMU takes a comma twice for one that is not the end of an argument.
            options = ["-plugin", ",".join(part.replace(",", ",,") for part in (str(library), f"out={out}"))]
            run(root.command(cpu, argv, options), what=what, timeout_s=timeout_s, next_step=_NEXT_STEP,
                # A second thread, even one that sleeps, makes counting slower.
                environment=root.environment | {"OPENBLAS_NUM_THREADS": "1"})
            text = out.read_text("ascii") if out.is_file() else ""
    except OSError as error:
        raise refused(tempfile.gettempdir(), error) from None
    return read_regions(text)


def read_regions(text: str) -> list[Region]:
    """What the plugin wrote. Raises DeviceError for markers that do not alternate, OutputError for half of a file."""
    lines = text.splitlines()
    if not lines or lines[0] != _FORMAT or lines[-1] != "end":
        raise OutputError("the counts of QEMU's plugin are not whole: free some disk space, or set TMPDIR elsewhere")
    words = {}
    for line in lines:
        if line.startswith("block "):
            _, number, content = line.split()
            words[number] = content
    regions: list[Region] = []
    for line in lines[1:-1]:
        first, *rest = line.split()
        if first == "region":
            regions.append(Counter())
        elif first == "strays":
            if rest != ["0"]:
                raise DeviceError(f"{rest[0]} markers of regions do not alternate: what was counted means nothing")
        elif first != "block":
            # QEMU translates a block again now and then.
            regions[-1][words[first]] += int(rest[0])
    return regions
