"""The annotation reader: what it reads, and the one line it says about a bad one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeface.data.annotations import ANNOTATIONS, read_annotations
from edgeface.errors import DataError

FIVE = [[10.0, 10.0], [20.0, 10.0], [15.0, 15.0], [11.0, 20.0], [19.5, 20.0]]


def line(**changes: Any) -> dict[str, Any]:
    """A right line, with some fields changed; a field given as None is left out."""
    whole = {"image": "images/a.webp", "width": 64, "height": 48, "split": "train", "complete": 1, "faces": []}
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


def write(directory: Path, *lines: dict[str, Any] | bytes) -> Path:
    (directory / "images").mkdir(parents=True, exist_ok=True)
    raw = [content if isinstance(content, bytes) else json.dumps(content).encode() for content in lines]
    (directory / ANNOTATIONS).write_bytes(b"\n".join(raw) + b"\n")
    for name in ("a", "b", "c"):
        (directory / "images" / f"{name}.webp").write_bytes(b"pixels")
    return directory


def test_reads_every_field_and_passes_over_unknown_ones(tmp_path: Path) -> None:
    points = [[float(i), float(i) / 2] for i in range(68)]
    face = {
        "box": [1.5, 2, 30, 40], "landmarks": FIVE, "landmarks68": points, "pose": [1, -2.5, 3], "teacher": 1,
        "subset": "medium", "mask": "worn", "yaw_bin": 5, "blur": 2, "occlusion": 1, "illumination": 0,
        "expression": 1, "atypical_pose": 1, "sunglasses": 0, "eyeglasses": 1, "smile": 1, "gender": "female",
        "age": 31, "age_bin": "30-39", "race": "Black", "identity": "x", "hat": {"colour": "red"},
    }  # fmt: skip
    write(tmp_path, line(faces=[face, {"ignore": 1}], source="here", original=[640, 480]))
    (picture,) = read_annotations(tmp_path, None)
    assert picture.path == tmp_path / "images" / "a.webp"
    assert (picture.width, picture.height, picture.split, picture.complete) == (64, 48, "train", True)
    assert (picture.source, picture.source_scale) == ("here", 10.0)
    full, bare = picture.faces
    assert full.box is not None
    assert full.box.dtype == np.float32
    np.testing.assert_array_equal(full.box, np.float32([1.5, 2, 30, 40]))
    np.testing.assert_array_equal(full.landmarks, np.float32(FIVE))
    np.testing.assert_array_equal(full.landmarks68, np.float32(points))
    np.testing.assert_array_equal(full.pose, np.float32([1, -2.5, 3]))
    assert full.teacher is True
    assert full.ignore is False
    assert (full.subset, full.mask, full.yaw_bin, full.blur, full.occlusion) == ("medium", "worn", 5, 2, 1)
    assert (full.illumination, full.expression, full.atypical_pose) == (0, 1, True)
    assert (full.sunglasses, full.eyeglasses, full.smile) == (False, True, True)
    assert (full.gender, full.age_years, full.age_bin, full.race, full.identity) == (
        "female",
        31,
        "30-39",
        "Black",
        "x",
    )
    assert bare.ignore is True
    assert bare.box is bare.landmarks is bare.landmarks68 is bare.pose is bare.subset is bare.smile is None
    assert bare.teacher is False


def test_split_chooses_in_file_order_and_blank_lines_do_not_count(tmp_path: Path) -> None:
    lines = [line(split="dev"), b"", line(image="images/b.webp"), line(image="images/c.webp", split="dev", complete=0)]
    write(tmp_path, *lines)
    assert [p.path.stem for p in read_annotations(tmp_path, None)] == ["a", "b", "c"]
    dev = read_annotations(tmp_path, "dev")
    assert [(p.path.stem, p.complete) for p in dev] == [("a", True), ("c", False)]
    with pytest.raises(DataError, match=r"no pictures of split 'test': it has dev, train"):
        read_annotations(tmp_path, "test")


def test_a_later_line_replaces_an_earlier_one_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, line(width=10), line(image="images/b.webp"), line(width=20))
    assert [(p.path.stem, p.width) for p in read_annotations(tmp_path, None)] == [("a", 20), ("b", 64)]
    assert "1 lines name a picture that a later line names again" in caplog.text


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b'{"image": "images/b.webp", ', "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b'["images/b.webp"]', "Expected `object`"),
        (line(image=None), "missing required field `image`"),
        (line(image=""), "image: the name is empty"),
        (line(image="../b.webp"), "'../b.webp' is not inside"),
        (line(image="images/../../b.webp"), "is not inside"),
        (line(image="/etc/passwd"), "'/etc/passwd' is not inside"),
        (line(image="images/none.webp"), "'images/none.webp' is not there"),
        (line(image="images"), "'images' is not there"),
        (line(split="val"), "split 'val' is none of train, dev, test"),
        (line(split=None), "missing required field `split`"),
        (line(complete=2), "complete"),
        (line(width=0), "width"),
        (line(faces=[{"box": [10, 10, 10, 20]}]), r"faces\[0\].box \[10.0, 10.0, 10.0, 20.0\] is not x1, y1, x2, y2"),
        (line(faces=[{}, {"box": [10, 30, 20, 20]}]), r"faces\[1\].box"),
        (line(faces=[{"box": [1, 2, 3]}]), r"faces\[0\].box: Expected `array` of length 4"),
        (line(faces=[{"landmarks": FIVE[:4]}]), r"faces\[0\].landmarks has 4 points, not 5"),
        (line(faces=[{"landmarks68": FIVE}]), r"faces\[0\].landmarks68 has 5 points, not 68"),
        (line(faces=[{"landmarks": [[1, 2, 3]] * 5}]), r"landmarks\[\.\.\.\]|landmarks\[0\]"),
        (line(faces=[{"pose": [1, 2]}]), r"faces\[0\].pose"),
        (line(faces=[{"subset": "simple"}]), r"faces\[0\].subset: Invalid enum value 'simple'"),
        (line(faces=[{"mask": 1}]), r"faces\[0\].mask"),
        (line(faces=[{"yaw_bin": 6}]), r"faces\[0\].yaw_bin"),
        (line(faces=[{"blur": "clear"}]), r"faces\[0\].blur: Expected `int"),
    ],
)
def test_a_bad_line_is_named_with_file_line_and_fault(tmp_path: Path, bad: dict[str, Any] | bytes, says: str) -> None:
    write(tmp_path, line(split="dev"), b"", bad)
    with pytest.raises(DataError, match=says) as caught:
        read_annotations(tmp_path, "dev")  # a fault in another split is no less a fault
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / ANNOTATIONS}, line 3: ")
    assert "\n" not in text


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_annotations(tmp_path / "none", None)
    with pytest.raises(DataError, match=r"annotations\.jsonl: missing"):
        read_annotations(tmp_path, None)
    (tmp_path / ANNOTATIONS).write_text("\n\n")
    with pytest.raises(DataError, match=r"annotations\.jsonl: no pictures in it"):
        read_annotations(tmp_path, None)
    with pytest.raises(DataError, match="no such folder"):
        read_annotations(tmp_path / ANNOTATIONS, None)


def test_the_shared_sets_read_as_their_readme_counts_them(shared_data: Path) -> None:
    wider = {split: read_annotations(shared_data / "wider", split) for split in ("train", "dev")}
    assert [(len(p), sum(len(q.faces) for q in p)) for p in wider.values()] == [(2281, 27263), (329, 4719)]
    assert not any(face.teacher for picture in wider["dev"] for face in picture.faces)
    backgrounds = read_annotations(shared_data / "backgrounds", "dev")
    assert len(backgrounds) == 77
    assert not any(picture.faces for picture in backgrounds)
    landmarks = read_annotations(shared_data / "landmarks68", "dev")
    assert all(face.landmarks is not None and face.pose is not None for p in landmarks for face in p.faces)
    assert not any(picture.complete for picture in landmarks)
