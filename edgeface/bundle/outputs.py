"""What a net per face may give, and how each output is decoded."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgeface.bundle.numbers import Index, Number, Positive, Share
from edgeface.class_names import ClassNames


class Score(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="score", tag_field="kind"):
    """A new score: ``output`` (1), the logit of face. It replaces the score before, or is averaged with it (``combine``
    "mean": mhcnn.txt, section 3.3), where ``share_before`` is the weight of the one before in the mean.

    Faces of at least ``threshold`` stay, after suppression at ``nms_iou``. With "mean", and after a dense stage, a face
    needs the threshold before as well, so that few are looked at. In the last stage the detector's own score threshold
    holds too, and its own NMS threshold instead of this.
    """

    output: str
    threshold: Share
    nms_iou: Share
    combine: Literal["replace", "mean"] = "replace"
    share_before: Annotated[float, Meta(gt=0, lt=1)] = 0.5


class Box(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="box", tag_field="kind"):
    """A new box: ``output`` (4), offsets of the face's left, top, right and bottom edge from the crop's or region's, in
    sides of it."""

    output: str


class Landmarks(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="landmarks", tag_field="kind"):
    """5 or 68 ``points``: ``output`` (2 * points), x y of each from the centre of the crop or region, in sides of it.
    """

    output: str
    points: Literal[5, 68] = 5


class Heatmaps(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="heatmaps", tag_field="kind"):
    """5 or 68 ``points`` of a region: ``output`` (points * shuffle^2, S, S), logits of a point being in a cell.

    Channel (k * shuffle + i) * shuffle + j holds row i, column j of what each cell of point k's map is made of, which
    is then resized bilinearly by ``upsample``. The point is the mean of the cells up to ``reach`` from the highest one,
    weighed by their probabilities (maskface.txt, section 3.2)."""

    output: str
    points: Literal[5, 68] = 68
    shuffle: Annotated[int, Meta(ge=1, le=4)] = 1
    upsample: Annotated[int, Meta(ge=1, le=4)] = 1
    reach: Annotated[int, Meta(ge=0, le=15)] = 0


class Bins(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="bins", tag_field="kind"):
    """Head pose: ``output`` (3 * bins), logits of pitch, yaw and roll. An angle is the expectation over the bins'
    centres, first_centre_deg + i * bin_deg (mos.txt, section 3.2.1)."""

    output: str
    bins: Annotated[int, Meta(ge=1, le=1024)]
    bin_deg: Positive
    first_centre_deg: Number


class PoseFromPoints(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="pose_from_points", tag_field="kind"):
    """Head pose without a net of its own: ``output`` holds 5 or 68 ``points``, as those of ``Landmarks``, and the pose
    is the one in which a mean face's lie nearest to them (``edgeface.pose_from_points``)."""

    output: str
    points: Literal[5, 68] = 5


class Binary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="binary", tag_field="kind"):
    """A yes or no: ``name``, channel ``channel`` of ``output`` as a logit, and the probability ``threshold`` from which
    it is a yes."""

    name: str
    output: str
    channel: Index
    threshold: Share


class Classes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="classes", tag_field="kind"):
    """One of several classes: ``name``, such as age, and ``output``, a logit for each of ``classes``, whose softmax are
    their probabilities; ``values`` are the numbers that the classes stand for, whose expectation is the answer."""

    name: str
    output: str
    classes: Annotated[list[str], Meta(min_length=2)]
    values: list[float] | None = None

    @property
    def names(self) -> ClassNames:
        """The classes as ``Faces`` have them; raises ValueError for classes that tell nothing apart."""
        return ClassNames(tuple(self.classes), None if self.values is None else tuple(self.values))


Output = Score | Box | Landmarks | Heatmaps | Bins | PoseFromPoints | Binary | Classes
