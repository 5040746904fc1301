"""What a detector takes as a picture, and what its faces give out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import edgeface
from edgeface.errors import InputError, OptionError
from edgeface.frames import Frame, as_frame
from edgeface.pictures import as_picture
from edgeface.tables import columns

data = pytest.importorskip("skimage.data", reason="needs a real face")


@pytest.fixture(scope="module")
def detector() -> edgeface.Detector:
    return edgeface.load("mos_s", size=256)


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return np.ascontiguousarray(data.astronaut())


def test_all_ways_to_give_a_picture_find_the_same_face(
    detector: edgeface.Detector, rgb: np.ndarray, tmp_path: Path
) -> None:
    pil = pytest.importorskip("PIL.Image", reason="needs Pillow")
    bgr = np.ascontiguousarray(rgb[:, :, ::-1])
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), bgr)
    expected = detector(bgr).boxes
    assert len(expected) == 1
    opaque = np.full((*bgr.shape[:2], 1), 255, np.uint8)
    for given in (path, str(path), io.BytesIO(path.read_bytes()), pil.fromarray(rgb), Frame(rgb, "rgb"),
                  np.concatenate((bgr, opaque), axis=2)):
        np.testing.assert_array_equal(detector(given).boxes, expected)
    np.testing.assert_array_equal(detector(rgb, channel_order="rgb").boxes, expected)
    with path.open("rb") as file:
        np.testing.assert_array_equal(detector(file).boxes, expected)
    grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
    for given in (grey, grey[:, :, None], pil.fromarray(grey)):
        np.testing.assert_allclose(detector(given).boxes, expected, atol=6)
    several = detector([bgr, path, (grey)])
    assert [len(faces) for faces in several] == [1, 1, 1]
    assert detector([]) == []


def test_transparency_is_grey_and_pil_images_are_turned(rgb: np.ndarray) -> None:
    pil = pytest.importorskip("PIL.Image", reason="needs Pillow")
    clear = np.dstack((rgb, np.zeros(rgb.shape[:2], np.uint8)))
    for given in (as_picture(clear), as_picture(pil.fromarray(clear, "RGBA"))):
        assert np.unique(as_frame(given).pixels).tolist() == [128]
    turned = pil.fromarray(rgb[:100])
    turned.getexif()[0x0112] = 6
    file = io.BytesIO()
    turned.save(file, "PNG", exif=turned.getexif())
    file.seek(0)
    assert as_frame(as_picture(pil.open(file))).pixels.shape == (512, 100, 3)
    file.seek(0)
    assert as_frame(as_picture(file)).pixels.shape == (512, 100, 3)


@pytest.mark.parametrize(("given", "words"), [
    (np.zeros((4, 4, 3), np.float32), r"not float32 \(4, 4, 3\): multiply by 255"),
    (np.zeros((3, 8, 9), np.uint8), "channels last"),
    (np.zeros((0, 8, 3), np.uint8), r"\(0, 8, 3\)"),
    (io.StringIO("text"), "binary mode"),
    (io.BytesIO(b"no picture"), "the file given"),
    (7, "cannot be made of int"),
    ([np.zeros((4, 4, 3), np.uint8), None], "picture 1 of the 2 given: a picture cannot be made of NoneType"),
    ("nowhere.jpg", "no such file"),
    ("", "an empty path"),
    ("https://a.example/b.jpg", "addresses are not fetched: download it"),
    (b"\xff\xd8", "wrap what a file holds in io.BytesIO"),
    ((each for each in ()), "give several pictures as a list"),
    ([[np.zeros((4, 4, 3), np.uint8)]], "give one flat list"),
    (np.zeros((2, 4, 4, 3), np.uint8), r"give several pictures as a list, list\(array\)"),
    (np.full((4, 4, 3), 200.0), "round it"),
    (np.full((4, 4), 200), r"array.astype\('uint8'\)"),
    (np.full((4, 4), 60_000, np.uint16), "array >> 8"),
    (np.full((4, 4), -1), r"int64 \(4, 4\)$"),
    (np.full((4, 4, 3), -0.5), r"float64 \(4, 4, 3\)$"),
    (np.full((4, 4), np.nan), r"float64 \(4, 4\)$"),
    (np.zeros(9, np.uint8), r"uint8 \(9,\)$"),
    (np.array([["a", "b"]]), r"U1 \(1, 2\)$"),
])
def test_what_is_no_picture_is_named(detector: edgeface.Detector, given: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        detector(given)


def test_a_closed_file_and_a_cut_pil_image_are_named(rgb: np.ndarray) -> None:
    pil = pytest.importorskip("PIL.Image", reason="needs Pillow")
    closed = io.BytesIO()
    closed.close()
    with pytest.raises(InputError, match="the file given cannot be read: I/O operation on closed file"):
        as_picture(closed)
    content = cv2.imencode(".jpg", rgb)[1].tobytes()
    with pytest.raises(InputError, match=r"the PIL image cannot be read: .*truncated"):
        as_picture(pil.open(io.BytesIO(content[:9000])))


def test_pil_images_of_more_than_8_bits_keep_their_range(rgb: np.ndarray) -> None:
    pil = pytest.importorskip("PIL.Image", reason="needs Pillow")
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    for deep in (grey.astype(np.uint16) * 257, grey.astype(np.int32) * 257, grey.astype(np.int32),
                 grey.astype(np.float32)):
        np.testing.assert_array_equal(as_frame(as_picture(pil.fromarray(deep))).pixels, grey)
    for wrong in (grey.astype(np.float32) / 255, grey.astype(np.int32) - 200):
        with pytest.raises(InputError, match=r"of mode [FI] with values from .*bring it to 0 to 255, mode L"):
            as_picture(pil.fromarray(wrong))


def test_views_and_read_only_arrays_find_the_same_faces(detector: edgeface.Detector, rgb: np.ndarray) -> None:
    bgr = np.ascontiguousarray(rgb[:, :, ::-1])
    expected = detector(bgr).boxes
    locked = bgr.copy()
    locked.setflags(write=False)
    for given in (rgb[:, :, ::-1], np.asfortranarray(bgr), locked, np.repeat(bgr, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(detector(given).boxes, expected)


def test_options_hold_for_one_call(detector: edgeface.Detector, rgb: np.ndarray) -> None:
    strict = detector(rgb, channel_order="rgb", score=1.0)
    assert len(strict) == 0
    assert len(detector(rgb, channel_order="rgb")) == 1
    small = detector(rgb, channel_order="rgb", size=128)
    assert not np.array_equal(small.boxes, detector(rgb, channel_order="rgb").boxes)
    assert (detector.size_px, detector.score) == (256, detector.bundle.defaults.score)
    for wrong in ({"score": 2.0}, {"size": 1}, {"nms": -0.1}, {"channel_order": "gbr"},
                  {"score": "0.5"}, {"size": "320"}, {"size": 320.5}):
        with pytest.raises(OptionError):
            detector(rgb, **wrong)


def test_faces_draw_cut_and_align_themselves(detector: edgeface.Detector, rgb: np.ndarray) -> None:
    bgr = np.ascontiguousarray(rgb[:, :, ::-1])
    faces = detector(bgr)
    drawn = faces.draw()
    assert drawn.shape == bgr.shape
    assert not np.array_equal(drawn, bgr)
    (tight,), (wide,) = faces.crop(), faces.crop(margin=0.25)
    x1, y1, x2, y2 = faces.boxes[0].round().astype(int)
    np.testing.assert_array_equal(tight, bgr[y1:y2, x1:x2])
    assert wide.shape[0] == pytest.approx(tight.shape[0] * 1.5, abs=2)
    upright = faces.align(size=96)
    assert upright.shape == (1, 96, 96, 3)
    # The face stands as ArcFace has it, so it is found there again.
    assert len(detector(cv2.resize(upright[0], (256, 256)), score=0.3)) == 1
    assert faces.select([]).crop() == []
    for margin in (float("nan"), "0.2"):
        with pytest.raises(OptionError, match="margin"):
            faces.crop(margin=margin)
    for size in (1.5, "112"):
        with pytest.raises(OptionError, match=r"crops of .* cannot work"):
            faces.align(size=size)
    beside = edgeface.Faces(np.array([[-50, -50, -10, -10]], np.float32), np.ones(1, np.float32))
    seen = type(faces)(beside.boxes, beside.scores, picture=faces.picture)
    assert seen.crop()[0].shape == (0, 0, 3)
    with pytest.raises(InputError, match="no landmarks"):
        seen.align()


def test_faces_become_json(detector: edgeface.Detector, rgb: np.ndarray) -> None:
    record = json.loads(json.dumps(detector(rgb, channel_order="rgb").to_dict()))
    assert record["faces"][0]["pose"].keys() == {"pitch", "yaw", "roll"}


def test_the_table_has_all_68_points() -> None:
    points = np.arange(136, dtype=np.float32).reshape(1, 68, 2)
    faces = edgeface.Faces(np.zeros((1, 4), np.float32), np.ones(1, np.float32), landmarks68=points)
    found = columns(faces)
    assert [found[name] for name in ("point1_x", "point1_y", "point68_y")] == [[0.0], [1.0], [135.0]]
    assert faces.arrays()["landmarks68"].shape == (1, 68, 2)        # what to_supervision takes into data


def test_pandas_reads_faces(detector: edgeface.Detector, rgb: np.ndarray, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    faces = detector(rgb, channel_order="rgb")
    table = faces.to_pandas()
    table.to_csv(tmp_path / "faces.csv", index=False)
    again = pandas.read_csv(tmp_path / "faces.csv")
    np.testing.assert_allclose(again[["x1", "y1", "x2", "y2"]], faces.boxes, rtol=1e-5)
    assert again["nose_x"][0] == pytest.approx(faces.landmarks[0, 2, 0], rel=1e-5)
    assert len(faces.select([]).to_pandas()) == 0


def test_supervision_reads_faces(detector: edgeface.Detector, rgb: np.ndarray) -> None:
    supervision = pytest.importorskip("supervision", reason="needs supervision")
    faces = detector(rgb, channel_order="rgb")
    detections = faces.to_supervision()
    assert detections.with_nms(0.5)["class_name"].tolist() == ["face"]
    assert detections[detections.confidence > 0.5].data["landmarks"].shape == (1, 5, 2)
    drawn = supervision.BoxAnnotator().annotate(rgb.copy(), detections)
    assert not np.array_equal(drawn, rgb)
    assert len(faces.select([]).to_supervision()) == 0
