"""Which face of a track is kept, and what is written of it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import edgeface
from edgeface.errors import OutputError
from edgeface.faces import Faces
from edgeface.frames import Frame
from edgeface.runtime.align import align
from edgeface.stream import best_shot
from edgeface.stream.best_shot import BestShotFiles, BestShots, frontal_share, sharpness_share, size_share
from edgeface.stream.results import Result, TrackedFaces
from edgeface.stream.shots import Shot, Status

ONLINE = Status("online", "", 0.0)


@pytest.fixture(scope="module")
def faces(astronaut: NDArray[np.uint8]) -> Faces:
    found = edgeface.load("mos_s", size=320, threads=1)(astronaut)
    assert len(found) == 1
    return found


def shot(image: NDArray[np.uint8], number: int = 0) -> Shot:
    return Shot("test", Frame(image), number, number * 1_000_000_000, time.time_ns(), ONLINE)


def result(faces: Faces, *, track: int = 1, ended: tuple[int, ...] = (), seen: bool = True) -> Result:
    tracked = TrackedFaces.of(faces, np.full(len(faces), track, np.int64), np.full(len(faces), seen))
    return Result(tracked, True, ended, {}, 10.0, 0, 0)


def nobody(ended: tuple[int, ...] = ()) -> Result:
    none = Faces(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))
    return result(none, ended=ended)


def test_the_sharp_picture_is_kept_whether_it_comes_first_or_last(astronaut: NDArray[np.uint8], faces: Faces) -> None:
    soft = cv2.GaussianBlur(astronaut, (0, 0), 3)
    for order in ((astronaut, soft, soft), (soft, soft, astronaut)):
        best = BestShots()
        for number, image in enumerate(order):
            best.add(shot(image, number), result(faces))
        (kept,) = best.take([1])
        assert kept.frame == next(i for i, image in enumerate(order) if image is astronaut)
        assert faces.landmarks is not None
        assert (kept.crop == align(astronaut, faces.landmarks)[0]).all()
        assert best.take([1]) == []


def test_the_face_that_looks_into_the_camera_is_kept(astronaut: NDArray[np.uint8], faces: Faces) -> None:
    best = BestShots()
    for number, yaw_deg in enumerate((50.0, 5.0, -40.0)):
        turned = replace(faces, pose=np.array([[0.0, yaw_deg, 0.0]], np.float32))
        best.add(shot(astronaut, number), result(turned))
    (kept,) = best.take_all()
    assert kept.frame == 1
    assert kept.record()["pose"]["yaw"] == 5.0


def test_what_cannot_be_better_is_not_even_cut_out(
    astronaut: NDArray[np.uint8], faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(best_shot, "align", lambda *a: (calls.append(1), align(*a))[1])
    best = BestShots()
    best.add(shot(astronaut), result(faces))
    poor = replace(faces, scores=np.array([0.1], np.float32))
    for _ in range(5):
        best.add(shot(astronaut), result(poor))
    assert len(calls) == 1


def test_faces_filled_in_untracked_or_without_landmarks_are_not_kept(
    astronaut: NDArray[np.uint8], faces: Faces
) -> None:
    best = BestShots()
    best.add(shot(astronaut), result(faces, seen=False))
    best.add(shot(astronaut), result(faces, track=-1))
    best.add(shot(astronaut), result(replace(faces, landmarks=None)))
    assert best.take_all() == []


def test_a_predicted_quality_is_taken_instead(astronaut: NDArray[np.uint8], faces: Faces) -> None:
    best = BestShots()
    soft = cv2.GaussianBlur(astronaut, (0, 0), 3)
    for number, (image, quality) in enumerate(((astronaut, 0.4), (soft, 0.8), (astronaut, 0.7))):
        best.add(shot(image, number), result(replace(faces, attributes={"quality": np.array([quality], np.float32)})))
    (kept,) = best.take([1])
    assert (kept.frame, kept.shares) == (1, {"predicted": pytest.approx(0.8)})
    assert kept.quality == pytest.approx(0.8)


def test_shares() -> None:
    assert frontal_share(np.array([0.0, 0.0, 80.0])) == 1.0
    assert frontal_share(np.array([10.0, 0.0, 0.0])) > frontal_share(np.array([10.0, 30.0, 0.0]))
    assert size_share(np.array([0.0, 0.0, 56.0, 56.0])) == 0.5
    assert size_share(np.array([0.0, 0.0, 500.0, 500.0])) == 1.0
    assert size_share(np.array([10.0, 10.0, 5.0, 50.0])) == 0.0
    assert sharpness_share(np.full((112, 112, 3), 90, np.uint8)) == 0.0


def test_files_appear_when_a_track_ends_and_when_the_run_does(
    astronaut: NDArray[np.uint8], faces: Faces, tmp_path: Path
) -> None:
    folder = tmp_path / "best" / "today"
    sink = BestShotFiles(folder)
    sink.put(shot(astronaut, 4), result(faces, track=1))
    assert list(folder.iterdir()) == []
    sink.put(shot(astronaut, 5), nobody(ended=(1,)))
    deadline = time.monotonic() + 10.0
    while len([path for path in folder.iterdir() if path.name[0] != "."]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    sink.put(shot(astronaut, 6), result(faces, track=2))
    sink.close()
    sink.close()
    about = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    assert sorted(entry["track"] for entry in about) == [1, 2]
    for entry in about:
        crop = cv2.imread(str(folder / entry["image"]))
        assert crop is not None
        assert crop.shape == (112, 112, 3)
        assert entry["quality"] == pytest.approx(np.prod(list(entry["shares"].values())) ** 0.25, abs=1e-3)
        assert set(entry["shares"]) == {"score", "pose", "size", "sharpness"}
        assert len(entry["face"]["landmarks"]) == 5


def test_a_folder_that_cannot_be_is_one_line_and_one_that_goes_away_loses_what_it_must(
    astronaut: NDArray[np.uint8], faces: Faces, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        BestShotFiles(tmp_path / "file" / "best")
    folder = tmp_path / "best"
    sink = BestShotFiles(folder)
    folder.rmdir()
    sink.put(shot(astronaut), result(faces, track=1))
    sink.close()
    assert sink.lost == 1
    assert not folder.exists()


def test_a_pose_that_is_no_number_does_not_stay_the_best(astronaut: NDArray[np.uint8], faces: Faces) -> None:
    best = BestShots()
    best.add(shot(astronaut, 0), result(replace(faces, pose=np.full((1, 3), np.nan, np.float32))))
    best.add(shot(astronaut, 1), result(faces))
    (kept,) = best.take_all()
    assert kept.frame == 1
