"""``edgeface bench`` on a board: bundles taken there for the time of the run, and timed side by side by the worker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeface.devices.client import Client
from edgeface.devices.links.registry import Link
from edgeface.devices.progress import Progress, silent
from edgeface.devices.replies import LoadedBundle, Timed

from edgeface.bundle import read_bundle, whole
from edgeface.errors import OptionError
from edgeface.runtime import catalog
from edgeface.runtime.benchmark import SEED, WARM_UP_ROUNDS, Condition, Measured, Pictures, Quantiles, Report
from edgeface.wording import counted

PLACE = "board"
# Nothing is ever kept under it.
_PLACE_NAME = "edgeface-bench"
_COPY_TIMEOUT_S = 300.0
# A slow board's slowest picture, several times over.
_ROUND_TIMEOUT_S = 20.0
_START_TIMEOUT_S = 60.0


def time_on_board(
    link: Link,
    names: Sequence[str],
    pictures: Pictures,
    *,
    threads: int,
    size_px: int | tuple[int, int],
    rounds: int,
    engine: str | None = None,
    progress: Progress = silent,
) -> Report:
    """Time bundles, names or directories here as ``catalog.find`` takes them, on the board at the end of ``link``.

    They are copied there and gone when the run ends; every round runs each once, after a warm-up, and all count.
    ``progress`` gets a line for each that is there, and one before the rounds. Raises OptionError for a checkpoint,
    what ``catalog.find`` and ``read_bundle`` raise, and DeviceError and what is below it.
    """
    directories = [_bundle_directory(name, engine) for name in names]
    bundles = [read_bundle(directory) for directory in directories]
    with Client(link) as client:
        loaded = []
        for number, (bundle, directory) in enumerate(zip(bundles, directories, strict=True), 1):
            loaded.append(_take(client, link, directory, threads, size_px))
            progress(f"{bundle.name}: on {link.board.name}, {number} of {len(bundles)}")
        progress(f"{counted(len(bundles), 'bundle')}, {WARM_UP_ROUNDS} + {rounds} rounds ...")
        timeout_s = _START_TIMEOUT_S + _ROUND_TIMEOUT_S * len(names) * (rounds + WARM_UP_ROUNDS)
        timed = client.time(
            loaded, pictures.images, threads=threads, rounds=rounds, warm_up_rounds=WARM_UP_ROUNDS, timeout_s=timeout_s
        )
        machine = client.machine()
    measured = []
    for i, (name, bundle) in enumerate(zip(names, bundles, strict=True)):
        preprocess, network, decode, total = (Quantiles.of(timed.samples[i, :, k].tolist()) for k in range(4))
        measured.append(Measured(
            given=name, name=bundle.name, model=bundle.model, engine=bundle.engine, precision=bundle.form,
            size_bytes=sum(file.size_bytes for file in bundle.files), samples=len(timed.samples[i]),
            faces=timed.faces[i], preprocess_ms=preprocess, network_ms=network, decode_ms=decode, total_ms=total,
        ))
    return Report(
        place=PLACE, cpu=f"{link.board.name}, {link.describe()}, {link.core}",
        processors=len(link.affinity) or len(machine.usable), load_1min=round(timed.load_1min, 2), threads=threads,
        size_px=size_px, pictures=pictures.source, picture_count=len(pictures.images), warm_up_rounds=WARM_UP_ROUNDS,
        rounds=rounds, seed=SEED, bundles=measured, conditions=_conditions(timed),
    )


def _bundle_directory(name: str, engine: str | None) -> Path:
    path = catalog.find(name, engine)
    if not path.is_dir():
        raise OptionError(f"{path}: a checkpoint runs on no board: give a bundle (edgeface convert makes one of it)")
    return path


def _take(
    client: Client, link: Link, directory: Path, threads: int, size_px: int | tuple[int, int]
) -> LoadedBundle:
    """Load a bundle from where the worker receives it, which it forgets when it ends."""
    room = client.receive(_PLACE_NAME)
    with whole(directory) as complete:
        link.put(complete, room.incoming, timeout_s=_COPY_TIMEOUT_S)
    return client.load(room.incoming, threads=threads, size_px=size_px)


def _conditions(timed: Timed) -> list[Condition]:
    return [Condition.of(health) for health in (timed.before, timed.after)]
