"""Bundles made of bundles: a detector with a refinement behind it, and a cascade with other limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from numpy.typing import NDArray

import edgeface
from bright_nets import ATTRIBUTES, DEFAULTS, ONET, PYRAMID, RNET, TCNN, bundle, on_crops, tcnn_stage
from edgeface.bundle import (
    Binary,
    Bins,
    Bundle,
    DenseStage,
    FaceStage,
    Level,
    Map,
    Points,
    PoseFromPoints,
    Score,
    describe_file,
    file_sets,
    read_bundle,
    sha256_of,
    write_manifest,
)
from edgeface.bundle.combining import combine, combined, remaining
from edgeface.cli import main
from edgeface.errors import BundleError, OptionError, OutputError
from edgeface.faces import Faces
from edgeface.runtime.limits import Limits, limited

DENSE = DenseStage(["dense"], "data", 128.0, 1 / 128, 32, [Level(32, [64.0], "s", "b")], (0.1, 0.2), [Map("f", 32)])
POSE = FaceStage([["pose"]], "patches", Points(["f"], 1), [Bins("logits", 66, 3.0, -97.5)])
MOS, MTCNN, REFINEMENT = bundle(DENSE, name="mos"), bundle(PYRAMID, RNET, ONET, name="mtcnn"), bundle(TCNN, name="tcnn")


def written(folder: Path, what: Bundle, **changes: Any) -> Path:
    """A bundle with files of its own content."""
    folder.mkdir(parents=True)
    names = [name for stage in what.stages for files in file_sets(stage) for name in files]
    for name in names:
        (folder / name).write_text(f"{what.name} {name}")
    write_manifest(folder, replace(what, files=[describe_file(folder / name) for name in names], **changes))
    return folder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def test_a_refined_detector_is_both_one_after_the_other() -> None:
    both = combined(bundle(DENSE, POSE, name="mos"), REFINEMENT)
    assert both.stages == [DENSE, POSE, TCNN]
    assert both.defaults == DEFAULTS
    assert (both.name, both.verified) == ("mos+tcnn", True)
    assert both.attributes == {"mask": 0.6, "quality": 0.5}
    assert both.gives_landmarks
    assert not combined(MOS, replace(REFINEMENT, verified=False)).verified
    assert combined(MTCNN, REFINEMENT).stages == [PYRAMID, RNET, ONET, TCNN]


@pytest.mark.parametrize(("detector", "refinement", "reason"), [
    (MOS, MTCNN, "mtcnn refines nothing, it is a detector"),
    (MOS, MOS, "mos refines nothing"),
    (REFINEMENT, REFINEMENT, "tcnn is no detector"),
    (combined(MOS, REFINEMENT), REFINEMENT, r"mos\+tcnn has a refinement already: leave tcnn out"),
    (MOS, replace(REFINEMENT, engine="other"), "tcnn is for the engine other, mos for fake"),
])
def test_what_does_not_go_together_is_named(detector: Bundle, refinement: Bundle, reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        combined(detector, refinement)


def test_limits_are_put_into_the_stages() -> None:
    made = limited(MTCNN, Limits(40.0, (0.1, 0.2), 7))
    assert made.stages == [
        replace(PYRAMID, min_face_px=40.0, threshold=0.1, limit=7),
        on_crops("rnet", 24, Score("score", 0.2, nms_iou=0.7), 7),
        replace(ONET, limit=7),
    ]
    assert limited(MTCNN, Limits()) == MTCNN
    # After a dense stage it is the threshold of what comes to the stage on crops.
    refined = limited(combined(MOS, REFINEMENT), Limits(thresholds=(0.05,)))
    assert refined.stages == [DENSE, tcnn_stage(*ATTRIBUTES, threshold=0.05)]


@pytest.mark.parametrize(("what", "limits", "reason"), [
    (MOS, Limits(min_face_px=20), "mos has no image pyramid, .*choose a model such as mtcnn"),
    (MOS, Limits(thresholds=(0.5,)), "mos is no cascade, it has one threshold, its score"),
    (MOS, Limits(candidates=5), "mos is no cascade, its candidates have no limit"),
    (MTCNN, Limits(min_face_px=0.5), "a smallest face of 0.5 pixels cannot work: choose 1 to 8192"),
    (MTCNN, Limits(min_face_px=float("nan")), "a smallest face of nan"),
    (MTCNN, Limits(thresholds=()), "mtcnn has 2 stages before its last, not 0: give 2 thresholds, as in 0.6,0.6"),
    (MTCNN, Limits(thresholds=(0.5, 0.5, 0.5)), "not 3: give 2 thresholds"),
    (MTCNN, Limits(thresholds=(0.5, 1.5)), "threshold 1.5 cannot work: choose 0 to 1"),
    (MTCNN, Limits(thresholds=(float("nan"), 0.5)), "threshold nan cannot work"),
    (MTCNN, Limits(candidates=0), "0 candidates cannot work: choose 1 to 5000"),
    (MTCNN, Limits(candidates=5001), "5001 candidates cannot work"),
])
def test_limits_that_cannot_work_are_named(what: Bundle, limits: Limits, reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        limited(what, limits)


def test_a_refinement_that_tells_pose_takes_the_place_of_the_detector_s_pose_nets(tmp_path: Path) -> None:
    tells = replace(TCNN, outputs=[*TCNN.outputs, PoseFromPoints("landmarks")])
    mos = written(tmp_path / "mos", bundle(DENSE, POSE, name="mos"))
    tcnn = written(tmp_path / "tcnn", bundle(tells, name="tcnn"))
    made = combine(mos, tcnn, "mhcnn", tmp_path / "mhcnn")
    assert made.stages == [DENSE, tells]
    assert made.gives_pose
    assert {path.name for path in (tmp_path / "mhcnn").iterdir()} == {"bundle.json", "dense", "tcnn"}
    named = combine(mos, tcnn, "mhcnn", tmp_path / "named", by_reference=True, score=0.25)
    assert (made.defaults.score, named.defaults.score) == (bundle(DENSE).defaults.score, 0.25)
    assert [(file.name, file.part) for file in named.files] == [("dense", "mos"), ("tcnn", "tcnn")]
    assert remaining(bundle(DENSE, POSE, name="mos"), REFINEMENT).stages == [DENSE, POSE]


def test_two_bundles_become_one_that_knows_where_it_came_from(tmp_path: Path) -> None:
    mos, tcnn = written(tmp_path / "mos", MOS, licence="one"), written(tmp_path / "tcnn", REFINEMENT, licence="two")
    result = run("models", "combine", mos, tcnn, "--name", "mhcnn", "--out", tmp_path / "mhcnn-fp32-fake")
    assert result.exit_code == 0, result.output
    assert "mhcnn-fp32-fake, 2 files" in result.output
    made = read_bundle(tmp_path / "mhcnn-fp32-fake")
    assert (made.name, made.model, made.licence) == ("mhcnn-fp32-fake", "mhcnn", "one and two")
    assert made.stages == [DENSE, TCNN]
    assert [(s["name"], s["sha256"]) for s in made.made["sources"]] == [
        ("mos", sha256_of(mos / "bundle.json")), ("tcnn", sha256_of(tcnn / "bundle.json")),
    ]
    assert (tmp_path / "mhcnn-fp32-fake" / "tcnn").read_text() == "tcnn tcnn"


def test_a_bundle_by_reference_names_the_files_of_its_parts(tmp_path: Path) -> None:
    mos, tcnn = written(tmp_path / "mos", MOS), written(tmp_path / "tcnn", REFINEMENT)
    arguments = "models", "combine", mos, tcnn, "--name", "mhcnn", "--by-reference"
    result = run(*arguments, "--out", tmp_path / "mhcnn")
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "mhcnn").iterdir()] == ["bundle.json"]
    made = read_bundle(tmp_path / "mhcnn")
    assert made.parts == ["mos", "tcnn"]
    assert [made.folder(tmp_path / "mhcnn", files).name for stage in made.stages for files in file_sets(stage)] == [
        "mos", "tcnn",
    ]
    assert "those of mos and tcnn beside it" in run("models", "info", tmp_path / "mhcnn").output
    elsewhere = run(*arguments, "--out", tmp_path / "elsewhere" / "mhcnn")
    assert elsewhere.exit_code == 2
    assert "does not lie beside" in elsewhere.output
    assert not (tmp_path / "elsewhere").exists()


def test_what_cannot_be_combined_leaves_nothing_behind(tmp_path: Path) -> None:
    mos, tcnn = written(tmp_path / "mos", MOS), written(tmp_path / "tcnn", REFINEMENT)
    half = written(tmp_path / "half", replace(REFINEMENT, name="half"), precision="fp16")
    same = written(tmp_path / "same", bundle(replace(DENSE, files=["tcnn"]), name="same"))
    damaged = written(tmp_path / "damaged", REFINEMENT)
    (damaged / "tcnn").write_text("something else")
    out = tmp_path / "out"
    for arguments, code, reason in (
        ((mos, half), 2, "mos is fp32 and half fp16: choose two of one precision"),
        ((same, tcnn), 2, "same and tcnn both have a file tcnn"),
        ((mos, damaged), 6, "14 bytes are not the 9 of bundle.json"),
        ((mos, mos), 2, "mos refines nothing"),
        ((mos, tmp_path / "nowhere"), 2, "no such bundle"),
    ):
        result = run("models", "combine", *arguments, "--name", "mhcnn", "--out", out)
        assert result.exit_code == code, result.output
        assert reason in result.output
        assert not out.exists()
    with pytest.raises(OptionError, match="is one of the two bundles"):
        combine(mos, tcnn, "mhcnn", mos)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not a bundle"):
        combine(mos, tcnn, "mhcnn", tmp_path / "full")


@pytest.mark.parametrize(("change", "reason"), [
    (lambda b: b["stages"].insert(0, b["stages"].pop()), "crops, pyramid, crops are no pipeline"),
    (lambda b: b["stages"].__delitem__(slice(1, None)), "pyramid are no pipeline"),
    (lambda b: b["stages"][0].update(factor=1.0), "factor"),
    (lambda b: b["stages"][0].update(min_face_px=0), "min_face_px"),
    (lambda b: b["stages"][1]["outputs"][0].update(threshold=1.5), "threshold"),
    (lambda b: b["stages"][1].update(limit=0), "limit"),
    (lambda b: b["stages"][2]["outputs"][0].update(combine="sum"), "sum"),
    (lambda b: b["stages"][1]["outputs"].append(_attribute("mask", 0)), "a stage before the last one has attributes"),
    (lambda b: b["stages"][2]["outputs"].extend([_attribute("mask", 0)] * 2), "two attributes have the name mask"),
    (lambda b: b["stages"][2]["outputs"].extend([_attribute("mask", 0), _attribute("hat", 0)]),
     "two attributes have the channel 0 of attributes"),
    (lambda b: b["stages"][1]["outputs"].pop(), "a stage on crops has no box"),
    (lambda b: b["stages"][1]["outputs"].append({"kind": "box", "output": "b"}), "two outputs of the kind box"),
    (lambda b: b["stages"][1]["outputs"].append(
        {"kind": "bins", "output": "b", "bins": 3, "bin_deg": 1.0, "first_centre_deg": 0.0}
    ), "a stage on crops cannot have bins"),
    (lambda b: b["stages"][2]["outputs"].append({"kind": "landmarks", "output": "other"}), "as many landmarks twice"),
    (lambda b: b["stages"][2]["outputs"].append(
        {"kind": "classes", "name": "age", "output": "age", "classes": ["young", "young"]}
    ), "classes young, young"),
    (lambda b: b["stages"][2]["files"].append(["onet"]), "2 nets on crops for one"),
    (lambda b: b["stages"][2].update(files=[["other"]]), "stage file 'other' is not under 'files'"),
])
def test_a_contradiction_in_a_cascade_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    folder = written(tmp_path / "mtcnn", MTCNN)
    content = json.loads((folder / "bundle.json").read_text())
    change(content)
    (folder / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match=reason):
        read_bundle(folder)


def _attribute(name: str, channel: int) -> dict[str, Any]:
    return {"kind": "binary", "name": name, "output": "attributes", "channel": channel, "threshold": 0.5}


def test_a_bundle_without_a_dense_stage_says_so() -> None:
    with pytest.raises(BundleError, match="mtcnn: has no dense stage"):
        _ = MTCNN.dense


def test_the_description_names_every_stage(tmp_path: Path) -> None:
    both = combined(MTCNN, replace(REFINEMENT, stages=[tcnn_stage(Binary("mask", "a", 0, 0.6))]))
    text = run("models", "info", written(tmp_path / "both", both)).output
    assert "finds       boxes, five landmarks, mask from 0.6" in text
    assert "windows of 12 every 2 px" in text
    assert "faces from 24 px" in text
    assert "score 0.3, 0.5 of it and 0.5 of the one before, at most 20" in text
    assert "refines     boxes" in run("models", "info", written(tmp_path / "alone", REFINEMENT)).output


@pytest.fixture(scope="module")
def tcnn_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """An untrained T-CNN as an fp32 ncnn bundle, made by the real conversion."""
    from edgeface.convert import convert

    from lively_patches import save_lively

    folder = tmp_path_factory.mktemp("refinement")
    checkpoint = save_lively(folder / "tcnn.pt", "tcnn")
    out = folder / "tcnn-fp32-ncnn"
    pictures = tiny_bundle.parent / "pictures"
    return convert(checkpoint, "ncnn", precision="fp32", out=out, pictures=pictures).directory


def test_refining_at_load_time_and_a_combined_bundle_find_the_same(
    tmp_path: Path, tiny_bundle: Path, tcnn_bundle: Path, astronaut: NDArray[np.uint8]
) -> None:
    loaded = edgeface.load(tiny_bundle, refine=tcnn_bundle, threads=1, score=0.3, thresholds=[0.2])
    combine(tiny_bundle, tcnn_bundle, "mhcnn", tmp_path / "mhcnn")
    made = edgeface.load(tmp_path / "mhcnn", threads=1, score=0.3, thresholds=[0.2])
    one, two = loaded(astronaut), made(astronaut)
    assert len(one) > 0
    assert list(one.attributes) == ["mask", "sunglasses", "quality"]
    assert one.thresholds == {"mask": 0.4, "sunglasses": 0.5, "quality": 0.5}
    _same(one, two)
    assert one.pose is not None


def _same(one: Faces, two: Faces) -> None:
    for name in ("boxes", "scores", "landmarks", "pose"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    for name, values in one.attributes.items():
        np.testing.assert_array_equal(values, two.attributes[name])


def test_the_command_line_draws_and_writes_what_the_refinement_tells(
    detect: Callable[..., Result], here: Path, tcnn_bundle: Path, astronaut: NDArray[np.uint8]
) -> None:
    from edgeface.images import write_image

    write_image(here / "a.png", astronaut)
    arguments = ("a.png", "--refine", tcnn_bundle, "--score", "0.3", "--thresholds", "0.2", "--json", "-")
    result = detect(*arguments)
    assert result.exit_code == 0, result.output
    faces = json.loads(result.output)["faces"]
    assert faces
    assert list(faces[0]["attributes"]) == ["mask", "sunglasses", "quality"]
    assert set(faces[0]["present"]) <= set(faces[0]["attributes"])
    few = json.loads(detect(*arguments, "--candidates", "1").stdout)["faces"]
    assert len(few) <= 1 < len(faces)


@pytest.mark.parametrize(("arguments", "reason"), [
    (("--refine", "BUNDLE"), "refines nothing"),
    (("--min-face", "30"), "has no image pyramid"),
    (("--thresholds", "0.5"), "is no cascade"),
    (("--candidates", "3"), "is no cascade"),
    (("--thresholds", "a,b"), "is not numbers with commas between them, as in 0.6,0.7"),
    (("--thresholds", ""), "is not numbers"),
    (("--min-face", "0"), "is not in the range"),
    (("--refine", "no_such_model"), "no model 'no_such_model'"),
])
def test_options_that_cannot_work_are_one_clear_line(
    detect: Callable[..., Result], here: Path, tiny_bundle: Path, arguments: tuple[str, ...], reason: str
) -> None:
    (here / "a.png").write_bytes(b"")
    result = detect("a.png", *(str(tiny_bundle) if a == "BUNDLE" else a for a in arguments))
    assert result.exit_code == 2
    assert reason in result.output
    assert "Traceback" not in result.output


def test_a_refinement_alone_is_no_model_to_detect_with(
    detect: Callable[..., Result], here: Path, tcnn_bundle: Path, astronaut: NDArray[np.uint8]
) -> None:
    from edgeface.images import write_image

    write_image(here / "a.png", astronaut)
    result = detect("a.png", model=tcnn_bundle)
    assert result.exit_code == 2
    assert "is no detector, it refines the faces of one: 'edgeface detect --model mos_s --refine tcnn'" in result.output


def test_boards_time_combined_bundles(tiny_bundle: Path) -> None:
    result = run("bench", tiny_bundle, "--device", "rk3399", "--refine", "tcnn")
    assert result.exit_code == 2
    assert "edgeface models combine" in result.output
