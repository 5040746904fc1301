"""Bundles of schema 1, which are read as schema 2, and bundles whose files lie in another beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from bundle_files import DENSE, POSE, edit, make
from edgeface.bundle import (
    MANIFEST,
    Binary,
    Box,
    Bundle,
    Crops,
    FaceStage,
    Landmarks,
    Score,
    describe_file,
    read_bundle,
    sha256_of,
    whole,
    write_manifest,
)
from edgeface.cli import main
from edgeface.errors import BundleError, BundleHashError
from edgeface.runtime import catalog

OLD_STAGES = [
    {
        "kind": "dense", "files": DENSE.files, "input": "data", "mean": 128.0, "scale": 1 / 128, "multiple": 32,
        "variances": [0.1, 0.2],
        "levels": [
            {
                "stride": stride, "anchors_px": anchors, "score": f"score{stride}", "box": f"box{stride}",
                "landmarks": f"landmarks{stride}", "features": f"features{stride}",
            }
            for stride, anchors in ((8, [16.0, 32.0]), (16, [64.0, 128.0]))
        ],
    },
    {
        "kind": "pose_at_points", "files": POSE.files, "input": "patches", "logits": "logits", "patch": 3, "bins": 66,
        "bin_deg": 3.0, "first_centre_deg": -97.5,
    },
]
OLD_CROPS = {
    "kind": "crops", "files": ["tcnn.bin"], "input": "data", "mean": 128.0, "scale": 1 / 128, "size_px": 48,
    "margin": 1.2, "score": "score", "box": "box", "threshold": 0.05, "nms_iou": 0.4, "limit": 200, "scores": "mean",
    "landmarks": "landmarks",
    "attributes": [{"name": "mask", "output": "attributes", "channel": 1, "threshold": 0.4}],
}


def make_old(directory: Path) -> Bundle:
    """As ``make``, with the manifest that the first edgeface wrote, and T-CNN behind it."""
    bundle = make(directory)
    (directory / "tcnn.bin").write_bytes(b"tcnn")
    files = [*bundle.files, describe_file(directory / "tcnn.bin")]

    def as_it_was(manifest: dict[str, Any]) -> None:
        manifest.update(schema=1, stages=[*OLD_STAGES, OLD_CROPS], files=[msgspec.to_builtins(file) for file in files])
        del manifest["fast"]

    edit(directory, as_it_was)
    crops = FaceStage(
        [["tcnn.bin"]], "data", Crops(128.0, 1 / 128, 48, 1.2),
        [
            Score("score", 0.05, 0.4, "mean"), Box("box"), Landmarks("landmarks"),
            Binary("mask", "attributes", 1, 0.4),
        ],
        200,
    )
    return replace(bundle, stages=[*bundle.stages, crops], files=files)


def test_schema_1_is_read_as_schema_2(tmp_path: Path) -> None:
    assert make_old(tmp_path) == read_bundle(tmp_path)


def test_upgrade_writes_what_was_read_and_nothing_else(tmp_path: Path) -> None:
    bundle = make_old(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = CliRunner().invoke(main, ["models", "upgrade", str(tmp_path)])
    assert (result.exit_code, result.output) == (0, f"{tmp_path}: is of schema 2 now\n")
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert json.loads(after[MANIFEST])["schema"] == 2
    assert read_bundle(tmp_path) == bundle
    assert {name for name in before | after if before.get(name) != after.get(name)} == {MANIFEST}
    assert "is of this schema already" in CliRunner().invoke(main, ["models", "upgrade", str(tmp_path)]).output
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == after


def test_a_damaged_bundle_is_not_upgraded(tmp_path: Path) -> None:
    make_old(tmp_path)
    (tmp_path / "tcnn.bin").write_bytes(b"other")
    before = (tmp_path / MANIFEST).read_bytes()
    result = CliRunner().invoke(main, ["models", "upgrade", str(tmp_path)])
    assert result.exit_code == 6
    assert "tcnn.bin: 5 bytes are not the 4" in result.output
    assert (tmp_path / MANIFEST).read_bytes() == before


@pytest.mark.parametrize(("change", "reason"), [
    (lambda b: b["stages"][0]["levels"][0].update(features=None), "points need features"),
    (lambda b: b["stages"][1].update(files=[["pose8.bin"]]), "1 nets on points of 2 maps for 2 levels"),
    (lambda b: b["stages"][2].update(scores="sum"), "sum"),
    (lambda b: b["stages"][2]["attributes"].append(OLD_CROPS["attributes"][0]), "two attributes have the name mask"),
    (lambda b: b["stages"].pop(0), "are no pipeline"),
    (lambda b: b.update(stages="none"), "stages"),
])
def test_a_contradiction_in_schema_1_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    make_old(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(BundleError, match=rf"bundle\.json: .*{re.escape(reason)}"):
        read_bundle(tmp_path)


def test_files_of_a_bundle_beside_it_are_found_and_checked(tmp_path: Path) -> None:
    bundle = make(tmp_path / "parts")
    (tmp_path / "all").mkdir()
    named = replace(bundle, name="all", files=[replace(file, part="parts") for file in bundle.files])
    write_manifest(tmp_path / "all", named)
    assert read_bundle(tmp_path / "all") == named
    assert named.folder(tmp_path / "all", DENSE.files) == tmp_path / "parts"
    assert "part" not in json.loads((tmp_path / "parts" / MANIFEST).read_text())["files"][0]
    with whole(tmp_path / "all") as complete:
        assert complete.name == "all"
        assert read_bundle(complete).parts == []
        assert {path.name for path in complete.iterdir()} == {MANIFEST, *(file.name for file in bundle.files)}
    assert not complete.exists()
    with whole(tmp_path / "parts") as complete:
        assert complete == tmp_path / "parts"
    (tmp_path / "parts" / "dense.bin").write_bytes(b"other")
    with pytest.raises(BundleHashError, match=rf"{re.escape(str(tmp_path / 'parts' / 'dense.bin'))}: 5 bytes are not"):
        read_bundle(tmp_path / "all")
    (tmp_path / "parts" / "dense.bin").unlink()
    with pytest.raises(BundleError, match=r"dense\.bin: No such file.*copy the bundle and parts beside it again"):
        read_bundle(tmp_path / "all")


@pytest.mark.parametrize("part", ["../parts", "/etc", "..", ".hidden", "", "a/b"])
def test_a_part_elsewhere_is_refused(tmp_path: Path, part: str) -> None:
    make(tmp_path / "bundle")
    edit(tmp_path / "bundle", lambda b: b["files"][0].update(part=part))
    with pytest.raises(BundleError, match="is not a plain name: do not use this bundle"):
        read_bundle(tmp_path / "bundle")


def test_each_net_lies_in_the_package_once() -> None:
    known: dict[tuple[str, int], str] = {}
    for entry in catalog.shipped():
        for file in entry.read().files:
            if file.part is None and file.size_bytes > 10_000:
                other = known.setdefault((file.sha256, file.size_bytes), entry.name)
                assert other == entry.name, f"{file.name} of {entry.name} lies in {other} as well: combine by reference"
    mhcnn = read_bundle(catalog.find("mhcnn-int8-ncnn"))
    assert mhcnn.parts == ["mos_s-int8-ncnn", "tcnn-int8-ncnn"]
    for source in mhcnn.made["sources"]:
        assert source["sha256"] == sha256_of(catalog.find(source["name"]) / MANIFEST)
