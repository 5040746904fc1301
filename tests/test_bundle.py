"""bundle.json: what is written is what is read, and everything else is refused by name."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from edgeface.bundle import (
    MANIFEST,
    Binary,
    Bins,
    Box,
    Bundle,
    Crops,
    Defaults,
    DenseStage,
    FaceStage,
    Landmarks,
    Level,
    Map,
    Points,
    Score,
    describe_file,
    read_bundle,
    sha256_of,
    whole,
    write_manifest,
    writing,
)
from edgeface.cli import main
from edgeface.errors import BundleError, BundleHashError, OutputError
from edgeface.runtime import catalog

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
        (lambda b: b["stages"][1]["gather"].update(kind="regions"), "regions"),
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


def test_writing_puts_a_bundle_in_place(tmp_path: Path) -> None:
    place = tmp_path / "new" / "bundle"
    with writing(place) as work:
        bundle = make(work)
        assert not place.exists()
    assert read_bundle(place) == bundle
    assert [p.name for p in place.parent.iterdir()] == ["bundle"]
    assert place.stat().st_mode & 0o777 == 0o755


def test_writing_replaces_a_bundle_whole(tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    make(place)
    (place / "left-over.txt").write_text("")
    with writing(place) as work:
        bundle = replace(make(work), licence="another")
        write_manifest(work, bundle)
    assert read_bundle(place).licence == "another"
    assert not (place / "left-over.txt").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_writing_fills_an_empty_directory(tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    place.mkdir()
    with writing(place) as work:
        make(work)
    assert read_bundle(place).model == "mos_s"


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    place = tmp_path / "bundle"
    before = make(place)

    def fail() -> None:
        with writing(place) as work:
            (work / "half.bin").write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert read_bundle(place) == before
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with writing(tmp_path / "bundle") as work:
            (work / "half.bin").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match=r"bundle: .*No space left"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_when_the_last_step_fails_the_old_bundle_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "bundle"
    before = make(place)
    move = Path.replace

    def refuse_the_new(self: Path, target: Path) -> Path:
        if target == place and (self / "new.bin").exists():
            raise OSError(errno.EIO, "Input/output error")
        return move(self, target)

    def write() -> None:
        with writing(place) as work:
            make(work)
            (work / "new.bin").write_text("")

    monkeypatch.setattr(Path, "replace", refuse_the_new)
    with pytest.raises(OutputError, match="Input/output error"):
        write()
    assert read_bundle(place) == before
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_writing_never_replaces_what_is_no_bundle(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "photo.jpg").write_text("mine")
    with pytest.raises(OutputError, match="exists and is not a bundle"), writing(folder):
        pass
    with pytest.raises(OutputError, match=r"photo\.jpg: cannot be written"), writing(folder / "photo.jpg"):
        pass
    with pytest.raises(OutputError, match="cannot be written"), writing(folder / "photo.jpg" / "bundle"):
        pass
    assert (folder / "photo.jpg").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


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
    edit(directory, lambda b: b.update(
        schema=1, stages=[*OLD_STAGES, OLD_CROPS], files=[msgspec.to_builtins(file) for file in files]
    ))
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
