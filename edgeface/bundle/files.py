"""A bundle: a directory with an engine's files and ``bundle.json``, which says all that the runtime must know.

Nothing is guessed from a file name or a shape, and every file's sha256 is checked before an engine sees it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from msgspec.structs import replace

from edgeface.atomic import refused, replacing, temporary_name, working_folder
from edgeface.bundle.checks import inconsistency
from edgeface.bundle.schema import MAX_MANIFEST_BYTES, SCHEMA, Bundle, File, file_sets
from edgeface.bundle.schema1 import Bundle1, upgraded
from edgeface.errors import BundleError, BundleHashError, OutputError
from edgeface.regular_files import open_regular, read_regular

MANIFEST = "bundle.json"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's content; raises OSError, for what is no file as well."""
    with open_regular(path) as stream:
        return _sha256(stream)


def _sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def describe_file(path: Path) -> File:
    """The manifest entry of a file that lies in the bundle's directory."""
    return File(path.name, sha256_of(path), path.stat().st_size)


def read_bundle(directory: Path, *, verify: bool = True) -> Bundle:
    """Read and check bundle.json, and with ``verify`` the hash of every file. Schema 1 is read as schema 2.

    Raises BundleError (missing, not JSON, another schema, inconsistent) and BundleHashError (a file is not the one
    described).
    """
    manifest = directory / MANIFEST
    try:
        raw = read_regular(manifest, MAX_MANIFEST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{directory}: no {MANIFEST} there: give a bundle's directory") from None
    except OSError as error:
        raise BundleError(f"{manifest}: {error.strerror}") from None
    try:
        version = msgspec.json.decode(raw, type=dict[str, Any]).get("schema")
        if version not in (1, SCHEMA):
            raise BundleError(
                f"{manifest}: schema {version!r}, this edgeface reads 1 and {SCHEMA}: convert the checkpoint again"
            )
        bundle = upgraded(msgspec.json.decode(raw, type=Bundle1)) if version == 1 else _decoded(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{manifest}: {error}: copy the bundle again") from None
    _check(bundle, manifest)
    if verify:
        verify_files(directory, bundle)
    return bundle


def _decoded(raw: bytes) -> Bundle:
    return msgspec.json.decode(raw, type=Bundle)


def _check(bundle: Bundle, manifest: Path) -> None:
    listed = {f.name for f in bundle.files}
    for part in bundle.parts:
        if not _PLAIN_NAME.fullmatch(part):
            raise BundleError(f"{manifest}: part {part!r} is not a plain name: do not use this bundle")
    for name in sorted(listed):
        if not _PLAIN_NAME.fullmatch(name) or name == MANIFEST:
            raise BundleError(f"{manifest}: file name {name!r} is not a plain name: do not use this bundle")
    problem = inconsistency(bundle)
    if problem:
        raise BundleError(f"{manifest}: {problem}: convert the checkpoint again")
    for name in (name for stage in bundle.stages for files in file_sets(stage) for name in files):
        if name not in listed:
            raise BundleError(f"{manifest}: stage file {name!r} is not under 'files': convert the checkpoint again")


def verify_files(directory: Path, bundle: Bundle) -> None:
    """Compare every file with its sha256; raises BundleHashError, or BundleError when there is none, with its name."""
    for entry in bundle.files:
        path = bundle.folder(directory, [entry.name]) / entry.name
        try:
            with open_regular(path) as stream:
                size_bytes = os.fstat(stream.fileno()).st_size
                actual = _sha256(stream) if size_bytes == entry.size_bytes else None
        except OSError as error:
            beside = "" if entry.part is None else f" and {entry.part} beside it"
            raise BundleError(f"{path}: {error.strerror}: copy the bundle{beside} again") from None
        if actual is None:
            raise BundleHashError(
                f"{path}: {size_bytes} bytes are not the {entry.size_bytes} of {MANIFEST}: copy the bundle again"
            )
        if actual != entry.sha256:
            raise BundleHashError(
                f"{path}: sha256 {actual[:12]}... is not {MANIFEST}'s {entry.sha256[:12]}...: "
                "copy the bundle again"
            )


@contextmanager
def writing(directory: Path) -> Iterator[Path]:
    """A temporary directory beside ``directory`` that takes its place when the block ends without an error.

    An existing bundle of that name is replaced only then; after an error nothing is left. Raises OutputError when the
    disk refuses, and when ``directory`` holds something that is not a bundle.
    """
    try:
        occupied = directory.exists() and not (directory / MANIFEST).is_file() and any(directory.iterdir())
    except OSError as error:
        raise refused(directory, error) from None
    if occupied:
        raise OutputError(f"{directory}: exists and is not a bundle: choose another --out")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with working_folder(directory.parent) as work:
            yield work
            work.chmod(0o755)
            _replace(work, directory)
    except OSError as error:
        raise refused(directory, error) from None


def _replace(work: Path, directory: Path) -> None:
    """Put ``work`` in the place of ``directory``; when that fails, what was there is there again."""
    if not directory.exists():
        work.replace(directory)
        return
    # A directory that is not empty cannot be replaced in one step.
    old = temporary_name(directory.parent, "")
    directory.replace(old)
    try:
        work.replace(directory)
    except BaseException:
        old.replace(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_manifest(directory: Path, bundle: Bundle) -> None:
    """Write bundle.json into ``directory``, indented, for people to read as well."""
    (directory / MANIFEST).write_bytes(_encoded(bundle))


def _encoded(bundle: Bundle) -> bytes:
    return msgspec.json.format(msgspec.json.encode(bundle), indent=2) + b"\n"


def upgrade(directory: Path) -> bool:
    """Rewrite bundle.json of a bundle as this edgeface's schema says it, its files as they are; whether it was of
    another. The faces stay the same, to the bit.

    Raises BundleError and BundleHashError as ``read_bundle``, and OutputError; the old bundle.json stays then.
    """
    bundle = read_bundle(directory)
    path = directory / MANIFEST
    if msgspec.json.decode(path.read_bytes(), type=dict[str, Any])["schema"] == SCHEMA:
        return False
    with replacing(path) as temporary:
        temporary.write_bytes(_encoded(bundle))
    return True


@contextmanager
def whole(directory: Path) -> Iterator[Path]:
    """A directory with all that the bundle in ``directory`` needs: itself, or for the block a copy with the files of
    its parts in it. Raises as ``read_bundle``, and OutputError."""
    bundle = read_bundle(directory)
    if not bundle.parts:
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="edgeface-bundle-") as scratch:
        copy = Path(scratch) / directory.resolve().name
        try:
            copy.mkdir()
            for file in bundle.files:
                shutil.copyfile(bundle.folder(directory, [file.name]) / file.name, copy / file.name)
            write_manifest(copy, replace(bundle, files=[replace(file, part=None) for file in bundle.files]))
        except OSError as error:
            raise refused(copy, error) from None
        yield copy
