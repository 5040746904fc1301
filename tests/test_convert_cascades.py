"""MTCNN and T-CNN through ncnn, TFLite and ONNX: every net on strips and pictures of many sizes, then whole bundles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from edgeface.convert import check_parity, convert, target
from msgspec.structs import replace
from numpy.typing import NDArray

import edgeface
from edgeface.bundle import FaceStage, PyramidStage, Score, describe_file, read_bundle, write_manifest
from edgeface.cli import main
from edgeface.errors import OptionError
from edgeface.images import write_image
from edgeface.int8.modules import set_mode
from edgeface.models.checkpoint import load_checkpoint
from edgeface.models.family import Graph, families
from edgeface.runtime.engines import Options, Session, engine
from edgeface.torch_engine import TorchSession
from lively_mos import scenes
from lively_patches import int8_checkpoint, lively, patches, save_int8, save_lively

MODELS = ("mtcnn", "tcnn")
COUNTS = (1, 2, 3, 16, 17)
SIDES_PX = ((12, 12), (61, 34), (50, 96))       # height, width of pictures for P-Net


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of both models, in float and quantised, and a folder of pictures."""
    where = tmp_path_factory.mktemp("cascades")
    for name in MODELS:
        save_lively(where / f"{name}.pt", name)
        save_int8(where / f"{name}_int8.pt", name)
    (where / "pictures").mkdir()
    for i, scene in enumerate(scenes(3)):
        write_image(where / "pictures" / f"{i}.png", scene)
    return where


def inputs_for(graph: Graph) -> Iterator[NDArray[np.uint8]]:
    """Pictures or strips, uint8 (H, W, 3), that the graph takes, of many sizes."""
    if len(graph.free) == 2:
        for height, width in SIDES_PX:
            yield patches(1, 100, seed=height)[0, :height, :width]
        return
    side = graph.shapes[0][3]
    for count in COUNTS:
        yield np.concatenate(list(patches(count, side, seed=count)))


def run(session: Session, pixels: NDArray[np.uint8], graph: Graph) -> dict[str, NDArray[np.float32]]:
    signed = np.ascontiguousarray(pixels ^ np.uint8(128)).view(np.int8)
    planes = np.ascontiguousarray(((pixels.astype(np.float32) - 128) / 128).transpose(2, 0, 1))
    started = session.run(signed if session.takes == "pixels" else planes)
    return {name: started.output(name) for name in graph.outputs}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target_name", ["ncnn", "tflite"])
def test_int8_is_torch_s_to_the_last_bit(name: str, target_name: str, tmp_path: Path) -> None:
    """On every number of crops, and for P-Net every size of picture, from one file."""
    goal, net = target.get(target_name), int8_checkpoint(name).build()
    set_mode(net, goal.points)
    for graph in families.get(name).graphs(net):
        goal.write(graph, [tmp_path / file for file in goal.files(graph.stem)], "int8")
        session = engine.get(target_name)(tmp_path, goal.files(graph.stem), graph.input, Options(1, "int8"))
        reference = TorchSession(graph, graph.stem, Options())
        for pixels in inputs_for(graph):
            expected, found = run(reference, pixels, graph), run(session, pixels, graph)
            for output in graph.outputs:
                assert np.array_equal(expected[output], found[output]), (graph.stem, output, pixels.shape)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("target_name", "precision"), [("ncnn", "fp32"), ("tflite", "fp32"), ("tflite", "fp16")])
def test_float_with_prelu_is_torch_s_but_for_rounding(
    name: str, target_name: str, precision: str, tmp_path: Path
) -> None:
    goal = target.get(target_name)
    for graph in families.get(name).graphs(lively(name)):
        goal.write(graph, [tmp_path / file for file in goal.files(graph.stem)], precision)
        session = engine.get(target_name)(tmp_path, goal.files(graph.stem), graph.input, Options(1, precision))
        reference = TorchSession(graph, graph.stem, Options())
        for pixels in inputs_for(graph):
            expected, found = run(reference, pixels, graph), run(session, pixels, graph)
            for output in graph.outputs:
                atol = (1e-4 if precision == "fp32" else 1e-2) * max(1.0, float(np.abs(expected[output]).max()))
                np.testing.assert_allclose(found[output], expected[output], rtol=0, atol=atol)


def test_a_cascade_s_bundle_is_verified_and_detects_as_its_checkpoint(folder: Path, tmp_path: Path) -> None:
    done = convert(folder / "mtcnn_int8.pt", "ncnn", out=tmp_path / "mtcnn", pictures=folder / "pictures", size_px=200)
    bundle = read_bundle(tmp_path / "mtcnn")
    assert (bundle.precision, bundle.verified, bundle.defaults.size_px) == ("int8", True, 200)
    assert [file.name for file in bundle.files] == [
        f"{stem}{suffix}" for stem in ("pnet", "rnet", "onet") for suffix in (".param", ".bin")
    ]
    (size,) = done.report.sizes
    assert {each.name for each in size.maps} == {
        "score12", "box12", "score24", "box24", "score48", "box48", "landmarks48"
    }
    assert all(each.sqnr_db is None for each in size.maps)
    assert size.faces is not None
    assert size.faces.pictures == 3
    assert size.faces.matched == size.faces.reference > 0
    paths = tmp_path / "mtcnn", folder / "mtcnn_int8.pt"
    ours, theirs = (edgeface.load(path, size=200, score=0.3)(scenes(1)[0]) for path in paths)
    assert len(ours)
    # The checkpoint rounds every tensor, ncnn what its layers read.
    assert abs(len(ours) - len(theirs)) <= max(1, len(ours) // 2)


def test_thresholds_go_from_the_checkpoint_into_the_bundle(folder: Path, tmp_path: Path) -> None:
    for name in MODELS:
        convert(folder / f"{name}.pt", "tflite", out=tmp_path / name, pictures=folder / "pictures")
    first, second, _ = read_bundle(tmp_path / "mtcnn").stages
    assert isinstance(first, PyramidStage)
    assert isinstance(second, FaceStage)
    assert (first.threshold, [each.threshold for each in second.all_of(Score)]) == (0.5, [0.5])
    bundle = read_bundle(tmp_path / "tcnn")
    (stage,) = bundle.stages
    assert isinstance(stage, FaceStage)
    assert bundle.attributes == {"mask": 0.4, "sunglasses": 0.5, "quality": 0.5}
    assert load_checkpoint(folder / "tcnn.pt").metrics["thresholds"]["mask"] == 0.4


def test_a_refiner_is_compared_by_its_raw_outputs(folder: Path, tmp_path: Path) -> None:
    report = convert(folder / "tcnn_int8.pt", "ncnn", out=tmp_path / "tcnn", pictures=folder / "pictures").report
    assert report.passed
    assert report.sizes[0].faces is None
    assert [each.name for each in report.sizes[0].maps] == [
        "score48", "box48", "landmarks48", "attributes48", "quality48"
    ]
    assert "the model finds none by itself" in report.to_text()
    assert "faces" not in str(report.summary()["sizes"])
    again = check_parity(tmp_path / "tcnn", folder / "tcnn_int8.pt", pictures=folder / "pictures")
    assert again.passed
    against_float = check_parity(tmp_path / "tcnn", folder / "tcnn.pt", pictures=folder / "pictures")
    assert against_float.failures == [
        "a model that finds no faces has no AP to be held against a float one by: give the quantised checkpoint"
    ]
    with pytest.raises(OptionError, match="tcnn looks at crops of 48 px alone: leave --size out"):
        check_parity(tmp_path / "tcnn", folder / "tcnn_int8.pt", size_px=[320])


def test_parity_command_of_a_cascade(folder: Path, tmp_path: Path) -> None:
    convert(folder / "mtcnn_int8.pt", "tflite", out=tmp_path / "mtcnn", pictures=folder / "pictures", size_px=160)
    arguments = ["--reference", str(folder / "mtcnn_int8.pt"), "--data", str(folder / "pictures"), "--size", "120"]
    result = CliRunner().invoke(main, ["parity", str(tmp_path / "mtcnn"), *arguments])
    assert result.exit_code == 0, result.output
    assert "landmarks48" in result.output
    assert "passed" in result.output


def test_a_damaged_net_is_found_by_its_layer(folder: Path, tmp_path: Path) -> None:
    convert(folder / "mtcnn.pt", "ncnn", precision="fp32", out=tmp_path / "m", pictures=folder / "pictures")
    bundle = read_bundle(tmp_path / "m")
    weights = bytearray((tmp_path / "m" / "rnet.bin").read_bytes())
    # The last bytes are those of the box's bias and weights.
    weights[-400:-200] = np.full(50, 3.0, np.float32).tobytes()
    (tmp_path / "m" / "rnet.bin").write_bytes(weights)
    files = [describe_file(tmp_path / "m" / file.name) for file in bundle.files]
    write_manifest(tmp_path / "m", replace(bundle, files=files))
    report = check_parity(tmp_path / "m", folder / "mtcnn.pt", pictures=folder / "pictures")
    assert not report.passed
    assert report.walk is not None
    assert report.walk.departure is not None
    assert report.walk.departure.net == "the net on crops of 24 px"
    assert not report.walk.departure.same_weights


def test_what_does_not_convert(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is not quantised, so it has no scales for int8"):
        convert(folder / "mtcnn.pt", "ncnn", precision="int8", out=tmp_path / "m")
    with pytest.raises(OptionError, match="tcnn looks at crops of 48 px alone"):
        convert(folder / "tcnn.pt", "ncnn", out=tmp_path / "t", size_px=320)
    with pytest.raises(OptionError, match="refines the faces of one"):
        edgeface.load(folder / "tcnn.pt")
    assert not list(tmp_path.iterdir())
