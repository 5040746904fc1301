"""``edgeface detect`` and ``edgeface demo`` as a user runs them, with a small real bundle."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

import edgeface
from detect_command import Detect, clip, error_lines, everything, huge_png, lines_of, names, photo
from edgeface.cli import main
from edgeface.cli.results import picture_record
from edgeface.faces import Faces
from edgeface.images import read_image
from edgeface.runtime.clock import Timing


def test_one_picture(detect: Detect, here: Path, astronaut: NDArray[np.uint8], tiny_bundle: Path) -> None:
    image = astronaut[:400]
    photo(here / "photo.png", image)
    result = detect("photo.png", "--json", "faces.jsonl")
    assert result.exit_code == 0
    assert result.stderr == ""

    (record,) = lines_of((here / "faces.jsonl").read_text())
    assert list(record) == ["schema", "image", "width", "height", "faces", "ms"]
    assert (record["image"], record["width"], record["height"]) == ("photo.png", 512, 400)
    assert list(record["ms"]) == ["preprocess", "network", "decode", "total"]
    assert record["ms"]["total"] == pytest.approx(sum(list(record["ms"].values())[:3]), abs=0.01)
    faces = edgeface.load(tiny_bundle)(image)
    assert len(faces) == len(record["faces"]) > 0
    assert faces.landmarks is not None
    assert faces.pose is not None
    for i, face in enumerate(record["faces"]):
        assert list(face) == ["box", "score", "landmarks", "pose", "attributes", "present"]
        assert face["box"] == pytest.approx(faces.boxes[i].tolist(), abs=0.1)
        assert face["score"] == pytest.approx(faces.scores[i], abs=0.001)
        assert np.array(face["landmarks"]) == pytest.approx(faces.landmarks[i], abs=0.1)
        assert list(face["pose"]) == ["pitch", "yaw", "roll"]
        assert list(face["pose"].values()) == pytest.approx(faces.pose[i].tolist(), abs=0.1)
        assert face["attributes"] == {}

    drawn = read_image(here / "edgeface-out" / "photo.png")
    assert drawn.shape == image.shape
    assert (drawn != image).any()
    assert everything(here) == ["edgeface-out/photo.png", "faces.jsonl", "photo.png"]
    assert result.stdout.startswith(f"photo.png: {len(faces)} face")
    assert "OpenCV read the file in" in result.stdout
    assert result.stdout.endswith("-> edgeface-out/photo.png\n")


def test_json_on_standard_output_stands_alone(detect: Detect, here: Path, astronaut: NDArray[np.uint8]) -> None:
    photo(here / "a.png", astronaut)
    photo(here / "b.png", astronaut[:, ::-1])
    result = detect("a.png", "b.png", "--json", "-", "--no-draw")
    assert result.exit_code == 0
    assert [record["image"] for record in lines_of(result.stdout)] == ["a.png", "b.png"]
    assert everything(here) == ["a.png", "b.png"]


def test_options_reach_the_detector(detect: Detect, here: Path, astronaut: NDArray[np.uint8]) -> None:
    photo(here / "a.png", astronaut)

    def count(*options: str) -> int:
        (record,) = lines_of(detect("a.png", "--json", "-", "--no-draw", *options).stdout)
        return len(record["faces"])

    assert count("--score", "1") == 0
    assert count("--score", "0.5") < count("--score", "0.05")
    assert count("--nms", "0") < count("--nms", "1")
    assert count("--size", "64") != count("--size", "320")
    assert count("--engine", "ncnn") == count()


def test_what_is_not_predicted_is_null() -> None:
    faces = Faces(np.array([[1, 2, 3, 4]], np.float32), np.array([0.5], np.float32), attributes={"mask": np.array([1])})
    record = picture_record(Path("a.png"), np.zeros((5, 6, 3), np.uint8), faces, Timing(1.0, 2.0, 3.0, 6.0))
    assert record["faces"] == [
        {
            "box": [1, 2, 3, 4], "score": 0.5, "landmarks": None, "pose": None, "attributes": {"mask": 1},
            "present": ["mask"],
        }
    ]


def test_folders_patterns_and_repeats(detect: Detect, here: Path, astronaut: NDArray[np.uint8]) -> None:
    small = cv2.resize(astronaut, (96, 96))
    for name in ("b.png", "a.JPG", ".hidden.png", "deep/c.png", "deep/more/d.png", "x[1].png"):
        photo(here / "photos" / name, small)
    (here / "photos" / "notes.txt").write_text("not a picture")

    def images(*sources: str) -> list[str]:
        result = detect(*sources, "--no-draw", "--json", "-")
        assert result.exit_code == 0
        return [record["image"] for record in lines_of(result.stdout)]

    assert images("photos") == ["photos/a.JPG", "photos/b.png", "photos/x[1].png"]
    assert images("photos/*.png") == ["photos/b.png", "photos/x[1].png"]
    deep = ["photos/deep/c.png", "photos/deep/more/d.png"]
    assert images("photos/**/*.png") == ["photos/b.png", *deep, "photos/x[1].png"]
    assert images("photos/x[1].png") == ["photos/x[1].png"]
    assert images("photos/b.png", "photos", str(here / "photos" / "b.png")) == [
        "photos/b.png", "photos/a.JPG", "photos/x[1].png",
    ]


def test_files_of_one_name_do_not_replace_one_another(detect: Detect, here: Path, astronaut: NDArray[np.uint8]) -> None:
    small = cv2.resize(astronaut, (96, 96))
    for i, name in enumerate(("a/x.png", "b/x.png", "c/X.png", "x-2.png", "y.ppm", "d/y.png")):
        photo(here / name, np.roll(small, 16 * i, 1))
    result = detect("a/x.png", "b/x.png", "c/X.png", "x-2.png", "y.ppm", "d/y.png", "--score", "1")
    assert result.exit_code == 0
    targets = [line.rpartition(" -> edgeface-out/")[2] for line in result.stdout.splitlines()]
    assert targets == ["x.png", "x-2.png", "X-3.png", "x-2-2.png", "y.png", "y-2.png"]
    for i, target in enumerate(targets):
        assert np.array_equal(read_image(here / "edgeface-out" / target), np.roll(small, 16 * i, 1))


def test_a_batch_goes_on_past_every_bad_file(detect: Detect, here: Path, astronaut: NDArray[np.uint8]) -> None:
    small = cv2.resize(astronaut, (96, 96))
    photo(here / "first.png", small)
    photo(here / "last.jpg", small)
    whole = (here / "last.jpg").read_bytes()
    video = clip(here / "whole.mp4", small, 5).read_bytes()
    bad = {
        "empty.jpg": (b"", "empty"),
        "half.jpg": (whole[: len(whole) // 2], "cut short"),
        "gap.jpg": (whole[: len(whole) // 2] + whole[len(whole) * 3 // 4 :], "part of the picture is missing"),
        "words.png": (b"these are words, not a picture", "not a picture"),
        "cut.mp4": (video[: len(video) // 2], "cut short"),
        "wall.png": (huge_png(15_000), "15000 x 15000 is 225 megapixels, more than the limit of 100"),
        "fake.mp4": (b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x08moov", "cannot be read as a video"),
    }
    for name, (data, _) in bad.items():
        (here / name).write_bytes(data)
    (here / "none").mkdir()
    (here / "only-folders" / "deep").mkdir(parents=True)
    sources = ["missing.jpg", "none", "only-folders", "*.xyz", "first.png", *bad, "last.jpg"]
    result = detect(*sources, "--json", "out.jsonl")
    assert result.exit_code == 3
    assert [record["image"] for record in lines_of((here / "out.jsonl").read_text())] == ["first.png", "last.jpg"]
    assert names(here / "edgeface-out") == ["first.png", "last.jpg"]

    *lines, summary = error_lines(result)
    said = dict(zip(["missing.jpg", "none", "only-folders", "*.xyz", *bad], lines, strict=True))
    for name, (_, reason) in bad.items():
        assert f"{name}: " in said[name]
        assert reason in said[name]
    assert "no such file or folder" in said["missing.jpg"]
    assert "no picture or video in this folder" in said["none"]
    assert "only-folders/**/*.jpg" in said["only-folders"]
    assert "no picture or video matches" in said["*.xyz"]
    assert summary.startswith(f"edgeface: {len(said)} of {len(said) + 2} failed: ")
    assert all(name in summary for name in said)


@pytest.mark.parametrize("source", ["none.jpg", "words.jpg"])
def test_one_bad_file_is_one_line(detect: Detect, here: Path, source: str) -> None:
    (here / "words.jpg").write_text("words")
    result = detect(source)
    assert result.exit_code == 3
    assert len(error_lines(result)) == 1
    assert source in result.stderr
    assert everything(here) == ["words.jpg"]
    assert not (here / "edgeface-out").exists()


def test_the_limit_on_pixels_can_be_moved(detect: Detect, here: Path, astronaut: NDArray[np.uint8]) -> None:
    photo(here / "a.png", astronaut)
    result = detect("a.png", "--max-megapixels", "0.2")
    assert result.exit_code == 3
    assert "raise --max-megapixels" in result.stderr
    assert detect("a.png", "--max-megapixels", "0.3").exit_code == 0


def test_every_kind_of_pixel_works(detect: Detect, here: Path, astronaut: NDArray[np.uint8]) -> None:
    photo(here / "grey.png", astronaut[:, :, 1])
    photo(here / "deep.png", astronaut.astype(np.uint16) * 257)
    photo(here / "alpha.png", np.dstack([astronaut, np.full((512, 512), 255, np.uint8)]))
    photo(here / "pixel.png", astronaut[:1, :1])
    photo(here / "line.jpg", astronaut[:1])
    Image.fromarray(astronaut[:, :, ::-1]).convert("CMYK").save(here / "ink.jpg")
    photo(here / "plain.png", astronaut)
    result = detect(".", "--json", "-")
    assert result.exit_code == 0
    records = {record["image"]: record for record in lines_of(result.stdout)}
    assert len(records) == len(names(here / "edgeface-out")) == 7
    assert records["deep.png"]["faces"] == records["alpha.png"]["faces"] == records["plain.png"]["faces"]
    assert (records["pixel.png"]["width"], records["pixel.png"]["height"]) == (1, 1)


def test_coordinates_are_those_of_the_picture_as_displayed(
    detect: Detect, here: Path, astronaut: NDArray[np.uint8]
) -> None:
    image = astronaut[:400]
    photo(here / "upright.png", image)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.ascontiguousarray(np.rot90(image)[:, :, ::-1])
    Image.fromarray(stored).save(here / "turned.png", exif=exif)
    upright, turned = lines_of(detect("upright.png", "turned.png", "--json", "-").stdout)
    assert turned["faces"] == upright["faces"]
    assert (turned["width"], turned["height"]) == (512, 400)
    drawn = here / "edgeface-out"
    assert np.array_equal(read_image(drawn / "turned.png"), read_image(drawn / "upright.png"))


def test_an_unknown_model_is_answered_with_the_choices(detect: Detect, here: Path) -> None:
    photo(here / "a.png", np.zeros((64, 64, 3), np.uint8))
    result = detect("a.png", model="mos_x")
    assert result.exit_code == 2
    assert len(error_lines(result)) == 1
    assert "no model 'mos_x'" in result.stderr
    assert "Models: " in result.stderr
    result = detect("a.png", "--engine", "nccn")
    assert result.exit_code == 2
    assert "Did you mean 'ncnn'?" in result.stderr


def test_a_damaged_bundle_names_its_file(
    detect: Detect, here: Path, astronaut: NDArray[np.uint8], tiny_bundle: Path
) -> None:
    photo(here / "a.png", astronaut)
    bundle = shutil.copytree(tiny_bundle, here / "bundle")
    weights_file = bundle / "dense.bin"
    weights_file.write_bytes(weights_file.read_bytes()[:-1] + b"?")
    result = detect("a.png", model=bundle)
    assert result.exit_code == 6
    assert len(error_lines(result)) == 1
    assert "bundle/dense.bin: sha256 " in result.stderr
    assert not (here / "edgeface-out").exists()


def test_a_source_is_never_replaced(detect: Detect, here: Path, astronaut: NDArray[np.uint8]) -> None:
    for name in ("photos/a.png", "b.png"):
        photo(here / name, astronaut)
    before = (here / "photos" / "a.png").read_bytes()
    result = detect("photos/a.png", "b.png", "--out", "photos")
    assert result.exit_code == 10
    assert "would replace the source photos/a.png: choose another --out" in result.stderr
    assert (here / "photos" / "a.png").read_bytes() == before
    assert everything(here) == ["b.png", "photos/a.png", "photos/b.png"]
    result = detect("photos/a.png", "--json", "photos/../photos/a.png")
    assert result.exit_code == 2
    assert (here / "photos" / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "exit_code", "says"),
    [
        (["--out", "a.png"], 2, "is a file: give a folder"),
        (["--out", "drawn.jpg"], 2, "looks like a file"),
        (["--out", "a.png/below"], 10, "cannot be written: Not a directory"),
        (["--out", "x", "--no-draw"], 2, "exclude each other"),
        (["--json", "."], 10, "is a folder"),
        (["--json", "none/out.json"], 10, "cannot be written: No such file or directory"),
        (["--size", "8"], 2, "size 8 cannot work"),
    ],
)
def test_options_that_cannot_work(
    detect: Detect, here: Path, astronaut: NDArray[np.uint8], options: list[str], exit_code: int, says: str
) -> None:
    photo(here / "a.png", astronaut)
    result = detect("a.png", *options)
    assert result.exit_code == exit_code
    assert says in result.stderr
    assert len(error_lines(result)) == 1
    assert everything(here) == ["a.png"]
    assert names(here) == ["a.png"]


def test_a_video(detect: Detect, here: Path, astronaut: NDArray[np.uint8]) -> None:
    clip(here / "clip.avi", cv2.resize(astronaut, (160, 120)), 12, "MJPG")
    result = detect("clip.avi", "--json", "-", "--score", "0.1")
    assert result.exit_code == 0
    records = lines_of(result.stdout)
    assert [record["frame"] for record in records] == list(range(12))
    assert [record["time_s"] for record in records] == pytest.approx([i / 10 for i in range(12)])
    assert {(record["image"], record["width"], record["height"]) for record in records} == {("clip.avi", 160, 120)}
    assert list(records[0]) == ["schema", "image", "width", "height", "faces", "ms", "frame", "time_s"]
    drawn = cv2.VideoCapture(str(here / "edgeface-out" / "clip.mp4"))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 12
    assert drawn.get(cv2.CAP_PROP_FPS) == 10
    done, frame = drawn.read()
    assert done
    assert frame.shape == (120, 160, 3)
    assert everything(here) == ["clip.avi", "edgeface-out/clip.mp4"]
    assert detect("clip.avi").stdout.startswith("clip.avi: faces in ")


def test_what_a_file_is_comes_from_its_content(detect: Detect, here: Path, astronaut: NDArray[np.uint8]) -> None:
    clip(here / "clip.mp4", cv2.resize(astronaut, (96, 96)), 3).rename(here / "photo.jpg")
    photo(here / "a.png", astronaut).rename(here / "video.mp4")
    result = detect("photo.jpg", "video.mp4", "--json", "-")
    assert result.exit_code == 0
    assert len(lines_of(result.stdout)) == 4
    assert names(here / "edgeface-out") == ["photo.mp4", "video.png"]


@pytest.mark.parametrize("fourcc", ["MJPG", "mp4v"])
def test_a_video_that_is_cut_short_is_refused(
    detect: Detect, here: Path, astronaut: NDArray[np.uint8], fourcc: str
) -> None:
    path = clip(here / f"clip.{'avi' if fourcc == 'MJPG' else 'mp4'}", cv2.resize(astronaut, (96, 96)), 8, fourcc)
    whole = path.read_bytes()
    for part in (0.02, 0.5, 0.9):
        path.write_bytes(whole[: int(part * len(whole))])
        result = detect(path.name)
        assert result.exit_code == 3
        assert path.name in result.stderr
        assert len(error_lines(result)) == 1
        assert everything(here) == [path.name]


def test_detecting_imports_no_bench_package(here: Path, astronaut: NDArray[np.uint8], tiny_bundle: Path) -> None:
    photo(here / "a.png", astronaut)
    code = (
        "import sys\nfrom edgeface.cli import main\n"
        f"try: main(['detect', 'a.png', '--model', {str(tiny_bundle)!r}])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'matplotlib', 'skimage', 'tqdm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_demo(here: Path, astronaut: NDArray[np.uint8], tiny_bundle: Path) -> None:
    result = CliRunner().invoke(main, ["demo", "--model", str(tiny_bundle)])
    assert result.exit_code == 0
    assert everything(here) == ["edgeface-demo/astronaut.jpg", "edgeface-demo/faces/astronaut.jpg"]
    written = read_image(here / "edgeface-demo" / "astronaut.jpg")
    assert np.abs(written.astype(int) - astronaut).mean() < 3
    assert "edgeface-demo/faces/astronaut.jpg" in result.stdout.splitlines()[-1]


def test_demo_without_scikit_image_says_what_to_do(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == 11
    assert len(error_lines(result)) == 1
    assert 'pip install "edgeface[demo]"' in result.stderr
    assert "edgeface detect photo.jpg" in result.stderr
    assert names(here) == []


def test_the_bundled_model_finds_the_astronauts_face(here: Path) -> None:
    assert CliRunner().invoke(main, ["demo"]).exit_code == 0
    result = CliRunner().invoke(main, ["detect", "edgeface-demo/astronaut.jpg", "--json", "-"])
    (record,) = lines_of(result.stdout)
    (face,) = record["faces"]
    assert face["box"] == pytest.approx([175, 55, 275, 185], abs=35)
    assert face["score"] > 0.8
    assert np.array(face["landmarks"]) == pytest.approx(
        np.array([[203, 102], [246, 102], [225, 125], [205, 145], [246, 144]]), abs=12
    )
    # Five points take a smile for a head that looks down.
    assert (np.abs([face["pose"][angle] for angle in ("pitch", "yaw", "roll")]) < [30, 10, 10]).all()


def test_what_hung_on_its_side_is_turned_first(detect: Detect, here: Path, astronaut: NDArray[np.uint8]) -> None:
    upright = cv2.resize(astronaut, (160, 128))
    photo(here / "a.png", upright)
    photo(here / "b.png", cv2.rotate(upright, cv2.ROTATE_90_COUNTERCLOCKWISE))
    (one,) = lines_of(detect("a.png", "--json", "-", "--score", "0.1").stdout)
    (other,) = lines_of(detect("b.png", "--json", "-", "--score", "0.1", "--rotate", "90").stdout)
    assert one["faces"] == other["faces"]
    assert (other["width"], other["height"]) == (160, 128)
    assert cv2.imread(str(here / "edgeface-out" / "b.png")).shape == (128, 160, 3)
    assert detect("a.png", "--rotate", "45").exit_code == 2
