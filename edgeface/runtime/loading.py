"""``edgeface.load``: from a name or a path to a detector."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from edgeface.bundle import Bundle, file_sets, read_bundle
from edgeface.bundle.combining import combined, remaining
from edgeface.errors import OptionError, UnverifiedBundleWarning
from edgeface.runtime import catalog, engines
from edgeface.runtime.detector import Detector
from edgeface.runtime.engines import Options, Session
from edgeface.runtime.limits import Limits, limited
from edgeface.runtime.threads import AutomaticThreads, default_threads
from edgeface.runtime.trial import require_tried


def open_sessions(
    directory: Path, bundle: Bundle, threads: int, *, device: str = "cpu"
) -> list[list[Session]]:
    """Every net of a bundle in ``directory``, opened by the bundle's engine: one list a stage, one entry a file set.

    A bundle that did not come with edgeface is tried in a child process first, once on a machine (``trial``).
    ``device`` is that of ``Options``. Raises UnknownEngineError, EngineError, MissingExtraError, and OptionError for a
    device that the engine does not run on.
    """
    if device != "cpu" and bundle.engine != "torch":
        raise OptionError(f"the engine {bundle.engine} runs on the CPU, not on {device!r}: leave the device out")
    engines.engine.get(bundle.engine)
    require_tried(directory, bundle)
    return open_untried(directory, bundle, threads, device=device)


def open_untried(directory: Path, bundle: Bundle, threads: int, *, device: str = "cpu") -> list[list[Session]]:
    """As ``open_sessions``, without a trial: a damaged bundle may end the process."""
    options = Options(threads, bundle.form, device)
    open_net = engines.engine.get(bundle.engine)
    return [
        [open_net(bundle.folder(directory, files), files, stage.input, options) for files in file_sets(stage)]
        for stage in bundle.stages
    ]


def load(
    model_or_path: str | Path,
    *,
    engine: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    size: int | None = None,
    score: float | None = None,
    nms: float | None = None,
    refine: str | Path | None = None,
    min_face: float | None = None,
    thresholds: Sequence[float] | None = None,
    candidates: int | None = None,
    classes: bool = True,
    device: str = "cpu",
) -> Detector:
    """A detector from a model's or a bundle's name, a bundle's directory, or a checkpoint.

    A model's name takes the bundle that serves this machine best, on a board that is known, and its default one on
    others. ``engine``: the one to run with; "torch" runs a checkpoint, and needs torch. ``precision``: "fp32", "fp16"
    or "int8", of a model's bundles the one to take. ``threads``: by default as many as leave a processor free, at most
    4, and fewer while other work takes more (``runtime.threads``). ``size`` (longest side of the net's input, px),
    ``score`` and ``nms`` (0..1) are the bundle's own where they are None. ``device`` is torch's: "cpu", "cuda",
    "cuda:1".

    ``refine`` is a refinement to put behind the detector, such as "tcnn", found as the model is and for its engine. Of
    cascades ``min_face``, ``thresholds`` and ``candidates`` are the ``Limits``; ``classes`` False tells no classes,
    such as age and gender.

    A detector that was loaded before ``os.fork`` or multiprocessing's "fork" works in the child, and one may be loaded
    there; with the engines ncnn and torch the calls of all of a child's threads are then computed one after the other.

    Warns with UnverifiedBundleWarning of a bundle that departed from its checkpoint when it was converted. Raises
    UnknownModelError, UnknownEngineError, OptionError, BundleError, CheckpointError, EngineError and MissingExtraError,
    each with one line that says what to do.
    """
    if engine is not None:
        engines.engine.get(engine)
    chosen = default_threads() if threads is None else threads
    if chosen < 1:
        raise OptionError(f"{threads} threads cannot work: choose 1 or more")
    directory, bundle = _wanted(model_or_path, engine, precision)
    parts, whole = [(directory, bundle)], bundle
    if refine is not None:
        second = _found(refine, bundle.engine)
        parts, whole = [(directory, remaining(bundle, second[1])), second], combined(bundle, second[1])
    for _, part in parts:
        _warn_if_unverified(part)
    parts = [(directory, limited(part, Limits(classes=classes))) for directory, part in parts]
    whole = limited(whole, Limits(min_face, None if thresholds is None else tuple(thresholds), candidates, classes))
    sessions = [opened for part in parts for opened in open_sessions(*part, chosen, device=device)]
    defaults = whole.defaults
    return Detector(
        whole,
        sessions,
        size_px=defaults.size_px if size is None else size,
        score=defaults.score if score is None else score,
        nms_iou=defaults.nms_iou if nms is None else nms,
        automatic=AutomaticThreads([net for opened in sessions for net in opened], chosen) if threads is None else None,
    )


def _warn_if_unverified(bundle: Bundle) -> None:
    """Called by ``load`` itself: the warning names the line of its caller."""
    if not bundle.verified:
        warnings.warn(
            f"{bundle.name} is not verified against its checkpoint and may find other faces: "
            "'edgeface parity' says how far they are apart",
            UnverifiedBundleWarning, stacklevel=3,
        )


def _wanted(model_or_path: str | Path, engine: str | None, precision: str | None) -> tuple[Path, Bundle]:
    """As ``_found``; raises OptionError for a bundle of another engine or precision."""
    directory, bundle = _found(model_or_path, engine, precision)
    if engine not in (None, bundle.engine):
        raise OptionError(f"{directory}: is for the engine {bundle.engine}, not {engine}: leave the engine out")
    if precision not in (None, bundle.precision):
        raise OptionError(f"{directory}: is {bundle.precision}, not {precision}: leave the precision out")
    return directory, bundle


def _found(model_or_path: str | Path, engine: str | None, precision: str | None = None) -> tuple[Path, Bundle]:
    """Where a bundle's files lie, and what it says; for a checkpoint what it is to the engine torch."""
    path = catalog.find(model_or_path, engine, precision)
    if path.is_dir():
        directory, bundle = path, read_bundle(path)
    else:
        if engine not in (None, "torch"):
            raise OptionError(f"{path}: a checkpoint runs with the engine torch: convert it for {engine}")
        directory, bundle = path.parent, engines.file_reader.get("torch")(path)
    return directory, bundle
