"""What is missed and invented: by kind, one by one, and as the files that ``edgeface evaluate --errors`` writes."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

import edgeface
from edgeface.cli import main
from edgeface.contact_sheet import TILE_PX, Mark, contact_sheet, tile
from edgeface.data.annotations import Face, Picture
from edgeface.evaluation.errors import Count, find_errors
from edgeface.faces import Faces
from tests.tiny_data import write_set

A, B, C = [10.0, 10.0, 30.0, 40.0], [50.0, 10.0, 70.0, 40.0], [10.0, 50.0, 15.0, 57.0]
NOWHERE = [80.0, 60.0, 95.0, 78.0]
IGNORED = [0.0, 60.0, 60.0, 80.0]


def picture(*faces: Face, name: str = "a.png") -> Picture:
    return Picture(Path(name), 100, 80, "dev", True, faces)


def face(box: list[float], **fields: Any) -> Face:
    return Face(box=np.float32(box), **fields)


def found(*rows: tuple[list[float], float]) -> Faces:
    return Faces(np.float32([b for b, _ in rows]).reshape(-1, 4), np.float32([s for _, s in rows]))


def test_missed_faces_are_counted_by_what_was_annotated_of_them() -> None:
    one = picture(
        face(A, subset="easy", blur=0, occlusion=2, atypical_pose=True), face(B, subset="medium", blur=2, occlusion=0),
        face(C, subset="hard", blur=2), face(NOWHERE),
    )
    errors = find_errors([one], [found((A, 0.9), (B, 0.4))], 0.5)
    every = errors.table.missed["all"]
    assert every["every"] == {"face": Count(3, 2)}
    assert every["blur"] == {"clear": Count(1, 0), "heavy": Count(2, 2)}
    assert every["height_px"] == {"<8": Count(1, 1), "16-32": Count(2, 1)}
    assert every["atypical_pose"] == {"yes": Count(1, 0)}
    assert "mask" not in every
    assert errors.table.missed["easy and medium"]["every"] == {"face": Count(2, 1)}
    # The largest first; B was seen, below the score, and C was not.
    assert [(m.box.tolist(), m.best_score) for m in errors.missed] == [(B, pytest.approx(0.4)), (C, None)]


def test_what_is_invented_is_on_nothing_beside_a_face_or_there_already() -> None:
    half_off = [20.0, 10.0, 40.0, 40.0]         # a third of A and of itself in common
    one = picture(face(A), face(B, ignore=True), face(IGNORED, ignore=True))
    detections = found(
        (A, 0.9), (A, 0.8), (half_off, 0.7), (NOWHERE, 0.6), (B, 0.95), (B, 0.9), ([12.0, 62.0, 22.0, 74.0], 0.9),
        (NOWHERE, 0.3),
    )
    errors = find_errors([one, picture(name="b.png")], [detections, found((A, 0.99))], 0.5)
    assert [(e.kind, e.picture.path.name, e.score) for e in errors.invented] == [
        ("nothing", "b.png", pytest.approx(0.99)), ("duplicate", "a.png", pytest.approx(0.8)),
        ("misplaced", "a.png", pytest.approx(0.7)), ("nothing", "a.png", pytest.approx(0.6)),
    ]
    assert errors.table.invented == {"nothing": 2, "misplaced": 1, "duplicate": 1}
    # The hit and these four; what lies on the ignored face and in the ignored region was not judged.
    assert errors.table.detections == 5
    assert errors.invented[2].overlap == pytest.approx(1 / 3)


def test_tiles_show_the_surroundings_with_the_box_in_the_middle() -> None:
    image = np.zeros((300, 300, 3), np.uint8)
    image[100:150, 200:250] = 255
    shown = tile(image, [Mark(np.float32([200, 100, 250, 150]), (0, 0, 255))], "50 px")
    assert shown.shape == (TILE_PX + 18, TILE_PX, 3)
    middle = shown[:TILE_PX]
    assert (middle[TILE_PX // 2, TILE_PX // 2] == 255).all()
    assert (middle[10, TILE_PX // 2] == 0).all()
    assert middle[TILE_PX // 4, TILE_PX // 2].tolist() == [0, 0, 255]
    assert shown[TILE_PX:].max() > 200
    sheet = contact_sheet([shown] * 9, "nine")
    assert sheet.shape == (18 + 2 * (TILE_PX + 18), 8 * TILE_PX, 3)
    with pytest.raises(ValueError, match="mark"):
        tile(image, [], "none")
    with pytest.raises(ValueError, match="tiles"):
        contact_sheet([], "none")


def evaluate(monkeypatch: pytest.MonkeyPatch, by_picture: Sequence[Faces], *arguments: str | Path) -> Result:
    left = list(by_picture)

    class Detector:
        bundle = SimpleNamespace(name="fake", engine="none", defaults=SimpleNamespace(score=0.7))

        def __call__(self, image: np.ndarray) -> Faces:
            return left.pop(0)

    monkeypatch.setattr(edgeface, "load", lambda *_, **__: Detector())
    return CliRunner().invoke(main, ["evaluate", "m", *map(str, arguments)])


def test_the_command_writes_a_table_every_error_and_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((80, 100, 3), 90, np.uint8)
    faces = [{"box": A, "occlusion": 2, "subset": "easy"}, {"box": B, "occlusion": 0, "subset": "easy"}]
    write_set(tmp_path / "set", [(f"p{i}", image, {"split": "dev", "complete": 1, "faces": faces}) for i in range(2)])
    out = tmp_path / "out"
    (out / "set").mkdir(parents=True)
    (out / "set" / "missed-heavy-blur.jpg").write_bytes(b"of an earlier run")
    seen = [found((NOWHERE, 0.9), (B, 0.8)), found((B, 0.6))]
    arguments = ["--data", tmp_path / "set", "--errors", out]
    result = evaluate(monkeypatch, seen, *arguments)
    assert result.exit_code == 0, result.output
    names = {"errors.json", "missed.csv", "invented.csv", "missed-heavy-occlusion.jpg", "missed-plain.jpg",
             "invented-nothing.jpg"}
    assert {path.name for path in (out / "set").iterdir()} == names
    table = json.loads((out / "set" / "errors.json").read_text())
    assert table["score"] == 0.7
    assert table["missed"]["all"]["occlusion"] == {
        "none": {"faces": 2, "missed": 1}, "heavy": {"faces": 2, "missed": 2},
    }
    missed = list(csv.DictReader((out / "set" / "missed.csv").open()))
    assert [Path(row["image"]).name for row in missed] == ["p0.png", "p1.png", "p1.png"]
    assert [row["occlusion"] for row in missed] == ["heavy", "heavy", "none"]
    assert [row["best_score"] for row in missed] == ["", "", "0.6000"]
    (invented,) = csv.DictReader((out / "set" / "invented.csv").open())
    assert (invented["kind"], invented["score"], invented["x1"]) == ("nothing", "0.9000", "80.0")
    assert cv2.imread(str(out / "set" / "missed-heavy-occlusion.jpg")).shape[1] == 2 * TILE_PX
    line = next(line for line in result.stdout.splitlines() if "occlusion heavy" in line)
    assert line.split() == ["occlusion", "heavy", "2", "2", "100%", "2", "2", "100%"]
    assert "invented at score >= 0.7: 1 of 2 detections in 2 pictures: 1 on no face, 0 beside a face" in result.stdout
    at_half = evaluate(monkeypatch, seen, *arguments, "--errors-at", "0.5")
    assert "every face" in at_half.stdout
    assert json.loads((out / "set" / "errors.json").read_text())["missed"]["all"]["every"]["face"]["missed"] == 2


@pytest.mark.parametrize(
    "options", [["--errors-at", "0.5"], ["--errors", "out", "--errors-at", "0.01"], ["--close-ups", "--suggest-score"]]
)
def test_options_that_do_not_go_together_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    result = evaluate(monkeypatch, [], "--data", tmp_path, *options)
    assert result.exit_code == 2
    assert "Error: --" in result.stderr


def test_a_set_whose_pictures_are_not_complete_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"split": "dev", "complete": 0, "faces": [{"box": A, "mask": "worn"}]}
    row = ("a", np.zeros((80, 100, 3), np.uint8), fields)
    write_set(tmp_path / "set", [row])
    result = evaluate(monkeypatch, [], "--data", tmp_path / "set", "--errors", tmp_path / "out")
    assert result.exit_code == 4
    assert "no picture of it is completely annotated" in result.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    write_set(tmp_path / "whole", [(*row[:2], {**fields, "complete": 1})])
    result = evaluate(monkeypatch, [], "--data", tmp_path / "whole", "--errors", tmp_path / "file" / "out")
    assert result.exit_code == 10
    assert result.stderr.count("\n") == 1
