"""What a detector lets through, in place of what its bundle says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from edgeface.bundle import Bundle, Stage
from edgeface.errors import OptionError
from edgeface.runtime.stages.kinds import kind_of

MAX_CANDIDATES = 5000
MAX_MIN_FACE_PX = 8192.0


@dataclass(frozen=True)
class Limits:
    """What a cascade lets through, in place of the bundle's own where it is not None.

    ``min_face_px``: the smallest faces that a pyramid looks for, in pixels of the picture at the detector's size.
    ``thresholds``: the probabilities 0..1 that a face needs to go on, one for each stage before the last.
    ``candidates``: the most boxes that go from each stage to the next, 1 to 5000; what is over that is given up.
    Without ``classes`` nothing is told of classes such as age, and nets that tell nothing else are left out.
    """

    min_face_px: float | None = None
    thresholds: tuple[float, ...] | None = None
    candidates: int | None = None
    classes: bool = True


def limited(bundle: Bundle, limits: Limits) -> Bundle:
    """``bundle`` with the stages that ``limits`` ask for. Raises OptionError for a value that cannot work, and where
    the bundle has no stage that it is meant for."""
    stages = list(bundle.stages)
    min_face_px, candidates = limits.min_face_px, limits.candidates
    if min_face_px is not None:
        changed = _where_it_can(stages, lambda stage: kind_of(stage).with_min_face(stage, min_face_px))
        if changed is None:
            raise OptionError(
                f"{bundle.name} has no image pyramid, so no smallest face to set: choose a model such as mtcnn, or a "
                "smaller size"
            )
        if not 1.0 <= min_face_px <= MAX_MIN_FACE_PX:
            raise OptionError(f"a smallest face of {min_face_px:g} pixels cannot work: choose 1 to {MAX_MIN_FACE_PX:g}")
        stages = changed
    if limits.thresholds is not None:
        stages = _with_thresholds(bundle.name, stages, limits.thresholds)
    if candidates is not None:
        changed = _where_it_can(stages, lambda stage: kind_of(stage).with_limit(stage, candidates))
        if changed is None:
            raise OptionError(f"{bundle.name} is no cascade, its candidates have no limit to set: leave it out")
        if not 1 <= candidates <= MAX_CANDIDATES:
            raise OptionError(f"{candidates} candidates cannot work: choose 1 to {MAX_CANDIDATES}")
        stages = changed
    if not limits.classes:
        return replace(bundle, stages=stages).without_classes()
    return replace(bundle, stages=stages)


def _where_it_can(stages: Sequence[Stage], change: Callable[[Stage], Any | None]) -> list[Stage] | None:
    """The stages, changed where ``change`` gives another; None where it gives none for any."""
    changed = [change(stage) for stage in stages]
    if all(stage is None for stage in changed):
        return None
    return [before if after is None else after for before, after in zip(stages, changed, strict=True)]


def _with_thresholds(name: str, stages: Sequence[Stage], thresholds: tuple[float, ...]) -> list[Stage]:
    """After a first stage without a threshold of its own a stage has the one of what comes to it."""
    own = [i for i, stage in enumerate(stages) if kind_of(stage).with_threshold(stage, 0.0) is not None]
    if own and own[0] == 0:
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
    changed: dict[int, Any] = {
        i: kind_of(stages[i]).with_threshold(stages[i], value) for i, value in zip(own, thresholds, strict=True)
    }
    return [changed.get(i, stage) for i, stage in enumerate(stages)]
