"""Bringing a bundle to a board, and proof that it is whole there and finds what it finds here."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Bundle, read_bundle, whole
from edgeface.errors import BundleError, DeviceError, MissingExtraError
from edgeface.runtime import catalog
from edgeface.runtime.loading import load
from edgeface.weights import SHIPPED

from .agreement import Agreement, compare
from .client import Client
from .links.registry import Link
from .progress import Progress, silent

# A slow card, or a radio link.
_BYTES_PER_S = 50_000
_LEAST_S = 60.0


class Deployment(msgspec.Struct, frozen=True):
    """What was done: the bundle lies in ``directory`` of the board ``device``, and ``replaced`` one that was there.

    ``agreement`` is of one picture, here and there, before the bundle was put in its place.
    """

    device: str
    where: str
    bundle: str
    directory: str
    replaced: bool
    files: int
    size_bytes: int
    agreement: Agreement


def deploy(
    link: Link,
    bundle: str | Path,
    picture: NDArray[np.uint8],
    *,
    directory: str | None = None,
    progress: Progress = silent,
) -> Deployment:
    """Copy ``bundle``, a name or a directory, to the board; check every hash there; compare the faces in ``picture``,
    uint8 (H, W, 3) BGR, with those found here; and only then put it into its place. A model's name means the bundle
    that serves the board best.

    A bundle that names the files of others beside it comes to the board whole. ``directory`` on the board, ~ for its
    user's home, is by default of the bundle's name below ``~/.local/share/edgeface/bundles``. When anything fails the
    board is as it was.

    Raises UnknownModelError, BundleError and BundleHashError for a bundle that cannot be used, MissingExtraError when
    its engine is not installed here or there, OutputError when it cannot be written there, and DeviceError, also when
    the faces are not the same.
    """
    source = catalog.find(bundle, best=link.board.best.get(str(bundle).removeprefix(SHIPPED), ()))
    if not source.is_dir():
        raise BundleError(f"{source}: is not a bundle: make one with edgeface convert")
    with whole(source) as complete, Client(link) as client:
        manifest = read_bundle(complete)
        where = f"{link.board.name} ({link.describe()})"
        progress(f"copying {manifest.name} to {where}")
        room = client.receive(complete.resolve().name, directory)
        size_bytes = sum(entry.size_bytes for entry in manifest.files)
        link.put(complete, room.incoming, timeout_s=_LEAST_S + size_bytes / _BYTES_PER_S)
        progress("looking at a picture here and there")
        try:
            agreement = _agreement(client, complete, manifest, room.incoming, picture)
        except MissingExtraError as error:
            if manifest.name == Path(bundle).name:
                raise
            raise MissingExtraError(
                f"{error}: {manifest.name} serves {link.board.name} best; 'edgeface models list' names the others of "
                f"{manifest.model}"
            ) from None
        if not agreement.is_same:
            raise DeviceError(
                f"{where}: {manifest.name} finds other faces there ({agreement.text}); nothing was changed there: "
                "make sure with edgeface parity that it is as its checkpoint, and compare the versions of its engine"
            )
        client.keep(room)
    return Deployment(
        device=link.board.name,
        where=link.describe(),
        bundle=manifest.name,
        directory=room.directory,
        replaced=room.replaces,
        files=len(manifest.files),
        size_bytes=size_bytes,
        agreement=agreement,
    )


def _agreement(
    client: Client, source: Path, manifest: Bundle, incoming: str, picture: NDArray[np.uint8]
) -> Agreement:
    there = client.load(incoming)
    if there.bundle != manifest:
        raise DeviceError(f"{client.where}: {manifest.name} is another bundle there: nobody else may copy there now")
    here = load(source)
    agreement = compare(
        here(picture), client.detect(there, picture), here.raw(picture), client.raw(there, picture)
    )
    client.unload(there)
    return agreement
