"""A detector's bundle and a refinement's put together."""

from __future__ import annotations

import shutil
from pathlib import Path

from msgspec.structs import replace

from edgeface.bundle.checks import inconsistency
from edgeface.bundle.files import MANIFEST, read_bundle, sha256_of, write_manifest, writing
from edgeface.bundle.outputs import Score
from edgeface.bundle.schema import Bundle, file_sets
from edgeface.errors import OptionError


def remaining(detector: Bundle, refinement: Bundle) -> Bundle:
    """What of ``detector`` is left in front of ``refinement``: all, but for the nets that tell head pose and nothing
    else where the refinement tells it too."""
    if not refinement.gives_pose:
        return detector
    left_out = [stage for stage in detector.face_stages if stage.tells_pose and len(stage.outputs) == 1]
    names = {name for stage in left_out for files in file_sets(stage) for name in files}
    return replace(
        detector, stages=[stage for stage in detector.stages if stage not in left_out],
        files=[file for file in detector.files if file.name not in names],
    )


def combined(detector: Bundle, refinement: Bundle) -> Bundle:
    """The bundle whose faces are found by one and refined by the other; its names and files are those of both
    (``remaining``).

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
    detector = remaining(detector, refinement)
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
        fast=detector.fast or refinement.fast,
    )
    problem = inconsistency(made)
    if problem is not None:
        raise OptionError(f"{detector.name} and {refinement.name} do not go together: {problem}")
    return made


def combine(
    detector: Path, refinement: Path, model: str, out: Path, *, by_reference: bool = False, score: float | None = None
) -> Bundle:
    """Write a bundle of the new ``model`` to ``out``, which names it: the files of two bundles' directories, and the
    sha256 of both bundle.json. ``by_reference``: the files are not copied but named as parts of the two bundles, which
    must lie beside ``out`` and stay there. ``score``: the new model's default least score, the detector's where it is
    None; means of two scores are not those that the detector gave.

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
    if by_reference:
        for directory in (detector, refinement):
            if directory.resolve().parent != out.resolve().parent:
                raise OptionError(f"{directory}: does not lie beside {out}, so its files cannot be named: copy them")
        made = replace(made, files=[
            replace(file, part=file.part or directory.resolve().name)
            for bundle, directory in zip(bundles, (detector, refinement), strict=True)
            for file in bundle.files if file in made.files
        ])
    else:
        made = replace(made, files=[replace(file, part=None) for file in made.files])
    both = {f.name for f in first.files} & {f.name for f in second.files}
    if both:
        raise OptionError(f"{first.name} and {second.name} both have a file {min(both)}: convert one of them again")
    sources = [
        {"name": bundle.name, "model": bundle.model, "sha256": sha256_of(directory / MANIFEST), "made": bundle.made}
        for bundle, directory in zip(bundles, (detector, refinement), strict=True)
    ]
    defaults = made.defaults if score is None else replace(made.defaults, score=score)
    made = replace(made, name=out.resolve().name, model=model, defaults=defaults, made={"sources": sources})
    with writing(out) as work:
        for bundle, directory in zip(bundles, (detector, refinement), strict=True):
            for file in [] if by_reference else bundle.files:
                if all(file.name != wanted.name for wanted in made.files):
                    continue
                shutil.copyfile(bundle.folder(directory, [file.name]) / file.name, work / file.name)
        write_manifest(work, made)
        # What was copied is what was read, even if somebody wrote there meanwhile.
        read_bundle(work)
    return made


def _is_refined(bundle: Bundle) -> bool:
    scores = [score for stage in bundle.refining_stages for score in stage.all_of(Score)]
    return any(score.combine == "mean" for score in scores)
