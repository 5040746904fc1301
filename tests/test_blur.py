"""What ``--blur`` leaves of a face."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import edgeface
from edgeface.stream.blur import blurred


def test_a_blurred_face_is_not_found_again_and_the_rest_stays(astronaut: NDArray[np.uint8]) -> None:
    detector = edgeface.load("mos_s", size=320, threads=1)
    faces = detector(astronaut)
    assert len(faces) == 1
    hidden = blurred(astronaut, faces.boxes)
    assert len(detector(hidden)) == 0
    x1, y1, x2, y2 = faces.boxes[0]
    far = np.ones(astronaut.shape[:2], bool)
    over_x, over_y = 0.2 * (x2 - x1), 0.2 * (y2 - y1)
    far[int(max(0, y1 - over_y)) : int(y2 + over_y) + 1, int(max(0, x1 - over_x)) : int(x2 + over_x) + 1] = False
    assert (hidden[far] == astronaut[far]).all()
    inside = hidden[int(y1) : int(y2), int(x1) : int(x2)].reshape(-1, 3)
    assert len(np.unique(inside, axis=0)) <= 25


def test_boxes_over_the_edge_outside_or_without_area_do_no_harm() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    before = picture.copy()
    boxes = np.array([[-20, -20, 10, 10], [55, 30, 90, 70], [200, 200, 220, 220], [30, 20, 30, 20]], np.float32)
    hidden = blurred(picture, boxes)
    assert (picture == before).all()
    assert not (hidden[:10, :10] == picture[:10, :10]).all()
    assert (hidden[15:25, 20:28] == picture[15:25, 20:28]).all()
