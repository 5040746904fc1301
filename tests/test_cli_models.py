"""``edgeface models`` as a user runs it, over copies of a small real bundle."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgeface import weights
from edgeface.bundle import read_bundle
from edgeface.cli import main


@pytest.fixture
def shelf(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of edgeface/weights, with two bundles, one of them the default, and a checkpoint."""
    for name in ("mos_s-fp16-ncnn", "mos_s-fp32-ncnn"):
        shutil.copytree(tiny_bundle, tmp_path / "weights" / name)
    (tmp_path / "weights" / "mos_s.pt").write_bytes(b"12345")
    monkeypatch.setattr(weights, "directory", lambda: tmp_path / "weights")
    monkeypatch.setattr(weights, "DEFAULTS", {"mos_s": "mos_s-fp16-ncnn"})
    return tmp_path / "weights"


def models(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["models", *map(str, arguments)])


def spoil(bundle: Path) -> Path:
    """Change one byte of the largest file."""
    path = max((p for p in bundle.iterdir() if p.suffix == ".bin"), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def keep_figures(shelf: Path, *, is_old: bool = False) -> None:
    """Figures of the bundle mos_s-fp16-ncnn, as docs/make_figures.py keeps them."""
    manifest = (shelf / "mos_s-fp16-ncnn" / "bundle.json").read_bytes()
    sha256 = "0" if is_old else hashlib.sha256(manifest).hexdigest()
    measured = {
        "ap": {"easy": 0.9, "medium": 0.8, "hard": 0.75}, "size_px": 640, "pictures": "9 pictures",
        "mask_recall": {"share": 0.5, "faces": 4, "score": 0.7}, "bundle_sha256": sha256,
    }
    estimate = {"a72_ms": 41.7, "a72_ms_a_face": None, "size_px": [320, 256], "bundle_sha256": sha256}
    content = {"bundles": {"mos_s-fp16-ncnn": {"measured": measured, "estimate": estimate}}}
    (shelf / weights.FIGURES).write_text(json.dumps(content))


def test_list(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "DEFAULT_MODEL", "shipped:mos_s")
    keep_figures(shelf)
    result = models("list")
    assert result.exit_code == 0
    of_models, why, of_bundles, rest = result.stdout.split("\n\n")
    head, model = of_models.splitlines()
    assert head.split() == ["MODEL", "FINDS", "AP", "MASKED", "A72", "ms", "SIZE"]
    assert "boxes, five landmarks, head pose" in model
    assert model.split()[6:11] == [".900", ".800", ".750", "50%", "42"]
    assert "mos_s  for crowds: " in why
    assert result.stdout.count("The default is mos_s: ") == 1
    names = [line.split() for line in of_bundles.splitlines()[1:]]
    assert [words[0] for words in names] == ["mos_s-fp16-ncnn", "mos_s-fp32-ncnn"]
    assert "mos_s" in names[0]      # what the model's name alone means
    assert "mos_s" not in names[1]
    assert "mos_s.pt (0.00 MB)" in rest
    assert "*" not in result.stdout


def test_list_names_classes_without_their_values() -> None:
    shown = models("list").stdout
    [tfn] = [line for line in shown.partition("\n\n")[0].splitlines() if line.startswith("tfn ")]
    assert "68 landmarks, age, gender, ethnicity  " in tfn
    assert "female" not in shown


def test_list_marks_figures_of_a_bundle_that_was_replaced(shelf: Path) -> None:
    keep_figures(shelf, is_old=True)
    shown = models("list").stdout
    assert ".900 .800 .750*" in shown
    assert " 42*" in shown
    assert "* of a bundle of that name that was replaced since." in shown
    row = json.loads(models("list", "--json").stdout)[0]
    assert not row["measured"]["of_this_bundle"]


def test_list_as_json(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "DEFAULT_MODEL", "shipped:mos_s")
    keep_figures(shelf)
    rows = json.loads(models("list", "--json").stdout)
    bundle = read_bundle(shelf / "mos_s-fp16-ncnn")
    estimate = rows[0].pop("estimate")
    assert estimate == {"a72_ms": 41.7, "a72_ms_a_face": None, "size_px": [320, 256], "of_this_bundle": True}
    assert rows[0].pop("measured")["mask_recall"]["share"] == 0.5
    assert rows[0] == {
        "name": "mos_s-fp16-ncnn",
        "model": "mos_s",
        "purpose": weights.PURPOSES["mos_s"],
        "precision": "fp32",
        "engine": "ncnn",
        "size_bytes": sum(f.size_bytes for f in bundle.files),
        "default": True,
        "default_of_model": True,
        "verified": True,
        "finds": ["boxes", "five landmarks", "head pose"],
        "refines": False,
        "licence": "tests only",
        "parity_ap": None,
    }
    assert not rows[1]["default_of_model"]
    assert (rows[2]["name"], rows[2]["size_bytes"], rows[2]["finds"]) == ("mos_s.pt", 5, None)
    assert [set(row) for row in rows[1:]] == [set(rows[1])] * 2


def test_what_ships_has_one_default_and_each_model_a_purpose() -> None:
    rows = json.loads(models("list", "--json").stdout)
    assert [row["name"] for row in rows if row["default"]] == ["mhcnn-int8-ncnn"]
    bundles = [row for row in rows if row["engine"] != "torch"]
    assert all(row["purpose"] and row["estimate"] for row in bundles)


def test_list_shows_the_rest_when_one_is_broken(shelf: Path) -> None:
    (shelf / "mos_s-fp32-ncnn" / "bundle.json").write_text("{")
    result = models("list")
    assert result.exit_code == 6
    assert "mos_s-fp16-ncnn" in result.stdout
    assert "mos_s-fp32-ncnn/bundle.json" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_list_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "directory", lambda: tmp_path)
    result = models("list")
    assert result.exit_code == 0
    assert "No model" in result.stdout
    assert json.loads(models("list", "--json").stdout) == []


def test_info(shelf: Path) -> None:
    result = models("info", "mos_s")
    assert result.exit_code == 0
    assert str(shelf / "mos_s-fp16-ncnn") in result.stdout
    assert "boxes, five landmarks, head pose" in result.stdout
    for entry in read_bundle(shelf / "mos_s-fp16-ncnn").files:
        assert entry.sha256[:16] in result.stdout
        assert entry.name in result.stdout


def test_info_says_what_it_was_verified_against_and_its_own_ap(shelf: Path) -> None:
    from msgspec.structs import replace

    from edgeface.bundle import write_manifest

    directory = shelf / "mos_s-fp32-ncnn"
    bundle = read_bundle(directory)
    shown = models("info", "mos_s-fp32-ncnn").stdout
    assert "verified    against tiny.pt by torch " in shown
    assert "faces the same" in shown
    assert "made" not in shown
    assert "made " in models("info", "mos_s-fp32-ncnn", "--all").stdout
    size = {"size_px": 640, "faces": 5, "faces_matched": 5, "ap": {"easy": [0.9, 0.8], "hard": [0.5, 0.4]}}
    parity = {"reference": "torch 2", "pictures": "100 of 329 pictures", "sizes": [size]}
    write_manifest(directory, replace(bundle, made=bundle.made | {"parity": parity}))
    assert "640 px: AP easy 0.800, hard 0.400 there" in models("info", directory).stdout
    row = json.loads(models("list", "--json").stdout)[1]
    assert row["parity_ap"] == {"size_px": 640, "pictures": "100 of 329 pictures", "easy": 0.8, "hard": 0.4}


def test_info_says_what_was_measured_of_this_very_bundle(shelf: Path) -> None:
    directory = shelf / "mos_s-fp16-ncnn"
    ap = {"easy": 0.7, "medium": 0.6, "hard": 0.5}
    measured = {"ap": ap, "size_px": 640, "pictures": "329 pictures", "mask_recall": {"share": 0.5, "faces": 294}}
    sha256 = hashlib.sha256((directory / "bundle.json").read_bytes()).hexdigest()
    for kept, is_said in ((sha256, True), ("0" * 64, False)):
        figures = {"bundles": {directory.name: {"measured": measured | {"bundle_sha256": kept}}}}
        (shelf / "figures.json").write_text(json.dumps(figures))
        shown = models("info", "mos_s").stdout
        assert ("AP          easy 0.700, medium 0.600, hard 0.500 at 640 px on 329 pictures" in shown) is is_said
        assert ("50% of 294 faces in masks found" in shown) is is_said


def test_info_as_json_is_the_manifest(shelf: Path) -> None:
    document = json.loads(models("info", "mos_s-fp32-ncnn", "--json").stdout)
    assert document.pop("directory") == str(shelf / "mos_s-fp32-ncnn")
    assert document == json.loads((shelf / "mos_s-fp32-ncnn" / "bundle.json").read_text())


def test_info_of_a_folder(tiny_bundle: Path) -> None:
    assert models("info", tiny_bundle).exit_code == 0


def test_unknown_models_are_answered_with_the_choices(shelf: Path) -> None:
    result = models("info", "mos_x")
    assert result.exit_code == 2
    assert result.stderr.startswith("edgeface: no model 'mos_x'. Did you mean 'mos_s'?")
    assert "mos_s-fp32-ncnn" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_checkpoint_that_is_none_is_named(shelf: Path) -> None:
    result = models("info", shelf / "mos_s.pt")
    assert result.exit_code == 5
    assert result.stderr.startswith(f"edgeface: {shelf / 'mos_s.pt'}: ")


def test_a_checkpoint_has_no_hashes_to_verify(shelf: Path) -> None:
    (shelf / "mos_s.pt").write_bytes(b"PK\x03\x04")
    result = models("verify", shelf / "mos_s.pt")
    assert result.exit_code == 6
    assert "not a bundle" in result.stderr


def test_verify_all(shelf: Path) -> None:
    result = models("verify")
    assert result.exit_code == 0
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["mos_s-fp16-ncnn", "mos_s-fp32-ncnn"]


def test_verify_names_the_damaged_file_and_goes_on(shelf: Path) -> None:
    path = spoil(shelf / "mos_s-fp16-ncnn")
    result = models("verify")
    assert result.exit_code == 6
    assert str(path) in result.stderr
    assert "sha256" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout.startswith("mos_s-fp32-ncnn: whole")


def test_verify_as_json(shelf: Path) -> None:
    (shelf / "mos_s-fp32-ncnn" / "dense.param").unlink()
    result = models("verify", "mos_s", "mos_s-fp32-ncnn", "--json")
    assert result.exit_code == 6
    good, bad = json.loads(result.stdout)
    assert good["ok"]
    assert good["error"] is None
    assert not bad["ok"]
    assert "dense.param" in bad["error"]
