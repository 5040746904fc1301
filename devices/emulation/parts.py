"""Parts of a root: folders that are made whole or not at all, with a record of what is in them beside each."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from edgeface.devices.progress import Progress

from edgeface.atomic import refused, write_bytes

_LINK = -1


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A file: its size in bytes, its time of change in ns and its sha256. A link: size -1 and its target instead."""

    size: int
    mtime_ns: int
    content: str


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a part was made for (``key``), of which downloads (name to sha256), and every file in it."""

    key: str
    made_of: dict[str, str]
    files: dict[str, Entry]


class Part:
    """One folder and its record, ``NAME.json``; whoever uses it holds the lock of the folder around it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._record_path = directory.with_name(f"{directory.name}.json")

    def ensure(self, key: str, name: str, make: Callable[[Path], dict[str, str]], progress: Progress) -> None:
        """Have it made for ``key``: nothing is done when it is, and no file in it was changed, lost or cut short.

        ``make`` fills an empty folder that then takes the part's place, and returns what it was made of. What an
        interrupted process left is removed. Raises OutputError, and what ``make`` raises.
        """
        record = self.record()
        if record is not None and record.key == key:
            changed = next(self._changed(record), None)
            if changed is None:
                return
            progress(f"{name}: {changed} was changed since: made anew")
        try:
            self._remove_leftovers()
            fresh = self._beside()
            fresh.mkdir(parents=True)
            try:
                made_of = make(fresh)
                record = Record(key, made_of, inventory(fresh))
                # From here until the new record is written there is none, and an interruption leads to a new start.
                self._record_path.unlink(missing_ok=True)
                if self.directory.exists():
                    self.directory.replace(self._beside())
                fresh.replace(self.directory)
                write_bytes(self._record_path, msgspec.json.encode(record))
            finally:
                self._remove_leftovers()
        except OSError as error:
            raise refused(error.filename or self.directory, error) from None

    def whole(self) -> bool:
        """Whether it was finished, and no file in it was changed, lost or cut short since."""
        record = self.record()
        return record is not None and next(self._changed(record), None) is None

    def record(self) -> Record | None:
        """What is known of it; None when it was never finished."""
        try:
            return msgspec.json.decode(self._record_path.read_bytes(), type=Record)
        except (OSError, msgspec.DecodeError):
            return None

    def damaged(self) -> list[str]:
        """Every file that is not what was recorded; the record is then forgotten, so that ``ensure`` makes it anew."""
        record = self.record()
        if record is None:
            return []
        now = inventory(self.directory)
        wrong = [
            name for name, entry in record.files.items() if name not in now or now[name].content != entry.content
        ]
        if wrong:
            self._record_path.unlink(missing_ok=True)
        return wrong

    def remove(self) -> None:
        """Have it no more. Raises OSError."""
        self._record_path.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _changed(self, record: Record) -> Iterator[str]:
        """Files that differ from the record at a glance: size and time, without reading them."""
        prefix = f"{self.directory}/"
        for name, entry in record.files.items():
            try:
                found = os.lstat(prefix + name)
            except OSError:
                yield name
                continue
            if entry.size != _LINK and (found.st_size, found.st_mtime_ns) != (entry.size, entry.mtime_ns):
                yield name

    def _beside(self) -> Path:
        return self.directory.with_name(f".{self.directory.name}-{secrets.token_hex(4)}")

    def _remove_leftovers(self) -> None:
        for path in self.directory.parent.glob(f".{self.directory.name}-*"):
            shutil.rmtree(path, ignore_errors=True)


def inventory(directory: Path) -> dict[str, Entry]:
    """Every file and link below a folder, by its path in it. Raises OSError."""
    found: dict[str, Entry] = {}
    for folder, folders, files in os.walk(directory):
        for name in sorted((*folders, *files)):
            path = Path(folder, name)
            if path.is_symlink():
                found[str(path.relative_to(directory))] = Entry(_LINK, 0, str(path.readlink()))
            elif path.is_file():
                status = path.stat()
                found[str(path.relative_to(directory))] = Entry(status.st_size, status.st_mtime_ns, sha256(path))
    return found


def sha256(path: Path) -> str:
    """The hash of a file's content, as hex. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
