"""``edgeface compare``: what counts as a difference, the lines, and the report that stands alone."""

from __future__ import annotations

import base64
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from detect_command import everything, photo
from edgeface.cli import main
from edgeface.evaluation.side_by_side import compared, difference_lines
from edgeface.faces import Faces

NAMES = ("one", "other")


def faces() -> Faces:
    """Two faces of 100 px with everything."""
    boxes = np.array([[0, 0, 100, 100], [200, 0, 300, 100]], np.float32)
    points = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], np.float32)
    return Faces(
        boxes, np.array([0.9, 0.8], np.float32), np.stack([points, points + np.float32([200, 0])]),
        np.array([[0, 175, 0], [0, 0, 0]], np.float32), {"mask": np.array([0.7, 0.1], np.float32)}, {"mask": 0.6},
    )


def differ(other: Faces) -> list[str]:
    return difference_lines(compared(Path("a.png"), faces(), other), NAMES)


def test_the_same_faces_do_not_differ() -> None:
    each = compared(Path("a.png"), faces(), faces())
    assert (each.same, each.found) == (2, ())
    # The same head, once round.
    assert differ(replace(faces(), pose=np.array([[0, -180, 0], [0, 0, 0]], np.float32))) == []


def test_each_difference_is_a_line() -> None:
    assert differ(faces().select([0])) == ["face at 200,0 to 300,100: only one, score 0.80"]
    more = replace(faces(), boxes=faces().boxes + np.array([[0, 0, 0, 0], [500, 0, 500, 0]], np.float32))
    assert differ(more) == [
        "face at 200,0 to 300,100: only one, score 0.80", "face at 700,0 to 800,100: only other, score 0.80",
    ]
    here = "face at 0,0 to 100,100: "
    moved = faces().boxes.copy()
    moved[0, 2] = 70
    assert differ(replace(faces(), boxes=moved)) == [here + "boxes overlap by an IoU of 0.70"]
    points = faces().landmarks
    assert points is not None
    shifted = points.copy()
    shifted[0, 2] += [9, 12]
    assert differ(replace(faces(), landmarks=shifted)) == [here + "landmarks lie up to 15 px apart"]
    turned = np.array([[12, 175, 0], [0, 0, 0]], np.float32)
    assert differ(replace(faces(), pose=turned)) == [here + "pitch 0 and 12 degrees"]
    bare = replace(faces(), attributes={"mask": np.array([0.55, 0.1], np.float32)})
    assert differ(bare) == [here + "mask yes and no (0.70, 0.55)"]
    # What only one of them predicts is no difference.
    assert differ(replace(faces(), landmarks=None, pose=None, attributes={})) == []


@pytest.fixture
def run(here: Path, tiny_bundle: Path, astronaut: NDArray[np.uint8]) -> Path:
    """A picture, and the same bundle under a second name with a higher least score."""
    photo(here / "photos" / "a.png", cv2.resize(astronaut, (160, 160)))
    photo(here / "photos" / "b<i>.png", np.full((64, 64, 3), 255, np.uint8))
    shutil.copytree(tiny_bundle, here / "second")
    return here


def compare(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


def test_two_models_side_by_side(run: Path, tiny_bundle: Path) -> None:
    result = compare(tiny_bundle, "mos_s", "photos", "--threads", "1", "--out", "r.html", "--score", "0.6")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("photos/a.png: ")
    assert "only tiny-fp32-ncnn, score" in result.stdout
    assert re.search(r"2 pictures: \d+ faces? of both, \d+ of tiny-fp32-ncnn alone", result.stdout)
    assert result.stdout.endswith("report -> r.html\n")
    page = (run / "r.html").read_text(encoding="utf-8")
    # It stands alone: nothing is fetched from anywhere, and a name is text.
    assert not re.findall(r"(?:src|href)=\"(?!data:image/jpeg;base64,)", page)
    assert "<script" not in page
    assert "b<i>" not in page
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 2 * page.count("<section>") > 0
    for text in pictures:
        assert cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR) is not None


def test_the_same_model_twice_differs_nowhere_and_has_two_names(run: Path, tiny_bundle: Path) -> None:
    result = compare(tiny_bundle, "second", "photos/a.png", "--threads", "1")
    assert result.exit_code == 0, result.stderr
    assert f"0 of {tiny_bundle.name} alone, 0 of second alone" in result.stdout
    assert "no picture differs" in result.stdout
    assert "No difference." in (run / "edgeface-compare.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["nothing.png"], 3, "nothing.png: no such file or folder"),
        (["photos/a.png", "--out", "photos/a.png"], 2, "is one of the pictures"),
        (["photos/a.png", "--out", "none/r.html"], 10, "none/r.html: cannot be written"),
        (["notes.txt"], 3, "none of the pictures could be used"),
    ],
)
def test_what_cannot_work(run: Path, tiny_bundle: Path, arguments: list[str], exit_code: int, says: str) -> None:
    (run / "notes.txt").write_text("no picture")
    before = everything(run)
    result = compare(tiny_bundle, "second", *arguments)
    assert result.exit_code == exit_code
    assert says in result.stderr
    assert everything(run) == before


def test_an_unknown_model_is_named(run: Path, tiny_bundle: Path) -> None:
    result = compare(tiny_bundle, "mos_z", "photos/a.png")
    assert (result.exit_code, everything(run).count("edgeface-compare.html")) == (2, 0)
    assert "no model 'mos_z'" in result.stderr
