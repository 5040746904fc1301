"""Multi-scale and flip testing: mirrored faces come back, and the faces of several views become one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgeface.cli import main
from edgeface.evaluation.multi_scale import MultiScale, flipped, merged
from edgeface.faces import Faces
from tests.tiny_data import FACE_BOX, FACE_POINTS, write_set

BOX = np.float32([10, 20, 50, 70])
POINTS = np.float32([[20, 40], [40, 42], [28, 50], [22, 60], [38, 61]])


def faces(boxes: np.ndarray, scores: list[float], mask: list[float] | None = None) -> Faces:
    boxes = np.float32(boxes).reshape(-1, 4)
    n = len(scores)
    return Faces(
        boxes, np.float32(scores), boxes[:, None, :2] + np.arange(10, dtype=np.float32).reshape(1, 5, 2),
        np.repeat(np.float32([[5, 10, -3]]), n, axis=0), {} if mask is None else {"mask": np.float32(mask)},
        {"mask": 0.6},
    )


def test_the_faces_of_a_mirrored_picture_come_back_to_the_picture() -> None:
    one = Faces(BOX[None], np.float32([0.9]), POINTS[None], np.float32([[5, 10, -3]]))
    there = flipped(one, 100)
    assert there.boxes.tolist() == [[50, 20, 90, 70]]
    # The eye on the image's left is first again, with the smaller x.
    assert there.landmarks is not None
    assert there.landmarks[0].tolist() == [[60, 42], [80, 40], [72, 50], [62, 61], [78, 60]]
    assert there.pose is not None
    assert there.pose.tolist() == [[5, -10, 3]]
    back = flipped(there, 100)
    assert (back.boxes == one.boxes).all()
    assert (back.landmarks == POINTS).all()


def test_overlapping_boxes_are_averaged_by_their_scores_and_others_stay() -> None:
    far = [200, 200, 220, 220]
    found = [faces([BOX, far], [0.6, 0.3], [1.0, 0.2]), faces([BOX + 4], [0.9], [0.5])]
    one = merged(found, 0.4, "vote")
    assert one.scores.tolist() == pytest.approx([0.9, 0.3])
    assert one.boxes[0] == pytest.approx(BOX + 4 * 0.6)
    assert one.boxes[1].tolist() == far
    assert one.landmarks is not None
    assert one.landmarks[0, 0] == pytest.approx(BOX[:2] + 4 * 0.6 + np.float32([0, 1]))
    assert one.attributes["mask"] == pytest.approx([0.7, 0.2])
    assert one.thresholds == {"mask": 0.6}
    best = merged(found, 0.4, "nms")
    assert best.boxes[0].tolist() == (BOX + 4).tolist()
    assert best.attributes["mask"] == pytest.approx([0.5, 0.2])


def test_what_one_view_does_not_tell_the_whole_does_not() -> None:
    bare = Faces(BOX[None], np.float32([0.5]))
    one = merged([faces([BOX], [0.9], [1.0]), bare], 0.4, "vote")
    assert one.landmarks is one.pose is None
    assert not one.attributes
    nothing = merged([faces(np.empty((0, 4)), []), faces(np.empty((0, 4)), [])], 0.4, "vote")
    assert len(nothing) == 0
    assert nothing.landmarks is not None
    with pytest.raises(ValueError, match="at least one"):
        merged([], 0.4, "vote")


def test_each_size_sees_the_picture_and_its_mirror_image() -> None:
    image = np.zeros((30, 100, 3), np.uint8)
    image[:, :10] = 255
    seen: list[bool] = []

    def detect(picture: np.ndarray) -> Faces:
        is_mirrored = bool(picture[0, -1, 0])
        seen.append(is_mirrored)
        left = 90.0 if is_mirrored else 0.0
        return Faces(np.float32([[left, 0, left + 10, 30]]), np.float32([0.8]))

    found = MultiScale([detect, detect], flip=True, nms_iou=0.4)(image)
    assert seen == [False, False, True, True]
    assert found.boxes.tolist() == [[0, 0, 10, 30]]


def test_the_command_finds_at_another_scale_what_one_misses(tmp_path: Path, astronaut: np.ndarray) -> None:
    small = np.ascontiguousarray(astronaut[::8, ::8])
    face = {"box": [v / 8 for v in FACE_BOX], "landmarks": [[x / 8, y / 8] for x, y in FACE_POINTS]}
    write_set(tmp_path / "set", [("a", small, {"split": "dev", "complete": 1, "faces": [face]})])
    # At 64 px the face has 14 px; at four and eight times that it is found.
    arguments = ["evaluate", "mtcnn", "--data", str(tmp_path / "set"), "--size", "64", "--min-face", "40"]
    alone = CliRunner().invoke(main, [*arguments, "--json", "-"])
    assert alone.exit_code == 0, alone.output
    report = json.loads(alone.stdout)
    assert report["measures"]["detection"]["ap"]["all"]["recall"] == 0.0
    assert (report["scales"], report["flip"], report["merge"]) == ([1.0], False, None)
    several = CliRunner().invoke(main, [*arguments, "--scales", "1,4,8", "--flip"])
    assert several.exit_code == 0, several.output
    assert "shown at 64, 256, 512 px, each mirrored too, merged by vote" in several.stdout
    assert next(line for line in several.stdout.splitlines() if line.startswith("  all")).split()[2] == "1.000"


@pytest.mark.parametrize("scales", ["0", "-1", "x", "1,,2"])
def test_scales_that_cannot_be_are_one_line(tmp_path: Path, astronaut: np.ndarray, scales: str) -> None:
    write_set(tmp_path / "set", [("a", astronaut, {"split": "dev", "complete": 1, "faces": []})])
    result = CliRunner().invoke(main, ["evaluate", "mtcnn", "--data", str(tmp_path / "set"), "--scales", scales])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
