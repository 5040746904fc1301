"""Close-ups: where the face comes to lie, that they are always the same, and how boxes are counted."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from edgeface.cli import main
from edgeface.data.annotations import read_annotations
from edgeface.errors import DataError
from edgeface.evaluation.close_ups import FRAME_PX, CloseUp, close_ups, evaluate_close_ups
from edgeface.faces import Faces
from tests.tiny_data import FACE_BOX, write_set


def crops(directory: Path, astronaut: np.ndarray, count: int, **face: object) -> Path:
    """Pictures of 200 px with the astronaut's face at half their height, each of its own brightness."""
    x, y = 124, 20
    box = [FACE_BOX[0] - x, FACE_BOX[1] - y, FACE_BOX[2] - x, FACE_BOX[3] - y]
    image = astronaut[y:y + 200, x:x + 200]
    rows = [
        (f"crop{i}", (image * (0.5 + i / 2 / count)).astype(np.uint8),
         {"split": "dev", "complete": 0, "faces": [{"box": box, **face}]})
        for i in range(count)
    ]
    write_set(directory, rows)
    return directory


def test_the_face_takes_its_share_of_the_frame_and_its_box_is_on_it(tmp_path: Path, astronaut: np.ndarray) -> None:
    data = crops(tmp_path / "crops", astronaut, 12)
    made = close_ups([(data, read_annotations(data, "dev"))], 40)
    assert [one.share for one in made] == [0.5] * 10 + [0.7] * 10 + [0.9] * 10 + [1.2] * 10
    assert len({one.name for one in made}) == 40
    for one in made:
        assert one.box[3] - one.box[1] == pytest.approx(one.share * FRAME_PX[1], abs=0.01)
        assert abs((one.box[[0, 1]] + one.box[[2, 3]]) / 2 - np.array(FRAME_PX) / 2).max() < 40
        frame = one.draw()
        assert frame.shape == (FRAME_PX[1], FRAME_PX[0], 3)
        # What the box holds is what the annotated box held.
        source = cv2.imread(str(one.source))
        x1, y1, x2, y2 = np.clip(one.box, 0, [*FRAME_PX, *FRAME_PX]).astype(int)
        seen = cv2.resize(frame[y1:y2, x1:x2], (40, 40), interpolation=cv2.INTER_AREA)
        corners = (np.array([x1, y1, x2, y2]) + [one.left, one.top] * 2) / one.scale
        u1, v1, u2, v2 = corners.round().astype(int)
        held = cv2.resize(source[v1:v2, u1:u2], (40, 40), interpolation=cv2.INTER_AREA)
        assert np.abs(seen.astype(float) - held).mean() < 6


def test_the_same_set_gives_the_same_close_ups(tmp_path: Path, astronaut: np.ndarray) -> None:
    data = crops(tmp_path / "crops", astronaut, 5)
    first, second = (close_ups([(data, read_annotations(data, "dev"))]) for _ in range(2))
    # Twenty: no face is shown twice at one share.
    assert len(first) == 20
    assert [one.name for one in first] == [one.name for one in second]
    assert all((a.box == b.box).all() and (a.draw() == b.draw()).all() for a, b in zip(first, second, strict=True))


def test_sets_take_turns_and_a_crop_without_a_place_is_its_subject(tmp_path: Path, astronaut: np.ndarray) -> None:
    placed = crops(tmp_path / "placed", astronaut, 6)
    rows = [(f"p{i}", astronaut[40:190, 150:300], {"split": "dev", "complete": 0, "faces": [{"smile": 1}]})
            for i in range(6)]
    write_set(tmp_path / "portraits", rows)
    sets = [(folder, read_annotations(folder, "dev")) for folder in (placed, tmp_path / "portraits")]
    made = close_ups(sets, 16)
    # A face that fills its picture cannot be shown at half the frame's height.
    folders = {share: [one.source.parent.parent.name for one in made if one.share == share] for share in (0.5, 1.2)}
    assert folders[0.5] == ["placed"] * 4
    assert folders[1.2] == ["placed", "portraits", "placed", "portraits"]


@pytest.mark.parametrize(
    "fields", [{"complete": 1, "faces": []}, {"complete": 0, "faces": [{"box": [1, 1, 9, 9]}] * 2}]
)
def test_a_set_without_pictures_of_one_face_is_refused(
    tmp_path: Path, astronaut: np.ndarray, fields: dict[str, object]
) -> None:
    write_set(tmp_path / "set", [("a", astronaut, {"split": "dev", **fields})])
    with pytest.raises(DataError, match="no picture of one face can show it at 50 % of a frame's height"):
        close_ups([(tmp_path / "set", read_annotations(tmp_path / "set", "dev"))])
    result = CliRunner().invoke(main, ["evaluate", "mos_s", "--data", str(tmp_path / "set"), "--close-ups"])
    assert result.exit_code == 4
    assert result.stderr.count("\n") == 1


def test_boxes_are_counted_by_picture_and_the_face_found_inside_the_frame() -> None:
    box = np.float32([-100, -60, 600, 540])
    one = CloseUp(Path("a.png"), 1.2, 1.0, 0, 0, box)
    inside = np.float32([0, 0, 600, 480])       # what of the face can be seen
    corner = np.float32([0, 0, 90, 90])

    def faces(*rows: tuple[np.ndarray, float]) -> Faces:
        return Faces(np.float32([b for b, _ in rows]).reshape(-1, 4), np.float32([s for _, s in rows]))

    detections = [
        faces((inside, 0.9)), faces((inside, 0.9), (corner, 0.6)), faces((corner, 0.8)), faces((inside, 0.4)),
    ]
    report = evaluate_close_ups([one] * 4, detections, 0.7)
    assert (report.overall.one, report.overall.several, report.overall.none) == (0.5, 0.25, 0.25)
    assert report.overall.recall == 0.5
    assert report.by_share == {"120": report.overall}
    assert (report.at_default.one, report.at_default.several, report.at_default.recall) == (0.75, 0.0, 0.5)


def test_the_command_shows_the_close_ups_to_the_model(tmp_path: Path, astronaut: np.ndarray) -> None:
    data = crops(tmp_path / "crops", astronaut, 3)
    arguments = ["evaluate", "mtcnn", "--data", str(data), "--close-ups"]
    result = CliRunner().invoke(main, [*arguments, "--json", "-"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["data"], report["pictures"]) == ("close-ups of crops", 12)
    shown = report["measures"]["close_ups"]
    assert shown["by_share"]["50"]["recall"] == 1.0
    assert shown["overall"]["one"] + shown["overall"]["several"] + shown["overall"]["none"] == pytest.approx(1)
    text = CliRunner().invoke(main, [*arguments, "--limit", "4"]).stdout
    assert "on close-ups of crops, dev part, 4 of 12 pictures" in text
    assert "all, at the model's own score 0.6" in text
