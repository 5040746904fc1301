"""A model that was loaded before a fork: it works in the child, and so does one that is loaded there."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHILD_S = 60
SCRIPT = """
import multiprocessing, sys
import numpy as np, edgeface
engine, before, inside, child_s = sys.argv[1:]
image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
load = lambda threads: edgeface.load("mos_s", engine=engine, threads=int(threads), score=0.05)
detector = load(before[-1])
if before.startswith("ran"):
    here = detector(image)

def look(of):
    used = load(inside) if inside != "same" else detector
    return [used(image).scores.tolist() for _ in range(2)]

with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map_async(look, range(4)).get(int(child_s))
assert all(found[0][0] == scores for both in found for scores in both)
assert detector(image).scores.tolist() == found[0][0] or engine == "torch"
print("ok")
"""


@pytest.mark.parametrize(("engine", "before", "inside"), [
    ("ncnn", "ran-2", "same"), ("ncnn", "loaded-2", "same"), ("ncnn", "ran-2", "2"), ("ncnn", "ran-2", "1"),
    ("ncnn", "ran-1", "2"), ("tflite", "ran-2", "same"), ("torch", "ran-2", "same"), ("torch", "ran-1", "2"),
])
def test_a_forked_process_finds_what_its_parent_finds(engine: str, before: str, inside: str) -> None:
    pytest.importorskip({"tflite": "ai_edge_litert", "torch": "torch"}.get(engine, "ncnn"))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, engine, before, inside, str(CHILD_S)], capture_output=True,
        text=True, timeout=4 * CHILD_S,
    )
    assert done.stdout.strip() == "ok", done.stderr[-2000:]
