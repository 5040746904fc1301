"""How each output of a net per face is decoded: one entry a kind of the schema, one file a way of decoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Binary, Bins, Classes, Heatmaps, Landmarks, Output, PoseFromPoints
from edgeface.runtime.decode.bins import pose_degrees
from edgeface.runtime.decode.classes import softmax
from edgeface.runtime.decode.heatmaps import points_in_boxes
from edgeface.runtime.decode.points import points_in_crops, points_in_regions
from edgeface.runtime.gather.gathered import Gathered
from edgeface.runtime.head_pose import pose_from_points
from edgeface.runtime.logistic import sigmoid

Floats = NDArray[np.float32]


class _Decoder(NamedTuple):
    """``name``: under which of the names of ``Faces.arrays`` an output's values go; ``decode``: (N, ...) of N faces."""

    name: Callable[[Any], str]
    decode: Callable[[Any, Gathered], Floats]


def _landmarks(output: Landmarks, gathered: Gathered) -> Floats:
    offsets = gathered.values(output.output, 2 * output.points)
    if gathered.squares is not None:
        return points_in_crops(offsets, gathered.squares)
    assert gathered.boxes is not None           # a bundle gives points of crops and of regions alone
    return points_in_regions(offsets, gathered.boxes)


def _heatmaps(output: Heatmaps, gathered: Gathered) -> Floats:
    assert gathered.boxes is not None           # a bundle gives heatmaps of regions alone
    maps = gathered.wholes(output.output, output.points * output.shuffle**2)
    return points_in_boxes(maps, gathered.boxes, output)


def _landmarks_name(output: Landmarks | Heatmaps) -> str:
    return "landmarks" if output.points == 5 else "landmarks68"


def _bins(output: Bins, gathered: Gathered) -> Floats:
    return pose_degrees(np.ascontiguousarray(gathered.values(output.output, 3 * output.bins).T), output)


def _pose_from_points(output: PoseFromPoints, gathered: Gathered) -> Floats:
    # Where a crop lies and how large it is turns no head, so the offsets do.
    points = gathered.values(output.output, 2 * output.points).reshape(len(gathered), output.points, 2)
    if not np.isfinite(points).all():
        raise FloatingPointError("a landmark is not finite")
    # Points that are all one have no pose: as good as any is a head that looks ahead.
    return np.nan_to_num(pose_from_points(points))


def _binary(output: Binary, gathered: Gathered) -> Floats:
    return sigmoid(gathered.channel(output.output, output.channel))


def _classes(output: Classes, gathered: Gathered) -> Floats:
    return softmax(gathered.values(output.output, len(output.classes)))


# Score and Box are not among them: they change which faces there are, and the stage itself reads them.
_DECODERS: dict[type, _Decoder] = {
    Landmarks: _Decoder(_landmarks_name, _landmarks),
    Heatmaps: _Decoder(_landmarks_name, _heatmaps),
    Bins: _Decoder(lambda output: "pose", _bins),
    PoseFromPoints: _Decoder(lambda output: "pose", _pose_from_points),
    Binary: _Decoder(lambda output: f"attribute.{output.name}", _binary),
    Classes: _Decoder(lambda output: f"class.{output.name}", _classes),
}


def is_told(output: Output) -> bool:
    """Whether the output tells something of a face that stays, and does not decide which faces stay."""
    return type(output) in _DECODERS


def name_of(output: Output) -> str:
    """The name among ``Faces.arrays`` of what the output tells."""
    return _DECODERS[type(output)].name(output)


def decoded(output: Output, gathered: Gathered) -> Floats:
    """What the output tells of N gathered faces, (N, ...). Raises BundleError when the net's output has another shape,
    EngineError, and FloatingPointError for what is no number."""
    return _DECODERS[type(output)].decode(output, gathered)
