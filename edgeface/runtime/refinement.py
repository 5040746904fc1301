"""A detector's bundle and a refinement's put together, and a cascade's limits set: bundles made of bundles."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from edgeface.bundle import (
    MANIFEST,
    Bundle,
    CropStage,
    DenseStage,
    PyramidStage,
    Stage,
    inconsistency,
    read_bundle,
    sha256_of,
    write_manifest,
    writing,
)
from edgeface.errors import OptionError

MAX_CANDIDATES = 5000
MAX_MIN_FACE_PX = 8192.0


@dataclass(frozen=True)
class Limits:
    """What a cascade lets through, in place of the bundle's own where it is not None.

    ``min_face_px``: the smallest faces that a pyramid looks for, in pixels of the picture at the detector's size.
    ``thresholds``: the probabilities 0..1 that a face needs to go on, one for each stage before the last.
    ``candidates``: the most boxes that go from each stage to the next, 1 to 5000; what is over that is given up.
    """

    min_face_px: float | None = None
    thresholds: tuple[float, ...] | None = None
    candidates: int | None = None


def combined(detector: Bundle, refinement: Bundle) -> Bundle:
    """The bundle whose faces are found by one and refined by the other; its names and files are those of both.

    Raises OptionError when ``refinement`` is none, when ``detector`` is one or has one already, or when they are for
    two engines.
    """
    if not refinement.is_refinement:
        raise OptionError(
            f"{refinement.name} refines nothing, it is a detector of its own: choose a refinement, such as tcnn"
        )
    if detector.is_refinement:
        raise OptionError(f"{detector.name} is no detector, it refines the faces of one: give a detector first")
    if _is_refined(detector):
        raise OptionError(f"{detector.name} has a refinement already: leave {refinement.name} out")
    if detector.engine != refinement.engine:
        raise OptionError(
            f"{refinement.name} is for the engine {refinement.engine}, {detector.name} for {detector.engine}: choose "
            "two bundles for one engine"
        )
    made = replace(
        detector,
        name=f"{detector.name}+{refinement.name}",
        model=f"{detector.model}+{refinement.model}",
        stages=[*detector.stages, *refinement.stages],
        files=[*detector.files, *refinement.files],
        licence=" and ".join(dict.fromkeys((detector.licence, refinement.licence))),
        metrics={},
        made={"combined": [detector.name, refinement.name]},
        verified=detector.verified and refinement.verified,
        scales=detector.scales | refinement.scales,
    )
    problem = inconsistency(made)
    if problem is not None:
        raise OptionError(f"{detector.name} and {refinement.name} do not go together: {problem}")
    return made


def combine(detector: Path, refinement: Path, model: str, out: Path) -> Bundle:
    """Write a bundle of the new ``model`` to ``out``, which names it: the files of two bundles' directories, and the
    sha256 of both bundle.json.

    Raises OptionError as ``combined``, and for two precisions, for an ``out`` that is one of the two and for two files
    of one name; BundleError when one cannot be read, and OutputError.
    """
    bundles = [read_bundle(directory) for directory in (detector, refinement)]
    first, second = bundles
    if out.resolve() in (detector.resolve(), refinement.resolve()):
        raise OptionError(f"--out {out}: is one of the two bundles: choose another folder")
    made = combined(first, second)
    if first.precision != second.precision:
        raise OptionError(
            f"{first.name} is {first.precision} and {second.name} {second.precision}: choose two of one precision"
        )
    both = {f.name for f in first.files} & {f.name for f in second.files}
    if both:
        raise OptionError(f"{first.name} and {second.name} both have a file {min(both)}: convert one of them again")
    sources = [
        {"name": bundle.name, "model": bundle.model, "sha256": sha256_of(directory / MANIFEST), "made": bundle.made}
        for bundle, directory in zip(bundles, (detector, refinement), strict=True)
    ]
    made = replace(made, name=out.resolve().name, model=model, made={"sources": sources})
    with writing(out) as work:
        for bundle, directory in zip(bundles, (detector, refinement), strict=True):
            for file in bundle.files:
                shutil.copyfile(directory / file.name, work / file.name)
        write_manifest(work, made)
        # What was copied is what was read, even if somebody wrote there meanwhile.
        read_bundle(work)
    return made


def limited(bundle: Bundle, limits: Limits) -> Bundle:
    """``bundle`` with the stages that ``limits`` ask for. Raises OptionError for a value that cannot work, and where
    the bundle has no stage that it is meant for."""
    stages = list(bundle.stages)
    if limits.min_face_px is not None:
        _check_min_face(bundle, limits.min_face_px)
        stages = [
            replace(stage, min_face_px=limits.min_face_px) if isinstance(stage, PyramidStage) else stage
            for stage in stages
        ]
    if limits.thresholds is not None:
        stages = _with_thresholds(bundle.name, stages, limits.thresholds)
    if limits.candidates is not None:
        if not any(isinstance(stage, (PyramidStage, CropStage)) for stage in stages):
            raise OptionError(f"{bundle.name} is no cascade, its candidates have no limit to set: leave it out")
        if not 1 <= limits.candidates <= MAX_CANDIDATES:
            raise OptionError(f"{limits.candidates} candidates cannot work: choose 1 to {MAX_CANDIDATES}")
        stages = [
            replace(stage, limit=limits.candidates) if isinstance(stage, (PyramidStage, CropStage)) else stage
            for stage in stages
        ]
    return replace(bundle, stages=stages)


def _is_refined(bundle: Bundle) -> bool:
    return any(stage.scores == "mean" for stage in bundle.crop_stages)


def _check_min_face(bundle: Bundle, min_face_px: float) -> None:
    if not any(isinstance(stage, PyramidStage) for stage in bundle.stages):
        raise OptionError(
            f"{bundle.name} has no image pyramid, so no smallest face to set: choose a model such as mtcnn, or a "
            "smaller size"
        )
    if not 1.0 <= min_face_px <= MAX_MIN_FACE_PX:
        raise OptionError(f"a smallest face of {min_face_px:g} pixels cannot work: choose 1 to {MAX_MIN_FACE_PX:g}")


def _with_thresholds(name: str, stages: Sequence[Stage], thresholds: tuple[float, ...]) -> list[Stage]:
    """After a dense stage, which has no threshold of its own, a stage on crops has the one of what comes to it."""
    own = [i for i, stage in enumerate(stages) if isinstance(stage, (PyramidStage, CropStage))]
    if own and not isinstance(stages[0], DenseStage):
        own = own[:-1]
    if not own:
        raise OptionError(f"{name} is no cascade, it has one threshold, its score: leave the others out")
    if len(thresholds) != len(own):
        raise OptionError(
            f"{name} has {len(own)} stages before its last, not {len(thresholds)}: give {len(own)} thresholds, as in "
            f"{','.join(['0.6'] * len(own))}"
        )
    for value in thresholds:
        if not 0.0 <= value <= 1.0:
            raise OptionError(f"threshold {value:g} cannot work: choose 0 to 1")
    changed = list(stages)
    for i, value in zip(own, thresholds, strict=True):
        stage = changed[i]
        assert isinstance(stage, (PyramidStage, CropStage))
        changed[i] = replace(stage, threshold=value)
    return changed
