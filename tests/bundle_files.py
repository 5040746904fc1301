"""A bundle on disk without nets: files of any bytes, and the manifest that fits them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeface.bundle import (
    MANIFEST,
    Bins,
    Bundle,
    Defaults,
    DenseStage,
    FaceStage,
    Level,
    Map,
    Points,
    describe_file,
    write_manifest,
)

DENSE = DenseStage(
    ["dense.param", "dense.bin"], "data", 128.0, 1 / 128, 32,
    [
        Level(8, [16.0, 32.0], "score8", "box8", "landmarks8"),
        Level(16, [64.0, 128.0], "score16", "box16", "landmarks16"),
    ],
    (0.1, 0.2), [Map("features8", 8), Map("features16", 16)],
)  # fmt: skip
POSE = FaceStage(
    [["pose8.param", "pose8.bin"], ["pose16.param", "pose16.bin"]], "patches", Points(["features8", "features16"], 3),
    [Bins("logits", 66, 3.0, -97.5)],
)


def make(directory: Path) -> Bundle:
    directory.mkdir(parents=True, exist_ok=True)
    names = [*DENSE.files, *(name for files in POSE.files for name in files)]
    for name in names:
        (directory / name).write_bytes(name.encode() * 100)
    bundle = Bundle(
        2, "mos_s-fp32-ncnn", "mos_s", "fp32", "ncnn", [DENSE, POSE], Defaults(640, 0.5, 0.4),
        [describe_file(directory / name) for name in names], "research", {"ap": {"easy": 0.5}}, {"steps": 10}, True,
    )  # fmt: skip
    write_manifest(directory, bundle)
    return bundle


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change bundle.json as a person with an editor would."""
    content = json.loads((directory / MANIFEST).read_text())
    change(content)
    (directory / MANIFEST).write_text(json.dumps(content))
