"""What ``edgeface detect`` writes for other tools, read back by the tools it is for where they are installed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import edgeface
from detect_command import Detect, clip, error_lines, everything, lines_of, photo
from edgeface.cli import main
from edgeface.data.exports import json_files, text_files, xml_files
from edgeface.images import read_image
from edgeface.runtime.seen_faces import SeenFaces

EXAMPLES = Path(edgeface.__file__).parent.parent / "examples"
ALL = (
    "--csv", "faces.csv", "--coco", "coco.json", "--yolo", "yolo", "--voc", "voc", "--crops", "crops",
    "--aligned", "aligned", "--json", "faces.jsonl", "--no-draw",
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, astronaut: NDArray[np.uint8]) -> Path:
    """Two pictures of one name, one that is plain grey, and a video of two frames."""
    here = tmp_path_factory.mktemp("exports")
    photo(here / "photos" / "a.png", astronaut[:400])
    photo(here / "more" / "a.png", astronaut[:, :256])
    photo(here / "photos" / "none.png", np.full((64, 64, 3), 128, np.uint8))
    clip(here / "clip.avi", astronaut[::2, ::2], 2, "MJPG")
    return here


@pytest.fixture(scope="module")
def written(pictures: Path, tiny_bundle: Path) -> list[dict[str, Any]]:
    """The JSON lines of a run that writes everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(pictures)
        arguments = ["photos", "more/a.png", "clip.avi", "--score", "0.5", "--threads", "1", *ALL]
        result = CliRunner().invoke(main, ["detect", "--model", str(tiny_bundle), *arguments])
    assert result.exit_code == 0, result.stderr
    (renamed,) = error_lines(result)
    assert renamed == "edgeface: more/a.png: its results are called a-2, since another source has its name"
    return lines_of((pictures / "faces.jsonl").read_text())


def test_a_run_in_which_nothing_could_be_used_leaves_files_as_they_were(tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    files = [tmp_path / name for name in ("a.csv", "a.json", "a.jsonl")]
    for file in files:
        file.write_text("kept")
    arguments = ["--csv", files[0], "--coco", files[1], "--json", files[2], "--no-draw", "--model", tiny_bundle]
    result = CliRunner().invoke(main, ["detect", str(tmp_path / "bad.png"), *map(str, arguments)])
    assert result.exit_code == 3
    assert [file.read_text() for file in files] == ["kept"] * 3


def test_every_face_is_in_every_file(written: list[dict[str, Any]], pictures: Path, tiny_bundle: Path) -> None:
    faces = [len(line["faces"]) for line in written]
    assert [line["image"] for line in written] == ["photos/a.png", "photos/none.png", "more/a.png", *["clip.avi"] * 2]
    assert min(faces[0], faces[2], faces[3], faces[4]) > 0
    names = ["a", "none", "a-2", "clip-000000", "clip-000001"]
    rows = list(csv.DictReader((pictures / "faces.csv").open(encoding="utf-8")))
    assert len(rows) == sum(faces)
    assert [row["frame"] for row in rows] == [*[""] * sum(faces[:3]), *"0" * faces[3], *"1" * faces[4]]
    boxes = [face["box"] for line in written for face in line["faces"]]
    assert np.allclose([[float(row[name]) for name in ("x1", "y1", "x2", "y2")] for row in rows], boxes, atol=0.01)

    yolo, voc = text_files.read_yolo, xml_files.read_voc(pictures / "voc")
    assert {Path(each.where).stem for each in voc.pictures} == set(names)
    coco = json_files.read_coco(pictures / "coco.json")
    assert [each.name for each in coco.pictures] == [
        "photos/a.png", "photos/none.png", "more/a.png", "clip-000000.jpg", "clip-000001.jpg",
    ]
    for name, line, each in zip(names, written, coco.pictures, strict=True):
        # A trainer wants pictures beside the labels.
        photo(pictures / "yolo" / "images" / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
        whole = np.array([line["width"], line["height"]] * 2)
        clipped = [np.clip(face["box"], 0, whole) for face in line["faces"]]
        clipped = [box for box in clipped if (box[2:] > box[:2]).all()]
        assert each.size == (line["width"], line["height"])
        assert {box.label for box in each.boxes} <= {"face"}
        corners = np.reshape([box.corners for box in each.boxes], (-1, 4))
        assert np.allclose(corners, np.reshape(clipped, (-1, 4)), atol=0.02)
    read = {Path(each.name).stem: each for each in yolo(pictures / "yolo").pictures}
    for name, line, each in zip(names, written, coco.pictures, strict=True):
        shares = np.reshape([box.corners for box in read[name].boxes], (-1, 4))
        expected = np.reshape([box.corners for box in each.boxes], (-1, 4)) / ([line["width"], line["height"]] * 2)
        assert np.allclose(shares, expected, atol=1e-3)

    whole_pixels = {Path(each.where).stem: [box.corners for box in each.boxes] for each in voc.pictures}
    for name, each in zip(names, coco.pictures, strict=True):
        rounded = np.rint(np.reshape([box.corners for box in each.boxes], (-1, 4)))
        kept = rounded[(rounded[:, 2:] > rounded[:, :2]).all(axis=1)]
        assert np.abs(np.reshape(whole_pixels[name], (-1, 4)) - kept).max(initial=0) <= 1     # of halves
        assert np.mean(np.reshape(whole_pixels[name], (-1, 4)) == kept) > 0.9

    found = edgeface.load(tiny_bundle, score=0.5)(pictures / "photos" / "a.png")
    crop = read_image(pictures / "crops" / "a-1.jpg")
    assert crop.shape == found.crop()[0].shape
    assert np.abs(crop.astype(int) - found.crop()[0]).mean() < 4
    assert np.array_equal(read_image(pictures / "aligned" / "a-1.png"), found.align()[0])
    assert len(list((pictures / "aligned").iterdir())) == sum(faces)


def test_pandas_reads_the_table(written: list[dict[str, Any]], pictures: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas, which the table is for, is not installed")
    table = pandas.read_csv(pictures / "faces.csv")
    assert len(table) == sum(len(line["faces"]) for line in written)
    assert table.groupby("image").size()["photos/a.png"] == len(written[0]["faces"])
    assert table["score"].iloc[0] == pytest.approx(written[0]["faces"][0]["score"], abs=1e-4)
    assert table["frame"].isna().sum() == sum(len(line["faces"]) for line in written[:3])


def test_pycocotools_evaluates_the_file_against_itself(written: list[dict[str, Any]], pictures: Path) -> None:
    pytest.importorskip("pycocotools", reason="pycocotools, which the file is for, is not installed")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(pictures / "coco.json"))
    assert len(truth.getImgIds()) == len(written)
    assert truth.loadCats(1)[0]["keypoints"][0] == "left_eye"
    found = truth.loadRes(list(truth.anns.values()))
    evaluation = COCOeval(truth, found, "bbox")
    evaluation.params.maxDets = [1, 10, 10_000]
    evaluation.evaluate()
    evaluation.accumulate()
    # pycocotools has -1 where a threshold of recall was not reached by any box.
    assert evaluation.eval["precision"][0, :, 0, 0, 2].min() > 0.99


def test_supervision_reads_yolo_and_voc(written: list[dict[str, Any]], pictures: Path) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision, which the files are for, is not installed")
    images = pictures / "shown"
    for name, source in (("a", "photos/a.png"), ("none", "photos/none.png")):
        images.mkdir(exist_ok=True)
        shutil.copy(pictures / source, images / f"{name}.png")
    yolo = supervision.DetectionDataset.from_yolo(
        str(images), str(pictures / "yolo" / "labels"), str(pictures / "yolo" / "data.yaml")
    )
    assert yolo.classes == ["face"]
    by_name = {Path(path).stem: found for path, found in yolo.annotations.items()}
    assert len(by_name["none"]) == len(written[1]["faces"])
    expected = np.clip([face["box"] for face in written[0]["faces"]], 0, [512, 400, 512, 400])
    expected = expected[(expected[:, 2:] > expected[:, :2]).all(axis=1)]
    assert np.allclose(by_name["a"].xyxy, expected, atol=0.02)
    shutil.copy(pictures / "photos" / "a.png", images / "a.png")
    (images / "none.png").unlink()
    voc = supervision.DetectionDataset.from_pascal_voc(str(images), str(pictures / "voc" / "Annotations"))
    (found,) = voc.annotations.values()
    kept = expected[(np.rint(expected[:, 2:]) > np.rint(expected[:, :2])).all(axis=1)]
    assert np.allclose(found.xyxy, np.rint(kept))


@pytest.mark.parametrize(
    ("options", "exit_code", "says"),
    [
        (["--csv", "x", "--coco", "x"], 2, "--csv and --coco are both x: give each a place of its own"),
        (["--crops", "x", "--aligned", "./x"], 2, "--crops and --aligned are both x"),
        (["--yolo", "edgeface-out"], 2, "--out and --yolo are both edgeface-out"),
        (["--csv", "a.png"], 2, "--csv a.png: is one of the sources"),
        (["--csv", "-"], 2, "only --json writes to standard output"),
        (["--yolo", "a.png"], 2, "--yolo a.png: is a file: give a folder"),
        (["--coco", "."], 10, "is a folder: give a file's name to --coco"),
        (["--coco", "none/c.json"], 10, "none/c.json: cannot be written"),
        (["--crop-margin", "0.2"], 2, "--crop-margin is of --crops DIR"),
        (["--embed", "m:f"], 2, "say where they go, with --json or --csv"),
        (["--embed", "m", "--csv", "c"], 2, "write MODULE:FUNCTION"),
        (["--embed", "not_here:f", "--csv", "c"], 2, "no module 'not_here' here or among the installed ones"),
        (["--embed", "json:f", "--csv", "c"], 2, "json has no function 'f'"),
    ],
)  # fmt: skip
def test_options_that_cannot_work(
    detect: Detect, here: Path, astronaut: NDArray[np.uint8], options: list[str], exit_code: int, says: str
) -> None:
    photo(here / "a.png", cv2.resize(astronaut, (64, 64)))
    result = detect("a.png", *options)
    assert result.exit_code == exit_code
    assert says in result.stderr
    assert len(error_lines(result)) == 1
    assert everything(here) == ["a.png"]


def test_a_source_is_never_replaced_by_its_own_crop(
    detect: Detect, here: Path, astronaut: NDArray[np.uint8]
) -> None:
    photo(here / "a.png", astronaut)
    photo(here / "a-1.jpg", astronaut[:64])
    before = (here / "a-1.jpg").read_bytes()
    result = detect("a.png", "a-1.jpg", "--no-draw", "--crops", ".", "--coco", "c.json")
    assert result.exit_code == 10
    assert "would replace the source a-1.jpg" in result.stderr
    assert (here / "a-1.jpg").read_bytes() == before
    assert [image["file_name"] for image in json.loads((here / "c.json").read_text())["images"]] == ["a-1.jpg"]


def test_no_faces_still_make_a_table(detect: Detect, here: Path) -> None:
    photo(here / "a.png", np.full((64, 64, 3), 128, np.uint8))
    assert detect("a.png", "--csv", "f.csv", "--score", "1", "--no-draw").exit_code == 0
    (header,) = (here / "f.csv").read_text().splitlines()
    assert header.startswith("image,width,height,frame,time_s,face,x1,y1,x2,y2,score,left_eye_x")


def test_a_full_disk_ends_the_run(
    detect: Detect, here: Path, astronaut: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(here / "a.png", astronaut)
    (here / "f.csv").symlink_to("/dev/full")
    result = detect("a.png", "a.png", "--csv", "f.csv", "--no-draw")
    assert result.exit_code == 10
    assert error_lines(result) == [
        "edgeface: /dev/full: cannot be written: No space left on device: free some space, or choose another place"
    ]


MINE = """
import numpy as np

def embed(faces):
    assert faces.shape[1:] == (112, 112, 3) and faces.dtype == np.uint8
    return faces.mean(axis=(1, 2))

def short(faces):
    return np.zeros((len(faces) + 1, 3))

def breaks(faces):
    raise RuntimeError("no licence")
"""


def test_embeddings_by_a_function_of_one_s_own(
    detect: Detect, here: Path, astronaut: NDArray[np.uint8], tiny_bundle: Path
) -> None:
    photo(here / "a.png", astronaut)
    photo(here / "none.png", np.full((64, 64, 3), 128, np.uint8))
    (here / "my_faces.py").write_text(MINE)
    more = ("--score", "0.5", "--no-draw", "--embed")
    assert detect("none.png", "a.png", "--csv", "f.csv", "--json", "f.jsonl", *more, "my_faces:embed").exit_code == 0
    seen: SeenFaces = edgeface.load(tiny_bundle, score=0.5)(here / "a.png")
    expected = seen.align().mean(axis=(1, 2))
    records = [face for line in lines_of((here / "f.jsonl").read_text()) for face in line["faces"]]
    rows = [row for row in csv.DictReader((here / "f.csv").open()) if row["image"] == "a.png"]
    assert np.allclose([[float(row[f"embedding_{i}"]) for i in range(3)] for row in rows], expected, atol=1e-3)
    assert np.allclose([face["embedding"] for face in records[-len(rows):]], expected, atol=1e-3)
    for name, says in (("short", "for 1 faces" if len(rows) == 1 else "give a row of numbers each"),
                       ("breaks", "RuntimeError: no licence")):
        result = detect("a.png", "--csv", f"{name}.csv", *more, f"my_faces:{name}")
        assert result.exit_code == 7
        assert says in result.stderr
        assert len(error_lines(result)) == 1


def test_the_example_runs_a_recognition_network(
    detect: Detect, here: Path, astronaut: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx, to make a network, is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime, which the example runs, is not installed")
    if not EXAMPLES.is_dir():
        pytest.skip("needs the source tree")
    from onnx import TensorProto, helper

    values = (helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 112, 112]),
              helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3]))
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)]
    graph = helper.make_graph(nodes, "mean", [values[0]], [values[1]])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), here / "mean.onnx")
    photo(here / "a.png", astronaut)
    shutil.copy(EXAMPLES / "embed_onnx.py", here)
    monkeypatch.setenv("RECOGNITION_ONNX", "mean.onnx")
    assert detect("a.png", "--no-draw", "--json", "f.jsonl", "--embed", "embed_onnx:embed").exit_code == 0
    faces = lines_of((here / "f.jsonl").read_text())[0]["faces"]
    assert faces
    assert np.allclose([np.linalg.norm(face["embedding"]) for face in faces], 1, atol=1e-4)
