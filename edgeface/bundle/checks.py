"""What in a bundle's stages contradicts itself, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from edgeface.bundle.outputs import Binary, Bins, Box, Classes, Heatmaps, Landmarks, PoseFromPoints, Score
from edgeface.bundle.schema import Bundle, Crops, DenseStage, FaceStage, Joined, Points, PyramidStage, Regions, Stage

# A pipeline in letters: a dense stage, perhaps points, regions and joined regions of it, then crops; a pyramid and
# crops; crops alone.
_LETTERS: dict[type, str] = {DenseStage: "d", PyramidStage: "y", Points: "p", Regions: "r", Joined: "j", Crops: "c"}
_PIPELINE = re.compile("dp?r?j*c*|yc+|c+")
# What a net on each kind of input must give, and what it may give besides.
_MUST: dict[type, tuple[type, ...]] = {Points: (Bins,), Regions: (), Joined: (), Crops: (Score, Box)}
_MAY: dict[type, tuple[type, ...]] = {
    Points: (), Regions: (Heatmaps,), Joined: (Score, Box, Landmarks, Heatmaps, Binary, Classes),
    Crops: (Landmarks, PoseFromPoints, Binary, Classes),
}
_SEVERAL = (Landmarks, Heatmaps, Binary, Classes)


def inconsistency(bundle: Bundle) -> str | None:
    """What in the stages contradicts itself; None when nothing does."""
    kinds = [type(stage.gather if isinstance(stage, FaceStage) else stage) for stage in bundle.stages]
    if not _PIPELINE.fullmatch("".join(_LETTERS[kind] for kind in kinds)):
        return (
            f"the stages {', '.join(_tag(kind) for kind in kinds) or '(none)'} are no pipeline, which is a dense one, "
            "then at most one on points, one on regions, and any on joined regions and on crops; or a pyramid and then "
            "crops; or, to refine what another model finds, crops alone"
        )
    faces = bundle.face_stages
    return _dense(bundle.stages) or next(filter(None, map(_outputs, faces)), None) or _attributes(faces)


def _tag(kind: type) -> str:
    return str(kind.__struct_config__.tag)  # type: ignore[attr-defined]  # msgspec gives every struct one


def _dense(stages: Sequence[Stage]) -> str | None:
    first = stages[0] if isinstance(stages[0], DenseStage) else None
    levels = [] if first is None else first.levels
    if len({level.landmarks is None for level in levels}) > 1:
        return "some levels have landmarks and some have not"
    if first is not None and first.objectness is not None and len(first.objectness.outputs) != len(levels):
        return f"{len(first.objectness.outputs)} outputs of objectness for {len(levels)} levels"
    anchors = getattr(None if first is None else first.coding, "anchors_px", None)
    if anchors is not None and list(map(len, anchors)) != [len(level.anchors_px) for level in levels]:
        return "the coding's anchors are not as many a level as the levels have"
    strides = {} if first is None else {each.name: each.stride for each in first.features}
    for stage in stages:
        wrong = None
        if isinstance(stage, FaceStage) and isinstance(stage.gather, Regions):
            wrong = _regions(stage.gather.maps, strides)
        elif isinstance(stage, FaceStage) and isinstance(stage.gather, Joined):
            wrong = _regions(stage.gather.maps, strides) or _scales(stage.gather)
        elif isinstance(stage, FaceStage) and isinstance(stage.gather, Points):
            wrong = _points(len(stage.files), stage.gather.maps, [level.stride for level in levels], strides)
        if wrong is not None:
            return wrong
    return None


def _points(nets: int, names: Sequence[str], levels: Sequence[int], strides: Mapping[str, int]) -> str | None:
    """``levels``: the strides of the dense stage's levels; ``strides``: of the features that it gives, by name."""
    if not nets == len(names) == len(levels):
        return f"{nets} nets on points of {len(names)} maps for {len(levels)} levels"
    for name, stride in zip(names, levels, strict=True):
        if strides.get(name) != stride:
            return f"points need features {name} of stride {stride} from the dense stage"
    return None


def _regions(maps: Sequence[str], strides: Mapping[str, int]) -> str | None:
    """``strides``: of the features that the dense stage gives, by name."""
    missing = next((name for name in maps if name not in strides), None)
    if missing is not None:
        return f"regions need features {missing} from the dense stage"
    found = [strides[name] for name in maps]
    return None if found == sorted(set(found)) else f"regions are taken from strides {found}, which must rise"


def _scales(gather: Joined) -> str | None:
    maps, scales = len(gather.maps), len(gather.scales)
    return None if maps == scales else f"joined regions have {scales} scales for {maps} maps"


def _outputs(stage: FaceStage) -> str | None:
    gather = type(stage.gather)
    kinds = [type(output) for output in stage.outputs]
    for kind in _MUST[gather]:
        if kind not in kinds:
            return f"a stage on {_tag(gather)} has no {_tag(kind)}"
    for kind in kinds:
        if kind not in (*_MUST[gather], *_MAY[gather]):
            return f"a stage on {_tag(gather)} cannot have {_tag(kind)}"
        if kind not in _SEVERAL and kinds.count(kind) > 1:
            return f"a stage has two outputs of the kind {_tag(kind)}"
    if (Score in kinds) != (Box in kinds):
        return "a stage has a score without a box, or a box without a score"
    if gather is not Points and len(stage.files) != 1:
        return f"{len(stage.files)} nets on {_tag(gather)} for one"
    sizes = [*(each.points for each in stage.all_of(Landmarks)), *(each.points for each in stage.all_of(Heatmaps))]
    return "a stage gives as many landmarks twice" if len(set(sizes)) < len(sizes) else None


def _attributes(stages: Sequence[FaceStage]) -> str | None:
    told: list[list[Binary | Classes]] = [[*stage.all_of(Binary), *stage.all_of(Classes)] for stage in stages]
    scoring = [each for stage, each in zip(stages, told, strict=True) if stage.one_of(Score) is not None]
    if any(scoring[:-1]):
        return "a stage before the last one has attributes, which the last one would not have"
    attributes = [each for stage in told for each in stage]
    channels = [f"{each.channel} of {each.output}" for each in attributes if isinstance(each, Binary)]
    for what, values in (("name", [each.name for each in attributes]), ("channel", channels)):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            return f"two attributes have the {what} {twice}"
    try:
        _ = [each.names for each in attributes if isinstance(each, Classes)]
    except ValueError as error:
        return str(error)
    return None
