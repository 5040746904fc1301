"""What was counted, kept in the user's cache: minutes of emulation whose result depends on nothing but its key."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TypeVar

import msgspec
from edgeface.devices.emulation.programs import run
from edgeface.devices.emulation.root import EmulatedRoot, cache_directory

import edgeface
from edgeface.atomic import refused, write_bytes

Kept = TypeVar("Kept")

# Of edgeface's sources what runs in a region that is counted, and what marks the regions.
_COUNTED_SOURCES = ("runtime/**/*.py", "runtime/**/*.c", "runtime/**/*.h", "bundle/*.py", "faces.py")
_MARKING_SOURCES = ("*.py", "plugin.c")


def kept_path(name: str, *content: object) -> Path:
    """The file of what is called ``name`` and depends on ``content``, anything that JSON takes."""
    key = hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:16]
    return cache_directory() / "estimate" / f"{name}-{key}.msgpack"


def read_kept(path: Path, kind: type[Kept]) -> Kept | None:
    """What was kept there; None where nothing was, or what cannot be read: it is counted anew."""
    try:
        # A region is a Counter, which is kept as the dictionary that it is.
        return msgspec.msgpack.decode(path.read_bytes(), type=kind, dec_hook=lambda wanted, value: wanted(value))
    except (OSError, msgspec.DecodeError):
        return None


def keep(path: Path, counted: object) -> None:
    """Keep it. Raises OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(path, error) from None
    write_bytes(path, msgspec.msgpack.encode(counted))


def sources_hash() -> str:
    """Of the sources that what bundles execute depends on."""
    folders = ((Path(edgeface.__file__).parent, _COUNTED_SOURCES), (Path(__file__).parent, _MARKING_SOURCES))
    digest = hashlib.sha256()
    for folder, patterns in folders:
        for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def wheel_versions(root: EmulatedRoot, *packages: str) -> dict[str, str]:
    """The versions of some ``packages`` in a root, by name as a wheel has it; those that are not there are left out."""
    wheels = (path.name.removesuffix(".dist-info").rpartition("-") for path in root.site.glob("*.dist-info"))
    return {name: version for name, _, version in sorted(wheels) if name in packages}


def qemu_version(root: EmulatedRoot) -> str:
    """That of the root's QEMU, "7.2.22"; "unknown" where it does not say."""
    said = run([root.qemu, "--version"], what="qemu cannot be run", timeout_s=60, next_step="install it again")
    found = re.search(r"version (\d[\d.]*)", said)
    return found[1] if found else "unknown"
