"""Parity: figures against hand values, faces with and without partners, and the pictures it is measured on."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from edgeface.convert.face_parity import FacesParity, FaceSums
from edgeface.convert.parity import (
    INT8_AGAINST_FLOAT,
    DepartedError,
    Departure,
    MapParity,
    MapSums,
    ParityReport,
    SizeParity,
    Tolerance,
    Walk,
    int8,
)
from edgeface.convert.pictures import choose
from numpy.typing import NDArray

from edgeface.errors import DataError, InputError, ParityError
from edgeface.evaluation.report import Measures
from edgeface.evaluation.wider import AveragePrecision, DetectionReport
from edgeface.faces import Faces

TOLERANCE = Tolerance(raw=1e-3, iou=0.95, score=0.01)


def floats(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32).reshape(1, 1, -1)


def faces(*rows: tuple[float, float, float]) -> Faces:
    """Faces of 100 x 100 px from (x, y, score), points in their middle, pose by score."""
    boxes = np.array([(x, y, x + 100, y + 100) for x, y, _ in rows], np.float32).reshape(-1, 4)
    scores = np.array([score for _, _, score in rows], np.float32)
    points = np.repeat((boxes[:, None, :2] + boxes[:, None, 2:]) / 2, 5, axis=1)
    return Faces(boxes, scores, points, np.repeat(scores[:, None], 3, axis=1))


def never() -> Faces:
    raise AssertionError("contenders are asked for only when a face has no partner")


def compared(reference: Faces, candidate: Faces, *contenders: Faces) -> FacesParity:
    sums = FaceSums(TOLERANCE.iou, TOLERANCE.score, 0.5)
    ask = [lambda found=found: found for found in contenders] or [never, never]
    sums.add("a picture", reference, candidate, *ask)
    return sums.parity()


def report(maps: list[MapParity], found: FacesParity, tolerance: Tolerance = TOLERANCE) -> ParityReport:
    return ParityReport("mos_s-fp16-ncnn", "torch 2", "3 pictures", tolerance, [SizeParity(640, maps, found)])


def many(reference: int, **counts: int) -> FacesParity:
    """Figures of as many faces, all found but what ``counts`` says."""
    return dataclasses.replace(
        NO_FACES, reference=reference, candidate=reference, **counts    # type: ignore[arg-type]  # counts alone
    )


NO_FACES = FaceSums(TOLERANCE.iou, TOLERANCE.score, 0.5).parity()


def test_figures_of_a_map_by_hand() -> None:
    sums = MapSums("score8")
    sums.add(floats(3, -1), floats(3, -1))
    sums.add(floats(0, 4), floats(0, 3.5))
    figures = sums.parity()
    assert figures.span == 5
    assert figures.largest_difference == 0.5
    assert figures.share == pytest.approx(0.1)
    assert figures.sqnr_db == pytest.approx(10 * math.log10(26 / 0.25))
    assert figures.cosine == pytest.approx((9 + 1 + 14) / math.sqrt(26 * (9 + 1 + 12.25)))


def test_equal_maps_are_exact() -> None:
    sums = MapSums("box8")
    sums.add(floats(1, 2), floats(1, 2))
    assert sums.parity() == MapParity("box8", 1, 0, 0, None, pytest.approx(1))


@pytest.mark.parametrize("first", [True, False])
def test_a_map_that_is_not_a_number_fails(first: bool) -> None:
    sums = MapSums("box8")
    pairs = [(floats(1, 2), floats(1, float("nan"))), (floats(1, 2), floats(1, 2))]
    for pair in pairs if first else reversed(pairs):
        sums.add(*pair)
    failed = report([sums.parity()], NO_FACES)
    assert not failed.passed
    assert "box8 is off by inf" in failed.failures[0]


def test_a_constant_map_may_differ_by_rounding_only() -> None:
    for difference, passes in ((4e-6, True), (4e-3, False)):
        sums = MapSums("score32")
        sums.add(floats(-4, -4), floats(-4, -4 + difference))
        assert (sums.parity().share <= TOLERANCE.raw) is passes


def test_maps_of_different_shape_are_refused() -> None:
    with pytest.raises(ParityError, match=r"score8 has shape \(1, 1, 3\), the reference \(1, 1, 2\)"):
        MapSums("score8").add(floats(1, 2), floats(1, 2, 3))


def test_differences_of_matched_faces() -> None:
    found = compared(faces((0, 0, 0.9), (200, 0, 0.8)), faces((1, 0, 0.896), (200, 0, 0.8)))
    assert (found.matched, found.missing, found.extra, found.ties) == (2, 0, 0, 0)
    assert found.iou_least == pytest.approx(99 / 101)
    assert found.score_difference == pytest.approx(0.004, abs=1e-6)
    assert found.landmark_difference == pytest.approx(0.01)
    assert found.pose_difference_deg == pytest.approx(0.004, abs=1e-6)
    assert report([], found).passed


def test_a_face_without_partner_fails_with_the_picture_s_name() -> None:
    kept = faces((0, 0, 0.9), (200, 0, 0.8))
    found = compared(kept, faces((0, 0, 0.9), (0, 300, 0.7)), kept, faces((0, 0, 0.9), (0, 300, 0.7)))
    assert (found.matched, found.missing, found.extra, found.ties) == (1, 1, 1, 0)
    failed = report([], found)
    assert failed.failures == ["1 faces are missing and 1 are extra, as in a picture (1 missing, 1 extra)"]
    text = str(DepartedError(failed, "mend it"))
    assert text.startswith("mos_s-fp16-ncnn: 1 faces are missing")
    assert text.endswith(": mend it")


def test_a_face_under_the_other_s_threshold_is_a_tie() -> None:
    both = faces((0, 0, 0.9), (200, 0, 0.497))
    found = compared(faces((0, 0, 0.9), (200, 0, 0.503)), faces((0, 0, 0.9)), both, both)
    assert (found.missing, found.extra, found.ties, found.ties_at_threshold) == (0, 0, 1, 1)
    assert report([], found).passed


def test_a_face_behind_a_neighbour_of_the_same_score_is_another_tie() -> None:
    both = faces((0, 0, 0.9), (200, 0, 0.597), (220, 0, 0.6))
    found = compared(faces((200, 0, 0.6)), faces((220, 0, 0.6)), both, both)
    assert (found.missing, found.extra, found.ties, found.ties_at_threshold) == (0, 0, 2, 0)
    assert "2 decided by a tie (0 at the score threshold, the others in the NMS)" in report([], found).to_text()


def test_a_contender_of_another_score_is_no_tie() -> None:
    weak = faces((0, 0, 0.9), (200, 0, 0.3))
    found = compared(faces((0, 0, 0.9), (200, 0, 0.6)), faces((0, 0, 0.9)), weak, weak)
    assert (found.missing, found.ties) == (1, 0)


def test_a_score_too_far_off_fails() -> None:
    failed = report([], compared(faces((0, 0, 0.9)), faces((0, 0, 0.85))))
    assert failed.failures == ["a score is off by 0.0500, 0.01 is allowed"]


def test_report_as_text_and_json() -> None:
    sums = MapSums("score8")
    sums.add(floats(0, 4), floats(0, 3))
    failed = report([sums.parity()], NO_FACES)
    text = failed.to_text()
    assert "mos_s-fp16-ncnn against torch 2, on 3 pictures" in text
    assert "faces: none in these pictures" in text
    assert "FAILED: output score8 is off by 0.25 of its range, 0.001 is allowed" in text
    data = json.loads(failed.to_json())
    assert data["passed"] is False
    assert data["sizes"][0]["size_px"] == 640
    assert data["sizes"][0]["maps"][0] == {
        "name": "score8", "span": 4.0, "largest_difference": 1.0, "share": 0.25,
        "sqnr_db": pytest.approx(10 * math.log10(16)), "cosine": pytest.approx(1.0),
    }
    assert data["pictures"] == "3 pictures"


def test_a_map_with_too_little_signal_fails_an_int8_tolerance() -> None:
    sums = MapSums("score8")
    sums.add(floats(10, -10), floats(10, -9.9))
    figures = sums.parity()
    assert figures.sqnr_db == pytest.approx(10 * math.log10(200 / 0.01), abs=1e-3)
    assert report([figures], NO_FACES, int8(35)).passed
    failed = report([figures], NO_FACES, int8(45))
    assert failed.failures == ["output score8 has 43.0 dB, 45 is asked for"]


def test_a_map_that_is_not_a_number_fails_every_tolerance() -> None:
    sums = MapSums("box8")
    sums.add(floats(1, 2), floats(1, float("nan")))
    for tolerance in (int8(30), INT8_AGAINST_FLOAT):
        assert any("box8" in failure for failure in report([sums.parity()], NO_FACES, tolerance).failures)


def test_a_map_without_signal_has_no_db_to_pass_with() -> None:
    sums = MapSums("box8")
    sums.add(floats(0, 0), floats(0, 0.5))
    assert sums.parity().sqnr_db == -math.inf
    assert not report([sums.parity()], NO_FACES, int8(30)).passed


def test_int8_may_lose_one_face_in_a_hundred_and_says_how_many() -> None:
    assert report([], many(200, missing=2), int8(30)).passed
    assert report([], many(200, missing=1, shifted=1, extra=2), int8(30)).passed
    for counts in ({"missing": 3}, {"extra": 3}, {"missing": 1, "shifted": 2}):
        assert not report([], many(200, **counts), int8(30)).passed
    failed = report([], many(200, missing=3, extra=1, ties=4), int8(30))
    expected = "of 200 faces 3 are missing, 0 have another score and 1 are extra, 1% of them are allowed"
    assert failed.failures == [expected]
    counted = "4 decided by a tie (0 at the score threshold, the others in the NMS), 3 missing, 1 extra"
    assert counted in failed.to_text()


def test_a_looser_overlap_is_counted_beside_the_tolerance_s() -> None:
    reference = faces((0, 0, 0.9), (200, 0, 0.8))
    moved = faces((0, 0, 0.9), (204, 0, 0.8))       # IoU 96 / 104
    found = compared(reference, moved, reference, moved)
    assert (found.matched, found.overlapping, found.missing, found.share) == (1, 2, 1, 0.5)


def test_a_shifted_score_counts_against_the_share() -> None:
    found = compared(faces((0, 0, 0.9), (200, 0, 0.8)), faces((0, 0, 0.9), (200, 0, 0.77)))
    assert (found.matched, found.shifted, found.share) == (2, 1, 0.5)
    assert found.score_difference_mean == pytest.approx(0.015, abs=1e-6)


def measures(ap: float) -> Measures:
    row = AveragePrecision(ap, 0.9, 10)
    return Measures(DetectionReport({"easy": row}, {}))


def test_int8_against_a_float_network_is_judged_by_its_ap() -> None:
    def judged(reference: Measures | None, candidate: Measures | None) -> ParityReport:
        sizes = [SizeParity(640, [], many(10, missing=10, extra=10), reference, candidate)]
        return ParityReport("b", "torch", "pictures", INT8_AGAINST_FLOAT, sizes)

    assert judged(measures(0.8), measures(0.796)).passed
    assert "AP easy           0.8000    0.7960   -0.0040" in judged(measures(0.8), measures(0.796)).to_text()
    expected = "AP easy is 0.700, the reference's 0.800, 0.005 is allowed"
    assert judged(measures(0.8), measures(0.7)).failures == [expected]
    assert "give --data with labels" in judged(None, None).failures[0]


def test_of_several_sizes_a_failure_names_its_own() -> None:
    sums = MapSums("score8")
    sums.add(floats(0, 4), floats(0, 3))
    sizes = [SizeParity(640, [], NO_FACES), SizeParity(320, [sums.parity()], NO_FACES)]
    both = ParityReport("b", "torch", "pictures", TOLERANCE, sizes)
    assert both.failures == ["at 320 px output score8 is off by 0.25 of its range, 0.001 is allowed"]


def test_the_walk_is_in_the_report_and_in_the_error() -> None:
    departure = Departure("the dense net", "stem", "conv_0", 12.34, None, same_weights=False, by_itself=True)
    failed = dataclasses.replace(report([], many(1, missing=1)), walk=Walk(93, 12.34, departure))
    expected = (
        "the first layer that departs is stem (conv_0 in the file) of the dense net: 12.3 dB, all exact before it, and "
        "its weights are not the checkpoint's"
    )
    assert expected in failed.to_text()
    assert f"; {expected}: mend it" in str(DepartedError(failed, "mend it"))
    assert json.loads(failed.to_json())["walk"]["departure"]["layer"] == "stem"


def write_pictures(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i:02}.png"), np.full((4, 5, 3), i, np.uint8))
    return folder


def line_of(number: int, split: str) -> str:
    """The annotation line of one of ``write_pictures``."""
    image = {"image": f"{number:02}.png", "width": 5, "height": 4}
    return json.dumps({**image, "split": split, "complete": 1, "faces": []})


def test_pictures_of_a_folder_are_spread_evenly(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "street", 10)
    (folder / "notes.txt").write_text("not a picture")
    few = choose(folder, limit=4)
    assert [name for name, _ in few] == ["00.png", "02.png", "05.png", "07.png"]
    assert [int(image[0, 0, 0]) for _, image in few] == [0, 2, 5, 7]
    assert few.source == "4 of 10 pictures, street"
    assert len(choose(folder, limit=40)) == 10


def test_pictures_of_a_data_set_are_its_dev_part(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "wider", 4)
    annotations = folder / "annotations.jsonl"
    annotations.write_text("\n".join(line_of(i, "dev" if i % 2 else "train") for i in range(4)))
    chosen = choose(folder)
    assert [name for name, _ in chosen] == ["01.png", "03.png"]
    assert chosen.source == "2 of 2 pictures, dev part of wider"
    assert [picture.path.name for picture in chosen.annotated] == ["01.png", "03.png"]
    annotations.write_text(line_of(1, "dev").replace('"width": 5', '"width": 6'))
    with pytest.raises(DataError, match=r"01\.png: is 5x4, its annotation says 6x4"):
        list(choose(folder))
    annotations.write_text("not json\n")
    with pytest.raises(DataError, match="line 1"):
        choose(folder)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        choose(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no pictures in it"):
        choose(tmp_path)


def test_without_a_folder_the_data_beside_then_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "project"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("edgeface.convert.pictures.find_spec", lambda _name: None)
    scenes = choose()
    assert "synthetic" in scenes.source
    assert all(image.dtype == np.uint8 and image.ndim == 3 and image.std() > 10 for _, image in scenes)
    folder = write_pictures(here / "data" / "wider", 1)
    (folder / "annotations.jsonl").write_text(line_of(0, "dev"))
    assert choose().source == "1 of 1 pictures, dev part of wider"


def test_the_astronaut_is_used_where_scikit_image_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    monkeypatch.chdir(tmp_path)
    chosen = choose()
    assert "astronaut" in chosen.source
    assert [image.shape for _, image in chosen] == [(512, 512, 3), (256, 256, 3), (128, 128, 3)]
