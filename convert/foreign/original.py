"""A foreign file as its authors run it: onnxruntime or, of a pair, ncnn on the file itself, their decoding, and
suppression."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from edgeface.errors import ConversionError
from edgeface.faces import Faces
from edgeface.frames import Picture, as_frame
from edgeface.runtime.nms import nms_reference, seen_again
from edgeface.runtime.preprocess import letterbox

from ..pictures import Image
from .graph import ForeignGraph
from .kind import Anchors, Candidates, Floats, ForeignKind

# A picture is looked at in these shares of the file's size: faces go through all of its levels.
_SHARES = tuple(0.8**step for step in range(12))
# How much better than the others the right anchors agree, and how many sightings of a face that takes.
_CLEARLY, _LEAST_SEEN = 1.3, 4


class Original:
    """The file, read as ``kind`` says with ``anchors``; ``size`` (width, height) is that of its input."""

    def __init__(self, graph: ForeignGraph, kind: ForeignKind, anchors: Anchors) -> None:
        self.kind, self.anchors, self.size = kind, anchors, graph.size
        self._graph = graph

    @property
    def reference(self) -> str:
        """What runs it, for people."""
        return self._graph.reference

    def candidates(self, image: Picture) -> tuple[Candidates, tuple[float, float]]:
        """What it says of a picture, uint8 (H, W, 3) BGR or a Frame, in pixels of its input, and how many of these a
        pixel of the picture is, in x and y. Raises ConversionError when what runs the file fails."""
        boxed = letterbox(image, self.size, 1)
        pixels = self.kind.pixels
        x = boxed.pixels[:, :, ::-1 if pixels.is_rgb else 1].astype(np.float32)
        x = (x - np.array(pixels.mean, np.float32)) * np.float32(pixels.scale)
        x = np.ascontiguousarray(x.transpose(2, 0, 1)[None])
        outputs = self._graph.run(x)
        return self.kind.candidates(outputs, self.size, self.anchors), (boxed.scale_x, boxed.scale_y)

    def faces(self, image: Picture, score: float, nms_iou: float) -> Faces:
        """The faces of at least ``score`` in a picture, in its pixels, best first, suppressed as a detector's here.
        Raises as ``candidates``."""
        found, scale = self.candidates(image)
        enough = np.flatnonzero(found.scores >= score)
        boxes, scores = (each[enough].astype(np.float32) for each in (found.boxes, found.scores))
        best = nms_reference(boxes, scores, nms_iou)
        per_axis: Floats = np.array(scale, np.float32)
        per_side: Floats = np.array([*scale, *scale], np.float32)
        if found.landmarks is None:
            return Faces(boxes[best] / per_side, scores[best])
        points: Floats = found.landmarks[enough][best].astype(np.float32) / per_axis
        faces = Faces(boxes[best] / per_side, scores[best], points)
        frame = as_frame(image)
        return faces.select(~seen_again(faces.boxes, points.__getitem__, max(frame.width, frame.height)))


def agreeing_anchors(
    graph: ForeignGraph, kind: ForeignKind, pictures: Iterable[tuple[str, Image]]
) -> tuple[Anchors, str]:
    """Which of the kind's sets of anchors a file was trained with, and a line that says so.

    A face that is shown half as large must have a box half as large. With other anchors than the file's it has not,
    where it passes from one level to the next. The first picture that shows a face at enough sizes decides. Raises
    ConversionError where none does, or the sets agree too much alike.
    """
    if len(kind.anchor_sets) < 2:
        return (kind.anchor_sets or ((),))[0], ""
    originals = [Original(graph, kind, anchors) for anchors in kind.anchor_sets]
    for _, image in pictures:
        spreads = [_spread(original, image) for original in originals]
        if any(spread is None for spread in spreads):
            continue
        found = np.array(spreads, np.float64)
        order = found.argsort()
        if found[order[1]] < _CLEARLY * found[order[0]]:
            continue
        chosen = kind.anchor_sets[order[0]]
        return chosen, (
            f"anchors {anchors_text(chosen)}: with them a face's box grows as the picture does, to "
            f"{found[order[0]]:.1%} ({found[order[1]]:.1%} with {anchors_text(kind.anchor_sets[order[1]])})"
        )
    listed = " or ".join(map(anchors_text, kind.anchor_sets))
    raise ConversionError(
        f"{graph.path}: its anchors are not in the file, and no picture shows which they are: give --anchors, such as "
        f"{listed}, or --pictures with a large face"
    )


def anchors_text(anchors: Anchors) -> str:
    """As ``--anchors`` takes them: "16,32/64,128"."""
    return "/".join(",".join(f"{side:g}" for side in level) for level in anchors)


def _spread(original: Original, image: Image) -> float | None:
    """By how much the side of the picture's best face varies between the sizes that it is shown at, the standard
    deviation of its logarithm; None where it is seen too seldom."""
    width, height = original.size
    fit = min(width / image.shape[1], height / image.shape[0])
    sides: list[float] = []
    middle: Sequence[float] | None = None
    for share in _SHARES:
        shown = np.full((height, width, 3), 128, np.uint8)
        new_w, new_h = (max(1, round(side * fit * share)) for side in (image.shape[1], image.shape[0]))
        shown[:new_h, :new_w] = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_AREA)
        found = original.faces(shown, 0.5, original.kind.nms_iou)
        if not len(found):
            continue
        x1, y1, x2, y2 = (found.boxes[0] / np.float32(fit * share)).tolist()
        centre = ((x1 + x2) / 2, (y1 + y2) / 2)
        side = float(np.sqrt(max((x2 - x1) * (y2 - y1), 1e-6)))
        if middle is not None and max(abs(a - b) for a, b in zip(centre, middle, strict=True)) > side / 2:
            continue        # another face
        middle = centre if middle is None else middle
        sides.append(side)
    return float(np.log(sides).std()) if len(sides) >= _LEAST_SEEN else None


