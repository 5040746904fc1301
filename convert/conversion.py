"""From a checkpoint to a bundle: graphs, the target's files, bundle.json, and the parity report that decides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from edgeface.bundle import Bundle, describe_file, sha256_of, write_manifest, writing
from edgeface.errors import CheckpointError, OptionError
from edgeface.runtime import catalog
from edgeface.runtime.detector import Detector
from edgeface.runtime.loading import default_threads, open_sessions

from .parity import DepartedError, FaceSums, ParityReport, Tolerance
from .pictures import Image, Pictures, choose
from .raw import Sessions, compare_raw
from .targets import require, target

# The raw outputs of a few pictures have millions of values; the faces need many pictures.
RAW_PICTURES = 8


@dataclass(frozen=True)
class Conversion:
    """A bundle that was written to ``directory``, and how it compared with its checkpoint."""

    directory: Path
    bundle: Bundle
    report: ParityReport


@dataclass(frozen=True)
class _Side:
    """One of two bundles under comparison, with its nets open."""

    bundle: Bundle
    sessions: Sessions

    @classmethod
    def open(cls, bundle: Bundle, directory: Path) -> _Side:
        return cls(bundle, open_sessions(directory, bundle, default_threads()))

    def detector(self, score: float | None = None, nms_iou: float | None = None) -> Detector:
        defaults = self.bundle.defaults
        return Detector(
            self.bundle, self.sessions, size_px=defaults.size_px,
            score=defaults.score if score is None else score,
            nms_iou=defaults.nms_iou if nms_iou is None else nms_iou,
        )


class Watch(Protocol):
    """Wraps a loop over pictures to show how far it is: (items, label, total) -> the same items."""

    def __call__(
        self, items: Iterable[tuple[str, Image]], label: str, total: int, /
    ) -> Iterable[tuple[str, Image]]: ...


def convert(
    model: str | Path,
    target_name: str,
    *,
    precision: str | None = None,
    out: Path | None = None,
    pictures: Path | None = None,
    size_px: int | None = None,
    force: bool = False,
    watch: Watch | None = None,
) -> Conversion:
    """Convert a checkpoint, by path or by the name of a shipped one, and write the bundle ``out``.

    ``precision`` None is the target's first one, ``out`` None ``<model>-<precision>-<engine>`` in the current folder.
    ``pictures`` is the folder for the parity report (see ``pictures.choose``), ``size_px`` the bundle's default input
    size and the report's. ``watch(items, label, total)`` wraps the long loop. The bundle is whole and verified or not
    there; with ``force`` one that misses the tolerance is written with ``verified`` false.

    Raises UnknownTargetError, UnknownModelError, OptionError, CheckpointError, MissingExtraError, InputError,
    DataError, OutputError, ConversionError, EngineError, and DepartedError, a ParityError with the report.
    """
    goal = target.get(target_name)
    precision = next(iter(goal.tolerances)) if precision is None else precision
    if precision not in goal.tolerances:
        raise OptionError(f"target {target_name} has no precision {precision!r}: choose {' or '.join(goal.tolerances)}")
    require(goal.packages)
    checkpoint = _checkpoint_path(model)

    from edgeface.models.checkpoint import load
    from edgeface.models.mos_export import graphs, stages
    from edgeface.runtime.engines.torch import checkpoint_bundle

    nets = graphs(load(checkpoint).build())
    original = checkpoint_bundle(checkpoint)
    if size_px is not None:
        original = replace(original, defaults=replace(original.defaults, size_px=size_px))
    reference = _Side.open(original, checkpoint.parent)
    reference.detector()    # refuses a size that cannot work, before minutes of converting
    chosen = choose(pictures)
    name = f"{original.model}-{precision}-{goal.engine}"
    directory = Path(name) if out is None else out
    with writing(directory) as work:
        for net in nets:
            goal.write(net, [work / file for file in goal.files(net.stem)], precision)
        files = [describe_file(work / file) for net in nets for file in goal.files(net.stem)]
        bundle = replace(
            original, name=name, precision=precision, engine=goal.engine, stages=stages(goal.files), files=files,
            verified=False,
        )
        report = _compare(reference, _Side.open(bundle, work), chosen, goal.tolerances[precision], watch)
        if not report.passed and not force:
            raise DepartedError(report)
        command = ["edgeface", "convert", checkpoint.name, "--target", target_name, "--precision", precision]
        if size_px is not None:
            command += ["--size", str(size_px)]
        if force:
            command.append("--force")
        made = {
            "command": " ".join(command),
            "checkpoint": {"file": checkpoint.name, "sha256": sha256_of(checkpoint), "made": original.made},
            "versions": {package: _version(package) for package in ("edgeface", *goal.packages)},
            "parity": report.summary(),
        }
        bundle = replace(bundle, verified=report.passed, made=made)
        write_manifest(work, bundle)
    return Conversion(directory, bundle, report)


def _checkpoint_path(model: str | Path) -> Path:
    path = catalog.find(model, "torch")
    if path.is_dir():
        raise CheckpointError(f"{model}: is a bundle or has no checkpoint here: give the checkpoint it was made from")
    return path


def _version(package: str) -> str:
    # The package's own word: a distribution can have another name, as onnxruntime-gpu has.
    return str(getattr(import_module(package), "__version__", "unknown"))


def _compare(
    reference: _Side, candidate: _Side, pictures: Pictures, tolerance: Tolerance, watch: Watch | None
) -> ParityReport:
    raw = compare_raw(
        reference.bundle, reference.sessions, candidate.sessions,
        (image for _, image in islice(pictures, RAW_PICTURES)), reference.bundle.defaults.size_px,
    )
    items: Iterable[tuple[str, Image]] = pictures
    if watch is not None:
        items = watch(pictures, "comparing", len(pictures))
    lowered = max(0.0, reference.bundle.defaults.score - tolerance.score)
    sums = FaceSums(tolerance)
    for picture, image in items:
        sums.add(
            picture, reference.detector()(image), candidate.detector()(image),
            partial(reference.detector(lowered, 1.0), image), partial(candidate.detector(lowered, 1.0), image),
        )
    return ParityReport(
        candidate.bundle.name, f"torch {_version('torch')}", pictures.source, tolerance, raw, sums.parity()
    )
