"""``edgeface data``: exports of other tools in, checks, and labels by a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from edgeface.cli import main
from edgeface.data.annotations import read_annotations
from edgeface.data.exports.importing import Wanted, import_export
from edgeface.data.exports.reading import locate
from edgeface.errors import DataError, OutputError
from tiny_data import FACE_BOX, write_set

WIDTH, HEIGHT = 200, 100
BOX = (20, 10, 60, 70)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / name), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    return folder


def write_wider(folder: Path) -> Path:
    file = folder / "wider_face_train_bbx_gt.txt"
    file.write_text("a.png\n2\n20 10 40 60 2 0 1 0 1 0\n5 5 0 0 0 0 0 0 0 0\nb.png\n0\n0 0 0 0 0 0 0 0 0 0\n")
    return file


def coco(**changes: Any) -> dict[str, Any]:
    size = {"width": WIDTH, "height": HEIGHT}
    images = [{"id": i, "file_name": name, **size} for i, name in enumerate(("a.png", "b.png"))]
    box = {"id": 1, "image_id": 0, "category_id": 7, "bbox": [20, 10, 40, 60], "iscrowd": 0, "area": 2400}
    return {"images": images, "annotations": [box], "categories": [{"id": 7, "name": "face"}], **changes}


def write_coco(folder: Path) -> Path:
    file = folder / "instances_default.json"
    file.write_text(json.dumps(coco()))
    return file


def write_yolo(folder: Path) -> Path:
    (folder / "a.txt").write_text("0 0.2 0.4 0.2 0.6\n")
    return folder


def write_voc(folder: Path) -> Path:
    (folder / "Annotations").mkdir()
    corners = "<xmin>21</xmin><ymin>11</ymin><xmax>60</xmax><ymax>70</ymax>"    # VOC counts from 1
    for name, inner in (("a", f"<object><name>face</name><bndbox>{corners}</bndbox></object>"), ("b", "")):
        (folder / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.png</filename><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
            f"{inner}</annotation>"
        )
    return folder


def write_cvat(folder: Path, version: str = "1.1") -> Path:
    file = folder / "annotations.xml"
    file.write_text(
        f'<annotations><version>{version}</version><image id="0" name="a.png" width="{WIDTH}" height="{HEIGHT}">'
        '<box label="face" xtl="20" ytl="10" xbr="60" ybr="70"/></image>'
        f'<image id="1" name="b.png" width="{WIDTH}" height="{HEIGHT}"/></annotations>'
    )
    return file


def write_label_studio(folder: Path) -> Path:
    file = folder / "project-1.json"
    value = {"x": 10, "y": 10, "width": 20, "height": 60, "rotation": 0, "rectanglelabels": ["Face"]}
    result = {"type": "rectanglelabels", "value": value, "original_width": WIDTH, "original_height": HEIGHT}
    file.write_text(json.dumps([
        {"data": {"image": "/data/upload/1/0123abcd-a.png"}, "annotations": [{"result": [result]}]},
        {"data": {"image": "/data/local-files/?d=pictures/b.png"}, "annotations": [{"result": []}]},
    ]))
    return file


WRITERS: dict[str, Callable[[Path], Path]] = {
    "wider": write_wider, "coco": write_coco, "yolo": write_yolo, "voc": write_voc, "cvat": write_cvat,
    "label-studio": write_label_studio,
}


def edgeface(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["data", *map(str, arguments)])


@pytest.mark.parametrize("kind", list(WRITERS))
def test_every_export_gives_the_same_set(kind: str, pictures: Path, tmp_path: Path) -> None:
    source = WRITERS[kind](pictures)
    result = edgeface("import", kind, source, "--out", tmp_path / "mine", "--licence", "CC0")
    assert result.exit_code == 0, result.output
    a, b = read_annotations(tmp_path / "mine", "train")
    assert (a.path.name, a.width, a.height, a.complete) == ("a.png", WIDTH, HEIGHT, True)
    assert [face.box.tolist() for face in a.faces if face.box is not None] == [list(map(float, BOX))]
    assert b.faces == ()
    assert a.path.read_bytes() == (pictures / "a.png").read_bytes()
    checked = edgeface("check", tmp_path / "mine", "--sheet", tmp_path / "sheet.png")
    assert checked.exit_code == 0, checked.output
    assert "2 pictures (train 2), 1 faces" in checked.output
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None


def test_widers_levels_and_parts_of_folders_are_kept(pictures: Path, tmp_path: Path) -> None:
    import_export("wider", write_wider(pictures), tmp_path / "mine", Wanted())
    face = read_annotations(tmp_path / "mine", None)[0].faces[0]
    assert (face.blur, face.illumination, face.occlusion, face.ignore) == (2, 1, 1, False)
    for part in ("train", "val"):
        (tmp_path / "yolo" / "images" / part).mkdir(parents=True)
        (tmp_path / "yolo" / "labels" / part).mkdir(parents=True)
        (tmp_path / "yolo" / "images" / part / f"{part}.png").write_bytes((pictures / "a.png").read_bytes())
        (tmp_path / "yolo" / "labels" / part / f"{part}.txt").write_text("0 0.2 0.4 0.2 0.6\n")
    import_export("yolo", tmp_path / "yolo", tmp_path / "two", Wanted())
    assert {p.path.stem: p.split for p in read_annotations(tmp_path / "two", None)} == {"train": "train", "val": "dev"}


def test_labels_of_yolo_without_pictures_find_them_elsewhere(pictures: Path, tmp_path: Path) -> None:
    """As ``edgeface detect --yolo`` writes them."""
    labels = tmp_path / "yolo" / "labels"
    labels.mkdir(parents=True)
    (labels / "a.txt").write_text("0 0.2 0.4 0.2 0.6\n")
    (labels / "b.txt").write_text("")
    (tmp_path / "yolo" / "classes.txt").write_text("face\n")
    result = edgeface("import", "yolo", tmp_path / "yolo", "--images", pictures, "--out", tmp_path / "mine")
    assert result.exit_code == 0, result.output
    assert {p.path.stem: len(p.faces) for p in read_annotations(tmp_path / "mine", None)} == {"a": 1, "b": 0}
    alone = edgeface("import", "yolo", tmp_path / "yolo", "--out", tmp_path / "alone")
    assert "there is no such picture" in alone.output
    assert "--images says where the pictures are" in alone.output
    (pictures / "below").mkdir()
    (pictures / "below" / "a.jpg").write_bytes((pictures / "a.png").read_bytes())
    two = edgeface("import", "yolo", tmp_path / "yolo", "--images", pictures, "--out", tmp_path / "two")
    assert "a: 2 pictures have this name" in two.output
    assert ": 1 problem: mend" in two.output


@pytest.mark.parametrize("kind", ["coco", "cvat", "label-studio", "voc", "wider", "yolo"])
def test_what_is_not_there_is_named(kind: str, pictures: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for source, images in ((gone, pictures), (pictures, gone)):
        result = edgeface("import", kind, source, "--images", images, "--out", tmp_path / "mine")
        assert result.exit_code == DataError.exit_code
        assert f"{gone}: No such file or directory" in result.output


def test_all_that_is_wrong_is_said_at_once_and_nothing_is_written(pictures: Path, tmp_path: Path) -> None:
    file = pictures / "bad.json"
    content = coco()
    small = {"width": 9, "height": 9}
    content["images"] += [{"id": 2, "file_name": "gone.png", **small}, {"id": 3, "file_name": "b.png", **small}]
    content["annotations"].append({"image_id": 1, "category_id": 7, "bbox": [900, 900, 5, 5]})
    file.write_text(json.dumps(content))
    result = edgeface("import", "coco", file, "--out", tmp_path / "mine")
    assert result.exit_code == DataError.exit_code
    for said in ("3 problems", "900", "gone.png: there is no such picture", "is 200x100, annotated as 9x9"):
        assert said in result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pictures"]
    left = edgeface("import", "coco", file, "--out", tmp_path / "mine", "--skip-bad")
    assert left.exit_code == 0, left.output
    assert "left out: image 2, gone.png" in left.output
    assert len(read_annotations(tmp_path / "mine", None)) == 2
    with pytest.raises(OutputError, match="choose another"):
        import_export("coco", file, tmp_path / "mine", Wanted())


def test_files_of_other_versions_and_tools_are_named(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    with pytest.raises(DataError, match=r"is of version 2\.0: export as CVAT for images 1\.1"):
        import_export("cvat", write_cvat(pictures, "2.0"), out, Wanted())
    minimal = pictures / "min.json"
    minimal.write_text('[{"image": "a.png", "label": []}]')
    with pytest.raises(DataError, match=r"not JSON-MIN"):
        import_export("label-studio", minimal, out, Wanted())
    with pytest.raises(DataError, match="not COCO"):
        import_export("coco", minimal, out, Wanted())
    (pictures / "a.txt").write_text("0 0.2 0.4 0.2 0.6 0.1 0.1\n")
    with pytest.raises(DataError, match=r"a\.txt, line 1: has 7 columns"):
        import_export("yolo", pictures, out, Wanted())
    bomb = pictures / "bomb.xml"
    bomb.write_text('<!DOCTYPE x [<!ENTITY a "b">]><annotations/>')
    with pytest.raises(DataError, match="entities"):
        import_export("cvat", bomb, out, Wanted())
    assert not out.exists()


def test_which_class_is_a_face_is_asked_where_it_is_not_clear(pictures: Path, tmp_path: Path) -> None:
    file = pictures / "two.json"
    content = coco(categories=[{"id": 7, "name": "head"}, {"id": 8, "name": "hat"}])
    content["annotations"].append({"image_id": 1, "category_id": 8, "bbox": [1, 1, 5, 5]})
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"'head' \(1\), 'hat' \(1\): say which are faces with --label"):
        import_export("coco", file, tmp_path / "mine", Wanted())
    assert import_export("coco", file, tmp_path / "mine", Wanted(labels=("head",))).faces == 1


def test_the_longest_common_end_of_the_paths_finds_a_picture(tmp_path: Path) -> None:
    by_name = {"1.png": [tmp_path / "x" / "1.png", tmp_path / "y" / "1.png"]}
    assert locate("y/1.png", by_name) == tmp_path / "y" / "1.png"
    assert "2 pictures" in str(locate("1.png", by_name))


def test_check_says_all_that_is_wrong_with_a_set(pictures: Path, tmp_path: Path) -> None:
    import_export("cvat", write_cvat(pictures), tmp_path / "mine", Wanted())
    file = tmp_path / "mine" / "annotations.jsonl"
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    gone = {**first, "image": "images/gone.png"}
    outside = {**second, "faces": [{"box": [500, 500, 520, 520]}]}
    turned = {**first, "faces": [{"box": [60, 10, 20, 70]}]}
    far = {**second, "faces": [{"box": [10, 10, 99999, 40]}]}
    file.write_text("".join(json.dumps(line) + "\n" for line in (first, gone, outside, turned, far)) + "nonsense\n")
    result = edgeface("check", tmp_path / "mine")
    assert result.exit_code == DataError.exit_code
    for said in ("line 2: image 'images/gone.png' is not there", "line 3: faces[0].box 500, 500, 520, 520 is outside",
                 "line 4: faces[0].box [60.0, 10.0, 20.0, 70.0] is not",
                 "line 5: faces[0].box 10, 10, 99999, 40 reaches far out of", "line 6: not JSON", "6 problems"):
        assert said in result.output


def test_labels_of_a_model_come_back_through_label_studio(tmp_path: Path, astronaut: NDArray[np.uint8]) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    cv2.imwrite(str(folder / "astronaut.png"), astronaut)
    result = edgeface("label", folder)
    assert result.exit_code == 0, result.output
    (picture,) = read_annotations(folder, "train")
    assert picture.faces[0].box is not None
    assert np.abs(picture.faces[0].box - FACE_BOX).max() < 25
    assert picture.faces[0].teacher
    assert edgeface("label", folder).exit_code == OutputError.exit_code
    tasks = json.loads((folder / "label-studio.json").read_text())
    corrected = [{"data": t["data"], "annotations": [{"result": t["predictions"][0]["result"]}]} for t in tasks]
    (folder / "export.json").write_text(json.dumps(corrected))
    import_export("label-studio", folder / "export.json", tmp_path / "corrected", Wanted())
    (again,) = read_annotations(tmp_path / "corrected", "train")
    assert again.faces[0].box == pytest.approx(picture.faces[0].box, abs=0.05)
    assert not again.faces[0].teacher


def test_a_picture_that_exif_data_turn_is_written_upright(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    encoded = cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), 90, np.uint8))[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    app1 = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (folder / "a.jpg").write_bytes(encoded[:2] + app1 + encoded[2:])
    (folder / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    import_export("yolo", folder, tmp_path / "mine", Wanted())
    (picture,) = read_annotations(tmp_path / "mine", "train")
    assert (picture.width, picture.height) == (HEIGHT, WIDTH)
    assert edgeface("check", tmp_path / "mine").exit_code == 0
    assert picture.faces[0].box is not None
    assert picture.faces[0].box.tolist() == [40, 80, 60, 120]


def test_a_folder_of_sets_is_checked_whole(tmp_path: Path) -> None:
    fields = {"split": "dev", "complete": 1, "faces": [{"box": [4, 4, 30, 34]}]}
    for name in ("one", "two"):
        write_set(tmp_path / name, [("p", np.zeros((40, 60, 3), np.uint8), fields)])
    result = edgeface("check", tmp_path, "--sheet", tmp_path / "faces.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "faces-one.png").is_file()
    assert (tmp_path / "faces-two.png").is_file()
