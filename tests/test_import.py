"""``edgeface import``: files of other people's detectors become bundles that find the same faces."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx", reason="importing needs the extra 'convert'")
pytest.importorskip("onnxsim", reason="importing needs the extra 'convert'")
pytest.importorskip("pnnx", reason="importing needs the extra 'convert'")

from click.testing import CliRunner
from edgeface.convert.foreign import import_detector, kind
from edgeface.convert.foreign.graph import ForeignGraph
from edgeface.convert.foreign.original import Original, agreeing_anchors
from edgeface.convert.ncnn import run_pnnx

import edgeface
import foreign_nets
from edgeface.bundle import Cells, Distances, read_bundle
from edgeface.cli import main
from edgeface.errors import ConversionError, InputError, OptionError, UnknownTargetError
from edgeface.runtime.anchors import Anchors
from edgeface.runtime.decode.cells import cell_boxes, cell_points
from edgeface.runtime.decode.distances import distance_boxes, distance_points
from edgeface.runtime.decode.objectness import joined_score
from edgeface.runtime.engines import RawMap

TINY: dict[str, Callable[[Path], Path]] = {
    name: getattr(foreign_nets, name) for name in ("yunet", "scrfd", "yolov5face", "retinaface", "ultralight")
}
DETECTORS = Path("../shared/detectors")
REAL = {
    "yunet": "yunet_n_640_640.onnx", "scrfd": "scrfd_500m_kps.onnx", "yolov5face": "yolov5n-0.5_face.onnx",
    "retinaface": "retinaface_mobilenet0.25_480x640.onnx",
}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number, (height, width) in enumerate(((96, 128), (120, 90))):
        rough = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(rough, (width, height)))
    return folder


@pytest.mark.parametrize("name", TINY)
def test_a_file_becomes_a_bundle_with_its_faces(name: str, tmp_path: Path, pictures: Path) -> None:
    file = TINY[name](tmp_path / "tiny.onnx")
    anchors = ((16, 32), (64, 128), (256, 512)) if name == "retinaface" else None
    done = import_detector(file, name, out=tmp_path / "out", pictures=pictures, anchors=anchors)
    faces = done.report.sizes[0].faces
    assert faces is not None
    assert faces.reference > 5
    assert faces.iou_least > 0.99
    bundle = read_bundle(tmp_path / "out")
    assert bundle.verified
    assert bundle.made["imported"]["kind"] == name
    assert bundle.gives_landmarks == (name != "ultralight")
    # Files of a fixed size become bundles of any.
    picture = cv2.imread(str(pictures / "0.png"))
    for size in (64, 256):
        assert np.isfinite(edgeface.load(tmp_path / "out", size=size, score=0.0)(picture).boxes).all()


@pytest.fixture
def int8(tmp_path: Path, pictures: Path) -> Path:
    """A tiny SCRFD in int8, by the command."""
    file = TINY["scrfd"](tmp_path / "tiny.onnx")
    result = CliRunner().invoke(main, [
        "import", str(file), "--as", "scrfd", "--precision", "int8", "--calibrate", str(pictures), "--pictures",
        str(pictures), "--out", str(tmp_path / "int8"), "--force",
    ])
    assert result.exit_code == 0, result.output
    assert "layers calibrated on 2 of 2 pictures" in result.stdout
    return tmp_path / "int8"


def test_int8_is_near_the_float_bundle(int8: Path, tmp_path: Path, pictures: Path) -> None:
    import_detector(tmp_path / "tiny.onnx", "scrfd", out=tmp_path / "float", pictures=pictures)
    bundle = read_bundle(int8)
    assert (bundle.precision, bundle.engine) == ("int8", "ncnn")
    lines = [line for line in (int8 / "tiny.param").read_text().splitlines() if line.startswith("Convolution")]
    in_int8 = [line for line in lines if " 8=" in line]
    # The outputs stay float, and the graph has more than these.
    assert 0 < len(in_int8) < len(lines)
    picture = cv2.imread(str(pictures / "0.png"))
    exact, rounded = (edgeface.load(folder, size=128).raw(picture) for folder in (tmp_path / "float", int8))
    for name, values in exact.items():
        error = float(((values - rounded[name]) ** 2).mean())
        # Better than 20 dB, and not the same.
        assert 0 < error < 0.01 * float((values**2).mean()), name


@pytest.mark.parametrize("name", ["scrfd", "retinaface"])
def test_an_ncnn_pair_is_imported_as_the_file_it_was_made_from(name: str, tmp_path: Path, pictures: Path) -> None:
    file = TINY[name](tmp_path / "tiny.onnx")
    param, weights = run_pnnx(file, fp16=False)
    pair = param.rename(tmp_path / "pair.param")
    weights.rename(tmp_path / "pair.bin")
    anchors = ((16, 32), (64, 128), (256, 512)) if name == "retinaface" else None
    done = import_detector(pair, name, out=tmp_path / "out", pictures=pictures, anchors=anchors)
    faces = done.report.sizes[0].faces
    assert faces is not None
    assert faces.reference > 5
    assert faces.iou_least > 0.99
    assert done.report.reference.startswith("ncnn ")
    assert done.bundle.made["imported"].keys() >= {"sha256", "weights_sha256"}
    import_detector(file, name, out=tmp_path / "other", pictures=pictures, anchors=anchors)
    picture = cv2.imread(str(pictures / "0.png"))
    one, two = (edgeface.load(tmp_path / each, size=128)(picture) for each in ("out", "other"))
    np.testing.assert_allclose(one.boxes, two.boxes, atol=0.05)


def test_pairs_that_cannot_be_imported_say_why(tmp_path: Path) -> None:
    param, weights = run_pnnx(TINY["scrfd"](tmp_path / "tiny.onnx"), fp16=False)
    pair = param.rename(tmp_path / "pair.param")
    weights.rename(tmp_path / "pair.bin")
    text = pair.read_text()
    pair.write_text(text.replace("Sigmoid ", "Squeeze "))
    with pytest.raises(ConversionError, match="is Squeeze, which is not imported from a pair: give the ONNX file"):
        import_detector(pair, "scrfd", out=tmp_path / "out")
    pair.write_text(text.replace(" 9=1", " 9=5", 1))
    with pytest.raises(ConversionError, match="Convolution: activation 5 is not imported"):
        import_detector(pair, "scrfd", out=tmp_path / "out")
    pair.write_text(text.replace("Split                    splitncnn_0 ", "Slice                    splitncnn_0 "))
    with pytest.raises(ConversionError, match="layer splitncnn_0, Slice, does not say its parts"):
        import_detector(pair, "scrfd", out=tmp_path / "out")
    pair.write_text(text.replace("0=10 1=384", "0=10 1=383"))
    with pytest.raises(ConversionError, match="makes 10 x 383 of 3840 values, which does not fit"):
        import_detector(pair, "scrfd", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["scrfd", "retinaface"])
def test_int8_for_tflite_is_near_the_float_bundle(name: str, tmp_path: Path, pictures: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs the extra 'tflite'")
    file, anchors = TINY[name](tmp_path / "tiny.onnx"), ((16, 32), (64, 128), (256, 512))
    given = {"anchors": anchors if name == "retinaface" else None, "pictures": pictures, "force": True}
    import_detector(file, name, engine="onnx", out=tmp_path / "float", **given)
    done = import_detector(
        file, name, engine="tflite", precision="int8", calibrate=pictures, out=tmp_path / "int8", **given
    )
    stay = done.notes[0].split("stay float: ")[1]
    assert ("ef_input" in stay) == (name == "retinaface")
    # What reads the picture, be it behind the convolution that takes the mean, and the heads.
    assert "int8: 4 layers" in done.notes[0]
    picture = cv2.imread(str(pictures / "0.png"))
    exact, rounded = (edgeface.load(tmp_path / each, size=128).raw(picture) for each in ("float", "int8"))
    for key, values in exact.items():
        error = float(((values - rounded[key]) ** 2).mean())
        assert 0 < error < 0.01 * float((values**2).mean()), key


def test_an_import_runs_on_cameras_and_boards_and_is_described(
    int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = ["camera", "demo", "--model", str(int8), "--size", "128", "--every-frame", "--max-frames", "3"]
    result = CliRunner().invoke(main, [*camera, "--threads", "1"])
    assert result.exit_code == 0, result.stderr
    assert "3 frames, " in result.stdout
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    result = CliRunner().invoke(main, ["deploy", str(int8), "--device", "host", "--out", str(tmp_path / "there")])
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "there" / "bundle.json").is_file()
    assert "every sha256 there is bundle.json's" in result.stdout
    described = CliRunner().invoke(main, ["models", "info", str(int8)]).stdout
    assert "against tiny.onnx by onnxruntime" in described or "no: see 'edgeface import'" in described
    assert "checkpoint" not in described


def test_a_real_file_in_int8_finds_the_face(tmp_path: Path) -> None:
    if not (DETECTORS / REAL["yunet"]).is_file():
        pytest.skip("the files are not part of the project, and not beside it")
    skimage = pytest.importorskip("skimage.data", reason="needs a real face")
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "astronaut.png"), skimage.astronaut()[:, :, ::-1])
    done = import_detector(
        DETECTORS / REAL["yunet"], "yunet", precision="int8", calibrate=folder, out=tmp_path / "out", pictures=folder
    )
    assert done.bundle.verified
    faces = done.report.sizes[0].faces
    assert faces is not None
    assert (faces.reference, faces.matched, faces.missing, faces.extra) == (1, 1, 0, 0)
    described = CliRunner().invoke(main, ["models", "info", str(tmp_path / "out")]).stdout
    assert "against yunet_n_640_640.onnx by onnxruntime" in described


def test_tflite_and_onnx_find_the_same(tmp_path: Path, pictures: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs the extra 'tflite'")
    file = TINY["scrfd"](tmp_path / "tiny.onnx")
    picture = cv2.imread(str(pictures / "0.png"))
    found = []
    for engine in ("ncnn", "tflite", "onnx"):
        import_detector(file, "scrfd", engine=engine, out=tmp_path / engine, pictures=pictures)
        found.append(edgeface.load(tmp_path / engine, size=128)(picture))
    assert len(found[0]) > 0
    for other in found[1:]:
        np.testing.assert_allclose(found[0].boxes, other.boxes, atol=0.05)


@pytest.mark.parametrize("name", REAL)
def test_real_files_find_the_same_faces(name: str, tmp_path: Path) -> None:
    if not (DETECTORS / REAL[name]).is_file():
        pytest.skip("the files are not part of the project, and not beside it")
    skimage = pytest.importorskip("skimage.data", reason="needs a real face")
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "astronaut.png"), skimage.astronaut()[:, :, ::-1])
    done = import_detector(DETECTORS / REAL[name], name, out=tmp_path / "out", pictures=folder)
    faces = done.report.sizes[0].faces
    assert faces is not None
    assert (faces.reference, faces.matched, faces.missing, faces.extra) == (1, 1, 0, 0)
    assert faces.iou_least > 0.99
    if name == "retinaface":        # whose anchors no file says
        assert done.notes[0].startswith("anchors 10,20/32,64/128,256")


def test_distances_are_in_strides_from_the_cell() -> None:
    anchors = Anchors(np.array([[0, 1, 2, 3]]), np.zeros(1, np.float32))
    assert distance_boxes(Distances(), 0, 8, anchors, np.array([[1, 2, 3, 0.5]], np.float32)).tolist() == [
        [16, 0, 48, 20]
    ]
    points = distance_points(Distances(0.5), 0, 8, anchors, np.tile(np.array([[1, -1]], np.float32), 5))
    assert points[0, 4].tolist() == [36, 12]


def test_cells_bound_the_centre_and_the_size() -> None:
    anchors = Anchors(np.array([[1, 1, 2, 3]]), np.zeros(1, np.float32))
    coding = Cells([[(1, 1), (1, 1)], [(9, 9), (20, 40)]])
    box = cell_boxes(coding, 1, 16, anchors, np.array([[0, 0, 0, 100]], np.float32))
    assert box[0].tolist() == [56 - 10, 40 - 80, 56 + 10, 40 + 80]
    points = cell_points(coding, 1, 16, anchors, np.tile(np.array([[0.5, -0.5]], np.float32), 5))
    assert points[0, 0].tolist() == [48 + 10, 32 - 20]


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_two_scores_become_one(power: float) -> None:
    a, b = np.random.default_rng(0).normal(0, 4, (2, 2, 3, 4)).astype(np.float32)
    joined = joined_score(RawMap(a), RawMap(b), power).real().astype(np.float64)
    expected = (1 / (1 + np.exp(-a.astype(np.float64))) / (1 + np.exp(-b.astype(np.float64)))) ** power
    np.testing.assert_allclose(1 / (1 + np.exp(-joined)), expected, rtol=1e-5)
    far = [RawMap(np.array([[values]], np.float32)) for values in ((200, 200), (200, -200))]
    assert np.isfinite(joined_score(*far, power).real()).all()


def test_anchors_that_no_picture_shows_are_asked_for(tmp_path: Path, pictures: Path) -> None:
    graph = ForeignGraph(TINY["retinaface"](tmp_path / "tiny.onnx"))
    blank = np.full((96, 128, 3), 128, np.uint8)
    original = Original(graph, kind.get("retinaface"), kind.get("retinaface").anchor_sets[0])
    assert original.faces(blank, 1.0, 0.4).scores.size == 0
    with pytest.raises(ConversionError, match="give --anchors, such as 16,32/64,128/256,512 or 10,20"):
        agreeing_anchors(graph, kind.get("retinaface"), [])


def test_what_is_no_known_detector_is_described(tmp_path: Path) -> None:
    file = TINY["scrfd"](tmp_path / "tiny.onnx")
    with pytest.raises(ConversionError, match=r"is no yunet .* looks like scrfd: --as scrfd\. Its outputs are 9 at"):
        import_detector(file, "yunet", out=tmp_path / "out")
    b = foreign_nets.Builder(64, 64)
    b.give(b.conv("data", 3, 5), "logits")
    with pytest.raises(ConversionError, match=r"logits 1x5x64x64\. Kinds: retinaface: .*; yunet: "):
        import_detector(b.save(tmp_path / "other.onnx"), "scrfd", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_options_that_cannot_work(tmp_path: Path) -> None:
    file = TINY["scrfd"](tmp_path / "tiny.onnx")
    with pytest.raises(UnknownTargetError, match="scrfd"):
        import_detector(file, "srcfd")
    with pytest.raises(OptionError, match="give --calibrate a folder"):
        import_detector(file, "scrfd", precision="int8")
    with pytest.raises(OptionError, match="made for ncnn and tflite: give one of these"):
        import_detector(file, "scrfd", precision="int8", engine="onnx", calibrate=tmp_path)
    with pytest.raises(OptionError, match="--calibrate is for int8"):
        import_detector(file, "scrfd", calibrate=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no pictures in it"):
        import_detector(file, "scrfd", precision="int8", calibrate=tmp_path / "empty", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(OptionError, match="engines are ncnn, tflite, onnx"):
        import_detector(file, "scrfd", engine="openvino")


@pytest.mark.parametrize(("name", "content", "words"), [
    ("net.pth", b"PK\x03\x04....", "a PyTorch checkpoint"),
    ("net.onnx", b"\xff\xd8\xff\xe0 a picture", "not an ONNX file that can be read"),
    ("net.onnx", b"", "not an ONNX file that can be read"),
    ("net.param", b"7767517\n", "no text .param of ncnn that can be read"),
    ("net.param", b"7767517\n1 1\nInput data 0 1 data\n", "a pair needs it beside the .param"),
    ("net.bin", b"", "give the .param beside them"),
    ("net.tflite", b"", "give the ONNX file"),
])
def test_files_that_are_no_onnx(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    result = CliRunner().invoke(main, ["import", str(tmp_path / name), "--as", "scrfd"])
    assert result.exit_code == 8
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_command_writes_a_bundle_and_a_report(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    TINY["yunet"](tmp_path / "my yunet.onnx")
    result = CliRunner().invoke(main, [
        "import", "my yunet.onnx", "--as", "yunet", "--pictures", str(pictures), "--json", "report.json",
    ])
    assert result.exit_code == 0, result.output
    assert "my_yunet-fp32-ncnn" in result.stdout
    assert json.loads((tmp_path / "report.json").read_text())["passed"]
    assert (tmp_path / "my_yunet-fp32-ncnn" / "bundle.json").is_file()
    result = CliRunner().invoke(main, ["import", "my yunet.onnx"])
    assert result.exit_code == 2
    assert "--as yunet" in result.stderr
    # Other commands say where such a file goes.
    result = CliRunner().invoke(main, ["detect", str(pictures), "--model", "my yunet.onnx", "--no-draw"])
    assert result.exit_code == 5
    assert "edgeface import" in result.stderr
