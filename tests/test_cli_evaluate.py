"""``edgeface evaluate`` as a user runs it, with a detector that says what each test wants, and with a real network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

import edgeface
from edgeface.cli import main
from edgeface.faces import Faces

A, B, C = [10.0, 10.0, 30.0, 40.0], [50.0, 10.0, 70.0, 40.0], [10.0, 50.0, 15.0, 57.0]
NOWHERE = [80.0, 60.0, 95.0, 78.0]
FIVE = [[14.0, 20.0], [26.0, 20.0], [20.0, 26.0], [15.0, 32.0], [25.0, 32.0]]  # in A; eyes 12 apart
WIDTH, HEIGHT = 100, 80


def write_set(directory: Path, lines: Sequence[dict[str, Any]]) -> Path:
    """A set of PNG pictures whose first pixel says which one it is."""
    (directory / "images").mkdir(parents=True)
    rows = []
    for index, fields in enumerate(lines):
        image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        image[0, 0, 0] = index
        cv2.imwrite(str(directory / "images" / f"{index}.png"), image)
        rows.append({"image": f"images/{index}.png", "width": WIDTH, "height": HEIGHT, "split": "dev", **fields})
    (directory / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def faces(*detections: tuple[list[float], float], landmarks: Any = None, pose: Any = None) -> Faces:
    return Faces(
        np.array([box for box, _ in detections], np.float32).reshape(-1, 4),
        np.array([score for _, score in detections], np.float32),
        None if landmarks is None else np.array(landmarks, np.float32).reshape(-1, 5, 2),
        None if pose is None else np.array(pose, np.float32).reshape(-1, 3),
    )


class FakeDetector:
    """Gives for each picture what the test laid down for it, and remembers which it saw."""

    def __init__(self, by_picture: Sequence[Faces]) -> None:
        self.bundle = SimpleNamespace(
            name="fake-fp32-none", engine="none", defaults=SimpleNamespace(score=0.7)
        )
        self.seen: list[int] = []
        self._by_picture = by_picture

    def __call__(self, image: np.ndarray) -> Faces:
        index = int(image[0, 0, 0])
        self.seen.append(index)
        return self._by_picture[index]


# What is asked of a cascade, where nothing is.
NO_LIMITS = dict.fromkeys(("refine", "min_face", "thresholds", "candidates"))


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[FakeDetector, dict[str, Any]]]:
    def use(*by_picture: Faces) -> tuple[FakeDetector, dict[str, Any]]:
        detector, asked = FakeDetector(by_picture), dict[str, Any]()

        def load(model: str, **options: Any) -> FakeDetector:
            asked.update(options, model=model)
            return detector

        monkeypatch.setattr(edgeface, "load", load)
        return detector, asked

    return use


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def report_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def test_ap_by_subset_and_height_in_text_and_json(tmp_path: Path, use: Any) -> None:
    data = write_set(
        tmp_path / "wider",
        [
            {"complete": 1, "faces": [{"box": A, "subset": "easy"}, {"box": C, "subset": "hard"}]},
            {"complete": 1, "faces": [{"box": B, "subset": "easy"}, {"box": A}, {"box": NOWHERE, "ignore": 1}]},
            {"complete": 1, "faces": []},
        ],
    )
    # Easy: hit .9, false .8 on the empty picture, hit .7: 1/2 + 1/2 * 2/3. Hard has a third face, never found:
    # 1/3 + 1/3 * 2/3. What lies on the uncounted and the ignored face is not counted.
    _, asked = use(faces((A, 0.9)), faces((A, 0.95), (B, 0.7), (NOWHERE, 0.6)), faces((NOWHERE, 0.8)))
    target = tmp_path / "report.json"
    result = run("some_model", "--data", data, "--json", target)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert asked == {
        "model": "some_model", "engine": None, "threads": 1, "size": 640, "score": 0.02, "nms": 0.4, "device": "cpu",
        **NO_LIMITS,
    }
    report = json.loads(target.read_text())
    ap = report["measures"]["detection"]["ap"]
    assert {name: (row["ap"], row["faces"]) for name, row in ap.items()} == {
        "easy": (pytest.approx(5 / 6), 2), "medium": (pytest.approx(5 / 6), 2), "hard": (pytest.approx(5 / 9), 3),
    }  # fmt: skip
    assert ap["hard"]["recall"] == pytest.approx(2 / 3)
    by_height = report["measures"]["detection"]["ap_by_height_px"]
    assert {name: row["ap"] for name, row in by_height.items()} == {"<8": 0.0, "16-32": pytest.approx(5 / 6)}
    assert {key: report[key] for key in ("model", "engine", "data", "split", "pictures", "size_px")} == {
        "model": "fake-fp32-none", "engine": "none", "data": "wider", "split": "dev", "pictures": 3, "size_px": 640,
    }  # fmt: skip
    assert set(report["measures"]["not_measured"]) == {
        "attributes", "classes", "landmarks", "pose", "false_alarms", "mask_recall",
    }
    text = result.stdout
    assert text.startswith("fake-fp32-none (none) on wider, dev part, 3 pictures\nlongest side 640 px, score >= 0.02")
    easy, hard = (next(line for line in text.splitlines() if name in line.split()) for name in ("easy", "hard"))
    assert easy.split() == ["easy", "0.833", "1.000", "2"]
    assert hard.split() == ["hard", "0.556", "0.667", "3"]


def test_a_set_without_subsets_counts_all_faces(tmp_path: Path, use: Any) -> None:
    data = write_set(tmp_path / "masks", [{"complete": 1, "faces": [{"box": A, "mask": "worn"}, {"box": B}]}])
    use(faces((A, 0.9)))
    ap = report_of(run("m", "--data", data, "--json", "-"))["measures"]["detection"]["ap"]
    assert ap == {"all": {"ap": 0.5, "recall": 0.5, "faces": 2}}


def test_only_complete_pictures_count_for_ap(tmp_path: Path, use: Any) -> None:
    lines = [{"complete": 1, "faces": [{"box": A}]}, {"complete": 0, "faces": [{"box": A, "landmarks": FIVE}]}]
    data = write_set(tmp_path / "mixed", lines)
    # In the second picture the better detection may be a face that nobody annotated.
    use(faces((A, 0.5), landmarks=[FIVE]), faces((B, 0.9), (A, 0.4), landmarks=[FIVE, FIVE]))
    measures = report_of(run("m", "--data", data, "--json", "-"))["measures"]
    assert measures["detection"]["ap"] == {"all": {"ap": 1.0, "recall": 1.0, "faces": 1}}
    assert (measures["landmarks"]["faces"], measures["landmarks"]["found"]) == (1, 1)


def test_crops_give_landmark_and_pose_error_of_the_face_annotated(tmp_path: Path, use: Any) -> None:
    pose = [5.0, -10.0, 1.0]
    moved = (np.array(FIVE) + np.array([0.6, 0])).tolist()  # 0.6 of 12: 5 %
    data = write_set(
        tmp_path / "crops",
        [
            {"complete": 0, "faces": [{"landmarks": FIVE, "pose": pose}]},
            {"complete": 0, "faces": [{"box": A, "landmarks": FIVE, "pose": pose}]},
            {"complete": 0, "faces": [{"box": A, "landmarks": FIVE, "pose": pose, "teacher": 1}]},
        ],
    )
    far = [[0.0, 0.0]] * 5
    use(
        # The better score is another face in the same crop: the annotated one is evaluated.
        faces((B, 0.9), (A, 0.3), landmarks=[far, moved], pose=[[90, 90, 90], [8, -14, 3]]),
        faces((B, 0.9), landmarks=[far], pose=[[90, 90, 90]]),
        faces((A, 0.9), landmarks=[far], pose=[[90, 90, 90]]),
    )
    result = run("m", "--data", data, "--size", "320", "--json", "-")
    measures = report_of(result)["measures"]
    assert measures["detection"] is None
    landmarks = measures["landmarks"]
    assert (landmarks["faces"], landmarks["found"], landmarks["missed_share"]) == (2, 1, 0.5)
    assert landmarks["nme_percent"] == pytest.approx(5, abs=1e-3)
    assert landmarks["over_10_share"] == 0
    assert landmarks["failure_share"] == 0.5
    assert (measures["pose"]["faces"], measures["pose"]["found"]) == (2, 1)
    assert [measures["pose"][f"{axis}_deg"] for axis in ("pitch", "yaw", "roll", "mean")] == pytest.approx([3, 4, 2, 3])
    text = run("m", "--data", data).stdout
    assert "five landmarks" in text
    assert "1 of 2 faces found" in text
    assert "NME 5.00 %" in text
    assert "not found 50.0%" in text
    lines = [line.strip() for line in text.splitlines()]
    head = lines.index("head pose, mean absolute error in degrees, 1 of 2 faces found")
    assert lines[head + 1] == "pitch error 3.00 (a constant 0.00), correlation -, slope -"
    assert lines[head + 4] == "mean  3.00; not found 50.0%"
    assert "nose height between eyes (0) and mouth (1): error 0.000" in text
    assert "detection not measured: no complete picture with annotated boxes" in text


def test_masks_and_sunglasses_are_counted_at_the_model_s_threshold(tmp_path: Path, use: Any) -> None:
    data = write_set(tmp_path / "masks", [
        {"complete": 1, "faces": [{"box": A, "mask": "worn"}, {"box": B, "mask": "none"}, {"box": C, "mask": "worn"}]},
        {"complete": 1, "faces": [{"box": A, "mask": "incorrect"}, {"box": B, "sunglasses": 1, "teacher": 1}]},
    ])
    found = faces((A, 0.9), (B, 0.8))
    given = {"mask": np.array([0.7, 0.65], np.float32), "sunglasses": np.array([0.1, 0.1], np.float32)}
    use(*(Faces(found.boxes, found.scores, attributes=given, thresholds={"mask": 0.6}) for _ in range(2)))
    attributes = report_of(run("m", "--data", data, "--json", "-"))["measures"]["attributes"]
    assert list(attributes) == ["mask"]
    mask = attributes["mask"]
    assert (mask["faces"], mask["found"], mask["threshold"]) == (3, 2, 0.6)
    assert mask["overall"] == {"faces": 2, "positives": 1, "accuracy": 0.5, "balanced_accuracy": 0.5, "auc": 1.0}
    assert (mask["incorrect"], mask["incorrect_as_worn"]) == (1, 1.0)
    text = run("m", "--data", data).stdout
    assert "mask, yes from 0.6, 2 of 3 faces found" in text
    assert "longer side 16-32 px" in text
    assert "of 1 masks worn wrongly, 100.0% of those found count as worn" in text


def test_a_model_without_attributes_says_so(tmp_path: Path, use: Any) -> None:
    data = write_set(tmp_path / "masks", [{"complete": 0, "faces": [{"box": A, "mask": "worn"}]}])
    use(faces((A, 0.9)))
    measures = report_of(run("m", "--data", data, "--json", "-"))["measures"]
    assert measures["attributes"] is None
    assert measures["not_measured"]["attributes"] == "the model gives no mask"


def test_a_model_without_landmarks_and_pose_says_so(tmp_path: Path, use: Any) -> None:
    data = write_set(tmp_path / "crops", [{"complete": 0, "faces": [{"landmarks": FIVE, "pose": [0, 0, 0]}]}])
    use(faces((A, 0.9)))
    measures = report_of(run("m", "--data", data, "--json", "-"))["measures"]
    assert measures["landmarks"] is measures["pose"] is None
    assert measures["not_measured"]["landmarks"] == measures["not_measured"]["pose"] == "the model gives none"


def test_false_faces_on_pictures_without_any(tmp_path: Path, use: Any) -> None:
    data = write_set(tmp_path / "grounds", [{"complete": 1, "faces": []}] * 4)
    use(faces((A, 0.9), (B, 0.5), (C, 0.49)), faces(), faces(), faces((A, 0.02)))
    result = run("m", "--data", data, "--json", "-")
    assert report_of(result)["measures"]["false_alarms"] == {
        "pictures": 4, "score": 0.5, "false_faces": 2, "per_100_pictures": 50.0, "default_score": 0.7,
        "per_100_at_default": 25.0,
    }  # fmt: skip
    says = "2 in 4 pictures without faces, 50.0 in 100; at the model's own 0.7: 25.0 in 100"
    assert says in run("m", "--data", data).stdout


@pytest.mark.parametrize(
    "fields",
    [
        {"complete": 1, "faces": [{"box": A, "landmarks": FIVE, "teacher": 1}]},
        {"complete": 1, "faces": [{"box": A, "ignore": 1}]},
        {"complete": 0, "faces": [{"smile": 1}]},
        {"complete": 0, "faces": []},
    ],
)
def test_a_set_with_nothing_of_its_own_to_measure_is_refused(tmp_path: Path, use: Any, fields: dict[str, Any]) -> None:
    data = write_set(tmp_path / "set", [fields])
    detector, asked = use(faces())
    result = run("m", "--data", data)
    assert result.exit_code == 4
    assert result.stdout == ""
    assert result.stderr.startswith(f"edgeface: {data / 'annotations.jsonl'}: nothing to measure in its dev part (")
    assert result.stderr.count("\n") == 1
    assert detector.seen == []
    assert asked == {}


def test_boxes_of_wider_are_its_own_beside_teacher_landmarks(tmp_path: Path, use: Any) -> None:
    face = {"box": A, "landmarks": FIVE, "subset": "easy", "teacher": 1}
    data = write_set(tmp_path / "wider", [{"complete": 1, "split": "train", "faces": [face]}])
    use(faces((A, 0.9), landmarks=[FIVE]))
    measures = report_of(run("m", "--data", data, "--split", "train", "--json", "-"))["measures"]
    assert measures["detection"]["ap"]["easy"]["ap"] == 1.0
    assert measures["not_measured"]["landmarks"] == "no landmarks of the source's own"


def test_limit_takes_pictures_from_all_over_the_part(tmp_path: Path, use: Any) -> None:
    data = write_set(tmp_path / "set", [{"complete": 1, "faces": [{"box": A}]}] * 9)
    detector, _ = use(*[faces((A, 0.9))] * 9)
    report = report_of(run("m", "--data", data, "--limit", "3", "--json", "-"))
    assert detector.seen == [0, 3, 6]
    assert (report["pictures"], report["pictures_of_split"]) == (3, 9)
    assert "3 of 9 pictures" in run("m", "--data", data, "--limit", "3").stdout
    detector.seen.clear()
    assert report_of(run("m", "--data", data, "--limit", "99", "--json", "-"))["pictures"] == 9
    assert detector.seen == list(range(9))


def test_options_reach_the_detector(tmp_path: Path, use: Any) -> None:
    data = write_set(tmp_path / "set", [{"complete": 1, "faces": [{"box": A}]}])
    _, asked = use(faces())
    options = ["--size", "320", "--score", "0.1", "--nms", "0.3", "--engine", "onnx", "--threads", "2"]
    report = report_of(run("m", "--data", data, *options, "--json", "-"))
    assert asked == {
        "model": "m", "engine": "onnx", "threads": 2, "size": 320, "score": 0.1, "nms": 0.3, "device": "cpu",
        **NO_LIMITS,
    }
    assert (report["size_px"], report["score"], report["nms_iou"]) == (320, 0.1, 0.3)
    # Nothing was found: an AP of 0, and not a failure.
    assert report["measures"]["detection"]["ap"]["all"] == {"ap": 0.0, "recall": 0.0, "faces": 1}


@pytest.mark.parametrize(
    ("damage", "exit_code", "says"),
    [
        ("line", 4, "annotations.jsonl, line 2: not JSON"),
        ("size", 4, "1.png: is 50x40, its annotation says 100x80"),
        ("eyes", 4, "1.png: the eyes of an annotated face are one point"),
        ("cut short", 3, "1.png"),
    ],
)
def test_a_bad_picture_or_line_ends_it_and_leaves_no_report(
    tmp_path: Path, use: Any, damage: str, exit_code: int, says: str
) -> None:
    points = [[5.0, 5.0]] * 5 if damage == "eyes" else FIVE
    face = {"box": A, "landmarks": FIVE}
    lines = [{"complete": 1, "faces": [face]}, {"complete": 1, "faces": [{**face, "landmarks": points}]}]
    data = write_set(tmp_path / "set", lines)
    second = data / "images" / "1.png"
    if damage == "line":
        annotations = data / "annotations.jsonl"
        annotations.write_text(annotations.read_text()[:-20] + "\n")
    elif damage == "size":
        cv2.imwrite(str(second), np.full((40, 50, 3), 1, np.uint8))
    elif damage == "cut short":
        second.write_bytes(second.read_bytes()[:60])
    use(faces((A, 0.9), landmarks=[FIVE]), faces())
    target = tmp_path / "out" / "report.json"
    target.parent.mkdir()
    result = run("m", "--data", data, "--json", target)
    assert result.exit_code == exit_code
    assert says in result.stderr
    assert result.stderr.startswith("edgeface: ")
    assert result.stderr.count("\n") == 1
    assert list(target.parent.iterdir()) == []


def test_a_report_that_cannot_be_written_is_known_before_the_work(tmp_path: Path, use: Any) -> None:
    data = write_set(tmp_path / "set", [{"complete": 1, "faces": [{"box": A}]}])
    detector, _ = use(faces())
    result = run("m", "--data", data, "--json", tmp_path / "none" / "report.json")
    assert result.exit_code == 10
    assert str(tmp_path / "none" / "report.json") in result.stderr
    assert detector.seen == []


def test_precision_and_recall_at_the_model_s_own_score_and_the_score_of_a_wanted_precision(
    tmp_path: Path, use: Any
) -> None:
    data = write_set(tmp_path / "set", [{"complete": 1, "faces": [{"box": A}, {"box": B, "ignore": 1}]}] * 2)
    # .9 hit, .8 on an ignored face, .75 invented, .6 hit, .55 a second box on the same face.
    use(faces((A, 0.9), (B, 0.8), (NOWHERE, 0.75)), faces((A, 0.6), (A, 0.55)))
    operating = report_of(run("m", "--data", data, "--suggest-score", "--json", "-"))["measures"]["operating"]
    assert operating["at_default"] == {
        "score": 0.7, "precision": 0.5, "recall": {"all": 0.5}, "detections": 2, "false_faces": 1,
    }
    half = operating["at_half"]
    assert (half["precision"], half["recall"], half["false_faces"]) == (0.5, {"all": 1.0}, 2)
    assert operating["suggested"]["score"] == pytest.approx(0.9)
    assert operating["suggested"]["recall"] == {"all": 0.5}
    text = run("m", "--data", data, "--suggest-score", "0.6").stdout
    assert next(line for line in text.splitlines() if "precision 0.6" in line).split() == [
        "precision", "0.6", "0.600", "0.667", "1", "1.000",
    ]
    use(faces((NOWHERE, 0.9)), faces())
    assert "no score has a precision of 0.95" in run("m", "--data", data, "--suggest-score").stdout


def test_recall_of_masked_faces_is_at_the_model_s_own_score(tmp_path: Path, use: Any) -> None:
    people = [{"box": A, "mask": "worn"}, {"box": B, "mask": "worn"}, {"box": C, "mask": "none"}]
    data = write_set(tmp_path / "masks", [{"complete": 1, "faces": people}])
    use(faces((A, 0.71), (B, 0.69), (C, 0.9)))
    recall = report_of(run("m", "--data", data, "--json", "-"))["measures"]["mask_recall"]
    assert recall["worn"] == {"score": 0.7, "faces": 2, "share": 0.5, "by_side_px": {"16-32": [2, 0.5]}}
    assert recall["none"] == {"score": 0.7, "faces": 1, "share": 1.0, "by_side_px": {}}
    assert "found at score >= 0.7, by the mask" in run("m", "--data", data).stdout


def test_several_sets_are_one_line_of_json_each(tmp_path: Path, use: Any) -> None:
    first = write_set(tmp_path / "one", [{"complete": 1, "faces": [{"box": A}]}])
    second = write_set(tmp_path / "two", [{"complete": 1, "faces": []}])
    use(faces((A, 0.9)))
    result = run("m", "--data", first, "--data", second, "--json", "-")
    assert [json.loads(line)["data"] for line in result.stdout.splitlines()] == ["one", "two"]


def test_missing_data_and_unknown_model(tmp_path: Path) -> None:
    result = run("mos_s", "--data", tmp_path / "none")
    assert result.exit_code == 4
    assert "no such folder" in result.stderr
    data = write_set(tmp_path / "set", [{"complete": 1, "faces": [{"box": A}]}])
    result = run("no_such_model", "--data", data)
    assert result.exit_code == 2
    assert "no model 'no_such_model'" in result.stderr


def test_a_real_network_from_its_checkpoint(tmp_path: Path, tiny_checkpoint: Path) -> None:
    face = {"box": A, "landmarks": FIVE, "pose": [0, 0, 0]}
    data = write_set(tmp_path / "set", [{"complete": 1, "faces": [face]}, {"complete": 1, "faces": []}])
    report = report_of(run(tiny_checkpoint, "--data", data, "--size", "96", "--threads", "1", "--json", "-"))
    assert (report["model"], report["engine"], report["pictures"]) == ("tiny", "torch", 2)
    measures = report["measures"]
    assert 0 <= measures["detection"]["ap"]["all"]["ap"] <= 1
    assert measures["landmarks"]["faces"] == measures["pose"]["faces"] == 1
    assert set(measures["not_measured"]) == {"attributes", "classes", "false_alarms", "mask_recall"}
