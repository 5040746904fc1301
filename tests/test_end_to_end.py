"""The whole road on a few pictures, as a user walks it: train, convert, load, detect; and training in two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

import edgeface
from edgeface.cli import main
from edgeface.models.checkpoint import load_checkpoint
from edgeface.runtime.nms import iou
from edgeface.training.plots import read_log
from tiny_data import FACE_BOX, write_tiny_data

SETTINGS = (
    "options.width=0.5x", "canvases=[{size_px=128, batch=4, share=1.0}]", "data.workers=0", "data.paste=0.0",
    "data.weights={wider=1.0}", "data.native=1.0", "run.dev_pictures=1", "run.dev_size_px=160", "run.precision=fp32",
    "data.turn=0.0", "feedback.every_epochs=0", "feedback.stitch_below=0.0", "optimiser.warmup_steps=5",
    "optimiser.ema_decay=0.9", "run.epoch_steps=1000",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, astronaut: NDArray[np.uint8]) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"), astronaut)


def edgeface_command(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result


def test_train_convert_load_detect(data: Path, tmp_path: Path, astronaut: NDArray[np.uint8]) -> None:
    run, cache, bundle = tmp_path / "run", tmp_path / "cache", tmp_path / "mos_s-fp32-ncnn"
    edgeface_command("train", "mos_s", *SETTINGS, "run.steps=60", "--data", data, "--out", run, "--cache", cache)
    weights = run / "mos_s.last.pt"

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    small = cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(pictures / "astronaut.png"), small)
    report = edgeface_command(
        "convert", weights, "--target", "ncnn", "--precision", "fp32", "--pictures", pictures, "--out", bundle
    )
    assert "passed" in report.output

    edgeface_command("models", "verify", bundle)
    detector = edgeface.load(bundle, size=256, score=0.02)
    faces = detector(small.astype(np.uint8))
    # 60 steps on this one face are enough to place it, whatever its score.
    truth = np.array(FACE_BOX, np.float32) / 2
    centres = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
    inside = ((centres > truth[:2]) & (centres < truth[2:])).all(1)
    assert inside[:3].any(), (faces.boxes[:3], truth)

    quantised = tmp_path / "mos_s_qat.pt"
    edgeface_command(
        "quantize", weights, *SETTINGS[1:], "run.steps=4", "optimiser.learning_rate=0.0001", "--pictures", "4",
        "--data", data, "--out", quantised, "--cache", cache,
    )
    for target in ("ncnn", "tflite"):
        out = tmp_path / target
        report = edgeface_command("convert", quantised, "--target", target, "--pictures", pictures, "--out", out)
        assert "passed" in report.output
        int8 = edgeface.load(out, size=256, score=0.02)(small.astype(np.uint8))
        assert iou(int8.boxes, faces.boxes[:1]).max() > 0.5

    lines = tmp_path / "faces.jsonl"
    edgeface_command(
        "detect", pictures, "--model", bundle, "--size", "256", "--score", "0.02", "--no-draw", "--json", lines
    )
    record = json.loads(lines.read_text())
    assert record["width"] == record["height"] == 256
    # Threads change the order of sums, so the last digits may differ.
    assert len(record["faces"]) == pytest.approx(len(faces), abs=2)
    assert record["faces"][0]["box"] == pytest.approx(faces.boxes[0].tolist(), abs=0.5)


def test_two_processes_train_one_network(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "edgeface", "train", "mos_s", *SETTINGS,
        "run.steps=3", "run.epoch_steps=2", "feedback.every_epochs=1", "--data", str(data),
        "--out", str(run), "--cache", str(tmp_path / "cache"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert load_checkpoint(run / "mos_s.last.pt").made["processes"] == 2
    assert [e["kind"] for e in read_log(run / "log.jsonl")].count("start") == 1
