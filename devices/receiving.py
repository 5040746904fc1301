"""The operations of a worker that takes a bundle in: it appears at its place whole, or not at all.

What was received and not kept is removed when the worker ends, and it ends when the connection does. A board that
loses its power leaves it, and the next bundle of that name removes it.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from edgeface.atomic import refused
from edgeface.bundle import writing
from edgeface.errors import DeviceError, OptionError
from edgeface.user_folders import bundles_directory

from .operations import OperationOptions, Receiving, State, operation, read
from .protocol import Arrays

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Nobody copies one bundle for so long.
_STALE_S = 3600.0


class Receive(OperationOptions, frozen=True):
    """``directory`` will be the bundle's, ~ for the home folder; None for that of its ``name`` among the others."""

    name: str
    directory: str | None = None


@operation("receive")
def receive(state: State, options: dict[str, Any], _arrays: Arrays) -> tuple[Any, Arrays]:
    """Make room: ``incoming`` is where the bundle's files are to be copied to, ``directory`` where they will lie."""
    wanted = read(options, Receive)
    if not _PLAIN_NAME.fullmatch(wanted.name):
        raise OptionError(f"a bundle of the name {wanted.name!r} has no place of its own: choose an --out")
    place = bundles_directory() / wanted.name if wanted.directory is None else Path(wanted.directory).expanduser()
    # Not resolved: a link that a program loads from is to stay one.
    target = Path.cwd() / place
    _forget_what_was_left(target)
    writer = writing(target)
    work = writer.__enter__()
    state.at_end.callback(shutil.rmtree, work, ignore_errors=True)
    receiving = Receiving(target, work, writer)
    state.receiving[str(target)] = receiving
    return {
        "incoming": str(receiving.incoming), "directory": str(target), "replaces": target.exists(),
    }, {}


class Keep(OperationOptions, frozen=True):
    """The ``directory`` that ``receive`` named."""

    directory: str


@operation("keep")
def keep(state: State, options: dict[str, Any], _arrays: Arrays) -> tuple[Any, Arrays]:
    """Put a received bundle in its place, and away what was there."""
    directory = read(options, Keep).directory
    receiving = state.receiving.pop(directory, None)
    if receiving is None:
        raise DeviceError(f"{directory}: no bundle was received for it: receive it first")
    try:
        for path in receiving.incoming.iterdir():
            path.replace(receiving.work / path.name)
        receiving.incoming.rmdir()
    except OSError as error:
        raise refused(receiving.directory, error) from None
    # A name that reaches the disk before its content would be a damaged bundle after a loss of power.
    os.sync()
    receiving.place.__exit__(None, None, None)
    os.sync()
    return None, {}


def _forget_what_was_left(target: Path) -> None:
    for left in target.parent.glob(f".{target.name}.*"):
        try:
            is_stale = time.time() - left.stat().st_mtime > _STALE_S
        except FileNotFoundError:
            continue
        if is_stale:
            shutil.rmtree(left, ignore_errors=True)
