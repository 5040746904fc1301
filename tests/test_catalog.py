"""What a model argument means: a file or folder here, or what comes with the package."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from edgeface import weights
from edgeface.bundle import read_bundle, write_manifest
from edgeface.cli import main
from edgeface.errors import BundleError, EdgefaceError, OptionError, UnknownModelError
from edgeface.runtime import catalog

NAME = "mos_s-fp16-ncnn"
BOARDS = "mos_s-int8-ncnn"
# The forms of mos_s that a clone has.
FORMS = (NAME, BOARDS, "mos_s-int8-tflite")


@pytest.fixture
def shelf(tmp_path: Path, tiny_bundle: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of edgeface/weights, with a bundle and two checkpoints; the current folder is empty."""
    folder = tmp_path / "weights"
    shutil.copytree(tiny_bundle, folder / NAME)
    for name in ("mos_s.pt", "mos_s_qat.pt"):
        shutil.copyfile(tiny_checkpoint, folder / name)
    monkeypatch.setattr(weights, "directory", lambda: folder)
    monkeypatch.setattr(weights, "DEFAULTS", {"mos_s": NAME})
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


@pytest.fixture
def board_shelf(shelf: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As ``shelf``, as a board has it."""
    shutil.rmtree(shelf)
    _copy(tiny_bundle, shelf / BOARDS)
    monkeypatch.setattr(weights, "DEFAULTS", {"mos_s": BOARDS, "tfn": "tfn-int8-ncnn"})
    monkeypatch.setattr(weights, "figures", lambda: dict.fromkeys([*FORMS, "tfn-int8-ncnn"]))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return shelf


def edgeface(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.mark.parametrize(
    ("model", "engine", "shipped"),
    [
        (NAME, None, NAME),
        ("mos_s", None, NAME),
        ("mos_s", "torch", "mos_s.pt"),
        ("mos_s.pt", None, "mos_s.pt"),
        ("mos_s.pt", "torch", "mos_s.pt"),
        ("mos_s_qat.pt", None, "mos_s_qat.pt"),
        ("mos_s_qat", None, "mos_s_qat.pt"),
        ("shipped:mos_s", None, NAME),
        ("shipped:mos_s.pt", None, "mos_s.pt"),
    ],
)
def test_names_in_an_empty_folder(shelf: Path, model: str, engine: str | None, shipped: str) -> None:
    assert catalog.find(model, engine) == shelf / shipped


def test_a_checkpoint_that_is_not_here_is_said_to_be_the_shipped_one(
    shelf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalog.find("mos_s.pt")
    assert caplog.messages == [
        "mos_s.pt: no such file here: taking the checkpoint of that name that comes with edgeface"
    ]


@pytest.mark.parametrize("model", [NAME, "mos_s", "mos_s.pt"])
def test_what_is_here_wins_and_is_said(
    shelf: Path, tiny_bundle: Path, tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture, model: str
) -> None:
    if model.endswith(".pt"):
        shutil.copyfile(tiny_checkpoint, model)
    else:
        shutil.copytree(tiny_bundle, model)
    assert catalog.find(model) == Path(model)
    assert f"taking the {'file' if model.endswith('.pt') else 'folder'} of that name here" in caplog.text
    assert f"shipped:{model}" in caplog.text
    assert catalog.find(f"shipped:{model}").parent == shelf


def test_what_is_only_here_is_said_on_request(
    shelf: Path, tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(tiny_bundle, "door")
    with caplog.at_level(logging.INFO, "edgeface"):
        assert catalog.find("door") == Path("door")
        assert catalog.find("mos_s") == shelf / NAME
    assert [record.levelno for record in caplog.records] == [logging.INFO] * 2
    assert caplog.messages[1] == f"mos_s: taking {shelf / NAME}"


def test_a_path_object_is_a_path(shelf: Path) -> None:
    with pytest.raises(UnknownModelError, match="no such bundle or checkpoint"):
        catalog.find(Path("mos_s.pt"))


def test_a_path_with_folders_is_never_a_shipped_name(shelf: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"runs/mos_s\.pt: no such bundle or checkpoint"):
        catalog.find("runs/mos_s.pt")


def test_a_training_run_is_answered_with_its_checkpoint(shelf: Path) -> None:
    Path("mos_s").mkdir()
    Path("mos_s/mos_s.best.pt").touch()
    with pytest.raises(BundleError, match=r"give mos_s/mos_s\.best\.pt, .* comes with edgeface is shipped:mos_s"):
        catalog.find("mos_s")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("MOS_S", "Did you mean 'mos_s'"),
        ("Mos_S-FP16-ncnn", f"Did you mean '{NAME}'"),
        ("MOS.pt", "no such file here, and no checkpoint 'MOS.pt'. Did you mean 'mos_s.pt'"),
        ("x" * 5000, "no model"),
        ("mos_fast", "comes without weights: train it with 'edgeface train mos_fast', or choose another. Models:"),
        ("face.onnx", "no such bundle or checkpoint"),
        (
            "mos_s-fp32-ncnn",
            f"mos_s-fp32-ncnn does not come with edgeface: take {NAME}, or make it: "
            "edgeface convert mos_s.pt --target ncnn --precision fp32$",
        ),
        ("mos_s-int8-tflite", "or make it: edgeface convert mos_s_qat.pt --target tflite --precision int8$"),
        ("mos_s-int9-ncnn", f"Did you mean '{NAME}'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(shelf: Path, model: str, said: str) -> None:
    with pytest.raises(UnknownModelError, match=said):
        catalog.find(model)


@pytest.mark.parametrize(("model", "engine"), [("mos_s.pt", None), ("mos_s", "torch"), ("shipped:mos_s.pt", "torch")])
def test_a_board_that_has_no_checkpoints_says_where_they_are(shelf: Path, model: str, engine: str | None) -> None:
    for path in shelf.glob("*.pt"):
        path.unlink()
    with pytest.raises(UnknownModelError, match=r"this edgeface has none: .* in edgeface/weights of a clone"):
        catalog.find(model, engine)
    assert catalog.find("mos_s") == shelf / NAME


@pytest.fixture
def installed(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``shelf`` is in "my clone"; what pip installed from there has only a bundle. The folder that pip notes it in."""
    site = tmp_path / "site-packages"
    (site / "edgeface" / "weights").mkdir(parents=True)
    shutil.move(shelf / NAME, site / "edgeface" / "weights" / NAME)
    clone = tmp_path / "my clone"
    (clone / "edgeface").mkdir(parents=True)
    shelf.rename(clone / "edgeface" / "weights")
    monkeypatch.setattr(weights, "directory", lambda: site / "edgeface" / "weights")
    monkeypatch.setattr(weights, "figures", lambda: dict.fromkeys(FORMS))
    note = site / "edgeface-0.1.0.dist-info" / "direct_url.json"
    note.parent.mkdir()
    note.write_bytes(msgspec.json.encode({"dir_info": {}, "url": clone.as_uri()}))
    return note


def test_what_a_wheel_lacks_is_taken_from_the_clone_it_was_installed_from(
    installed: Path, tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = tmp_path / "my clone" / "edgeface" / "weights"
    for name in (NAME, "mos_s-int8-tflite"):
        _copy(tiny_bundle, kept / name)
    assert catalog.find("mos_s.pt") == kept / "mos_s.pt"
    assert caplog.messages[-1].endswith(f"that comes with edgeface, {kept / 'mos_s.pt'}")
    assert catalog.find("mos_s", "tflite") == kept / "mos_s-int8-tflite"
    assert catalog.find(NAME) == weights.directory() / NAME
    assert not catalog.is_for_board()
    shutil.rmtree(tmp_path / "my clone")
    with pytest.raises(UnknownModelError, match=r"has none, and the clone .*/my clone\) is gone: give"):
        catalog.find("mos_s.pt")
    with pytest.raises(UnknownModelError, match=r"to save room, and the clone .*/my clone\) is gone: bring"):
        catalog.find("mos_s", "tflite")


@pytest.mark.parametrize(
    "origin",
    [
        {"archive_info": {}, "url": "file:///edgeface-0.1.0-py3-none-any.whl"},
        {"vcs_info": {"vcs": "git", "commit_id": "0"}, "url": "https://example.org/edgeface.git"},
        None,
    ],
)
def test_an_edgeface_that_came_without_a_clone_has_only_its_own(
    installed: Path, origin: dict[str, object] | None
) -> None:
    if origin is None:
        installed.unlink()
    else:
        installed.write_bytes(msgspec.json.encode(origin))
    assert weights.directories() == [weights.directory()]
    assert catalog.is_for_board()


@pytest.mark.parametrize(
    ("model", "engine", "precision", "lacks"),
    [
        ("mos_s", "tflite", None, "mos_s-int8-tflite"),
        ("mos_s", None, "fp16", "mos_s-fp16-ncnn"),
        ("mos_s-fp16-ncnn", None, None, "mos_s-fp16-ncnn"),
        ("tfn", None, None, "tfn-int8-ncnn"),
        ("tfn-int8-ncnn", None, None, "tfn-int8-ncnn"),
    ],
)
def test_a_board_without_a_bundle_says_how_to_get_it_and_finds_it_then(
    board_shelf: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str,
    engine: str | None, precision: str | None, lacks: str,
) -> None:
    step = rf"{lacks}: this edgeface has no such bundle.*: .* 'edgeface deploy {lacks} --device BOARD', or .* clone"
    with pytest.raises(EdgefaceError, match=step):
        catalog.find(model, engine, precision)
    there = tmp_path / "data" / "edgeface" / "bundles" / lacks
    _copy(tiny_bundle, there)
    shutil.copytree(there, there.with_name(f".{lacks}.receiving"))
    assert catalog.find(model, engine, precision) == there
    assert [entry.name for entry in catalog.deployed()] == [lacks]
    assert catalog.find("mos_s") == board_shelf / BOARDS


@pytest.mark.parametrize(
    ("model", "engine", "precision"), [("mos_s", "tflite", "fp32"), ("mos_s-fp32-tflite", None, None)]
)
def test_a_board_is_not_sent_for_a_bundle_that_comes_with_no_edgeface(
    board_shelf: Path, model: str, engine: str | None, precision: str | None
) -> None:
    step = f"mos_s-fp32-tflite: no edgeface comes with this bundle: take {BOARDS}, or make it .*'edgeface deploy"
    with pytest.raises(EdgefaceError, match=step):
        catalog.find(model, engine, precision)


def test_what_serves_a_board_best_is_passed_by_where_it_is_not_and_taken_where_it_was_deployed(
    board_shelf: Path, tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    best = ["mos_s-int8-tflite", BOARDS]
    assert catalog.find("mos_s", best=best) == board_shelf / BOARDS
    assert caplog.text == ""
    there = tmp_path / "data" / "edgeface" / "bundles" / "mos_s-int8-tflite"
    _copy(tiny_bundle, there)
    assert catalog.find("mos_s", best=best) == there
    assert catalog.find("shipped:mos_s", best=best) == there
    _copy(tiny_bundle, there.with_name(BOARDS))
    assert catalog.find(BOARDS) == board_shelf / BOARDS
    assert [entry.name for entry in catalog.deployed()] == ["mos_s-int8-tflite"]


def _copy(bundle: Path, out: Path) -> None:
    """``bundle`` in the folder ``out``, as what that is called."""
    model, precision, engine = out.name.split("-")
    shutil.copytree(bundle, out)
    write_manifest(out, replace(read_bundle(out), name=out.name, model=model, precision=precision, engine=engine))


def test_what_a_wheel_leaves_out_is_what_the_catalog_takes_it_to_lack() -> None:
    pyproject = msgspec.toml.decode((Path(__file__).parents[1] / "pyproject.toml").read_text())
    excluded = pyproject["tool"]["scikit-build"]["wheel"]["exclude"]
    folders = [each.removesuffix("/**") for each in excluded if each.endswith("/**")]
    names = {entry.name for entry in catalog.shipped()}
    left_out = {name for name in names if any(fnmatch(f"edgeface/weights/{name}", folder) for folder in folders)}
    assert names - left_out == {name for name in names if weights.is_in_wheels(name)}
    assert {name for name in weights.DEFAULTS.values() if not name.startswith("tfn-")} <= names - left_out
    parts = {part for name in names - left_out for part in read_bundle(weights.directory() / name).parts}
    assert parts <= names - left_out


def test_an_engine_that_nothing_is_for(shelf: Path) -> None:
    with pytest.raises(OptionError, match="mos_s does not come with a bundle for the engine onnx"):
        catalog.find("mos_s", "onnx")


def test_convert_as_promised_in_an_empty_folder(shelf: Path) -> None:
    result = edgeface("convert", "mos_s.pt", "--target", "ncnn", "--force")
    assert result.exit_code == 0, result.output
    assert result.stderr == (
        "edgeface: mos_s.pt: no such file here: taking the checkpoint of that name that comes with edgeface\n"
    )
    assert result.stdout.splitlines()[-1] == f"next: edgeface demo --model {NAME}"
    assert Path(NAME, "bundle.json").is_file()
    pytest.importorskip("skimage")
    shown = edgeface("demo", "--model", NAME)
    assert shown.exit_code == 0, shown.output
    assert "taking the folder of that name here" in shown.stderr


def test_the_default_is_not_what_happens_to_lie_here(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    default = weights.DEFAULT_MODEL.removeprefix(weights.SHIPPED)
    monkeypatch.setattr(weights, "DEFAULTS", {default: NAME})
    Path(default).mkdir()
    shown = edgeface("demo")
    assert shown.exit_code == 0, shown.output
    assert shown.stderr == ""


def test_info_takes_a_checkpoint(shelf: Path) -> None:
    result = edgeface("models", "info", "mos_s.pt")
    assert result.exit_code == 0, result.output
    assert "mos_s, width 0.5x, channels 16" in result.stdout
    assert "tests only" in result.stdout


@pytest.mark.parametrize(
    ("options", "shown"),
    [([], False), (["-v"], True), (["-q"], False), (["--log-level", "info"], True), (["--log-level", "Error"], False)],
)
def test_the_log_is_shown_as_asked(shelf: Path, options: list[str], shown: bool) -> None:
    result = edgeface("models", "info", "mos_s", *options)
    assert result.exit_code == 0
    assert (f"edgeface: mos_s: taking {shelf / NAME}\n" == result.stderr) is shown
    assert shown or not result.stderr
    assert edgeface(*options, "models", "info", "mos_s").stderr == result.stderr


def test_quiet_leaves_out_what_is_no_error(shelf: Path) -> None:
    assert edgeface("models", "info", "mos_s.pt", "-q").stderr == ""
    result = edgeface("models", "info", "mos", "-q")
    assert result.exit_code == 2
    assert "Did you mean 'mos_s'" in result.stderr


def test_quiet_and_verbose_exclude_each_other(shelf: Path) -> None:
    result = edgeface("models", "info", "mos_s", "-q", "-v")
    assert result.exit_code == 2
    assert "-q, -v and --log-level exclude each other" in result.stderr
    level = logging.getLogger("edgeface").level
    assert "exclude each other" in edgeface("-q", "models", "info", "mos_s", "-v").stderr
    assert edgeface("-q", "modles").exit_code == 2
    assert logging.getLogger("edgeface").level == level


def test_another_engines_bundle_is_not_replaced_unasked(shelf: Path) -> None:
    shutil.copytree(shelf / NAME, "door")
    write_manifest(Path("door"), replace(read_bundle(Path("door")), engine="tflite"))
    before = Path("door", "bundle.json").read_bytes()
    result = edgeface("convert", "mos_s.pt", "--target", "ncnn", "--out", "door", "-q")
    assert result.exit_code == 2
    assert "door: holds mos_s-fp32-ncnn, a bundle for tflite: choose another --out" in result.stderr
    assert Path("door", "bundle.json").read_bytes() == before


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("-", "-: detect reads files, not a pipe"),
        ("rtsp://user:secret@camera/1", "use 'edgeface camera'"),
        ("https://example.org/a.jpg", "download what is a file"),
        ("0", "for the camera of that number use 'edgeface camera 0'"),
    ],
)
def test_what_detect_does_not_read_is_answered_with_what_does(shelf: Path, source: str, said: str) -> None:
    result = edgeface("detect", "--no-draw", "--", source)
    assert result.exit_code == 3
    assert said in result.stderr
    assert "secret" not in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "says", "command"),
    [
        (b"words", "damaged, or not a checkpoint", ["detect", "x.png", "--model", "mos_s.pt"]),
        (b"\x08\x07\x12\x07pytorch", "an ONNX model, and no checkpoint", ["convert", "mos_s.pt", "--target", "ncnn"]),
    ],
)
def test_a_file_that_is_no_checkpoint_is_told_without_torch(
    here: Path, content: bytes, says: str, command: list[str]
) -> None:
    (here / "mos_s.pt").write_bytes(content)
    (here / "x.png").write_bytes(b"")
    code = (
        "import sys\nfrom edgeface.cli import main\n"
        f"try: main({command!r})\n"
        "except SystemExit as end: assert end.code == 5 and 'torch' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"edgeface: mos_s.pt: {says}")
