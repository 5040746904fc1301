"""bundle.json: what is written is what is read, and everything else is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundle_files import DENSE, edit, make
from edgeface.bundle import (
    MANIFEST,
    read_bundle,
)
from edgeface.errors import BundleError, BundleHashError


def test_read_gives_back_what_was_written(tmp_path: Path) -> None:
    bundle = make(tmp_path)
    assert read_bundle(tmp_path) == bundle
    assert read_bundle(tmp_path).dense == DENSE


def test_the_manifest_is_json_that_people_can_read(tmp_path: Path) -> None:
    make(tmp_path)
    text = (tmp_path / MANIFEST).read_text()
    assert json.loads(text)["stages"][0]["kind"] == "dense"
    assert json.loads(text)["stages"][1]["gather"]["kind"] == "points"
    assert text.startswith('{\n  "schema": 2,\n')
    assert text.endswith("}\n")


@pytest.mark.parametrize("name", [*DENSE.files, "pose16.bin"])
def test_a_changed_file_is_named(tmp_path: Path, name: str) -> None:
    make(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BundleHashError, match=rf"{re.escape(str(tmp_path / name))}: sha256 .*copy the bundle again"):
        read_bundle(tmp_path)
    assert read_bundle(tmp_path, verify=False).name == "mos_s-fp32-ncnn"


def test_a_file_of_another_size_is_not_read(tmp_path: Path) -> None:
    make(tmp_path)
    with (tmp_path / "pose8.bin").open("r+b") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(BundleHashError, match=r"pose8\.bin: 1099511627776 bytes are not the 900 of bundle\.json"):
        read_bundle(tmp_path)


def test_a_manifest_has_a_largest_size(tmp_path: Path) -> None:
    make(tmp_path)
    with (tmp_path / MANIFEST).open("ab") as stream:
        stream.write(b" " * (1 << 20))
    with pytest.raises(BundleError, match=r"bundle\.json: .* bytes are more than"):
        read_bundle(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "pose8.bin").unlink()
    with pytest.raises(BundleError, match=r"pose8\.bin: No such file"):
        read_bundle(tmp_path)


def test_a_directory_without_a_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=rf"{tmp_path}: no bundle\.json there"):
        read_bundle(tmp_path)
    with pytest.raises(BundleError, match=r"no bundle\.json there"):
        read_bundle(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=r"no bundle\.json there"):
        read_bundle(tmp_path / "file")


def test_a_manifest_cut_short_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    raw = (tmp_path / MANIFEST).read_bytes().rstrip()
    for cut in range(0, len(raw), 7):
        (tmp_path / MANIFEST).write_bytes(raw[:cut])
        with pytest.raises(BundleError, match=r"bundle\.json: .*copy the bundle again"):
            read_bundle(tmp_path)


@pytest.mark.parametrize(
    "raw", [b"\xff\xfe", b'{"schema": "\xff"}', b"[]", b"null", b"1", b"[" * 100_000, b"\x00" * 10]
)
def test_what_is_no_json_object_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(raw)
    with pytest.raises(BundleError, match=r"bundle\.json: "):
        read_bundle(tmp_path)


@pytest.mark.parametrize("schema", [0, 3, "1", None])
def test_another_schema_is_refused(tmp_path: Path, schema: object) -> None:
    make(tmp_path)
    edit(tmp_path, lambda b: b.update(schema=schema))
    with pytest.raises(BundleError, match=re.escape(f"schema {schema!r}, this edgeface reads 1 and 2")):
        read_bundle(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: b.pop("licence"), "licence"),
        (lambda b: b.update(colour="red"), "colour"),
        (lambda b: b.update(precision="fp8"), "fp8"),
        (lambda b: b.update(stages=[]), "the stages (none) are no pipeline"),
        (lambda b: b["stages"].reverse(), "the stages points, dense are no pipeline"),
        (lambda b: b["stages"].append(b["stages"][0]), "at most one on points"),
        (lambda b: b["stages"].append(b["stages"][1]), "at most one on points"),
        (lambda b: b["stages"][0].update(kind="sparse"), "sparse"),
        (lambda b: b["stages"][0].update(levels=[]), "levels"),
        (lambda b: b["stages"][0].update(multiple=0), "multiple"),
        (lambda b: b["stages"][0]["levels"][0].update(stride=-8), "stride"),
        (lambda b: b["stages"][0]["levels"][0].update(anchors_px=[]), "anchors_px"),
        (lambda b: b["stages"][0]["levels"][0].update(anchors_px=[16, -32]), "anchors_px"),
        (lambda b: b["stages"][0]["levels"][0].update(landmarks=None), "some levels have landmarks"),
        (lambda b: b["stages"][0]["features"].pop(), "points need features features16 of stride 16"),
        (lambda b: b["stages"][0]["features"][0].update(stride=16), "points need features features8 of stride 8"),
        (lambda b: b["stages"][0]["features"][0].update(channels=0), "channels"),
        (lambda b: b["stages"][1]["outputs"].clear(), "outputs"),
        (lambda b: b["stages"][1]["gather"].update(kind="polygons"), "polygons"),
        (lambda b: b["stages"][0].update(files=["other.bin"]), "stage file 'other.bin' is not under 'files'"),
        (lambda b: b["stages"][1]["files"].pop(), "1 nets on points of 2 maps for 2 levels"),
        (lambda b: b["defaults"].update(score=1.5), "score"),
        (lambda b: b["defaults"].update(size_px=2**31), "size_px"),
        (lambda b: b["stages"][0].update(multiple=2**63), "multiple"),
        (lambda b: b["stages"][0].update(mean=1e300), "mean"),
        (lambda b: b["stages"][0]["levels"][0].update(stride=10**30), "stride"),
        (lambda b: b["stages"][0]["levels"][0].update(anchors_px=[16] * 1000), "anchors_px"),
        (lambda b: b["stages"][1].update(patch=10**6), "patch"),
        (lambda b: b["stages"][1].update(bins=10**9), "bins"),
        (lambda b: b["files"][0].update(size_bytes=-1), "size_bytes"),
        (lambda b: b["defaults"].update(size_px=0), "size_px"),
    ],
)
def test_a_contradiction_is_named(tmp_path: Path, change: Callable[[dict[str, Any]], object], reason: str) -> None:
    make(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(BundleError, match=rf"bundle\.json: .*{re.escape(reason)}"):
        read_bundle(tmp_path)


@pytest.mark.parametrize("name", ["../dense.bin", "/etc/passwd", "sub/dense.bin", ".hidden", "", "bundle.json", "a\0b"])
def test_a_file_outside_the_directory_is_refused(tmp_path: Path, name: str) -> None:
    make(tmp_path)
    edit(tmp_path, lambda b: b["files"][0].update(name=name))
    with pytest.raises(BundleError, match="is not a plain name"):
        read_bundle(tmp_path)
