"""Which bundle serves a board best: chosen, kept in its description, and taken where a model is meant."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from edgeface.devices import boards, recognised
from edgeface.devices.emulation.identity import identity_files, write_identity
from edgeface.devices.machine import machine
from edgeface.devices.serving import Candidate, average_precision, bundles_of, choose, keep_best, with_best

from edgeface import weights
from edgeface.bundle import read_bundle
from edgeface.cli import main
from edgeface.errors import DeviceError, OptionError
from edgeface.runtime import catalog, preference
from edgeface.runtime.preference import Preference, preference_here

SHIPPED = ("rk3399", "rk3588", "rpi4", "rpi5")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a user's own descriptions, which is not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    preference_here.cache_clear()
    return tmp_path / "config" / "edgeface" / "devices"


@pytest.fixture
def served(own: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What serves this machine best, to be filled in."""
    best: dict[str, list[str]] = {}
    monkeypatch.setattr(catalog, "preference_here", lambda: Preference("door", best))
    return best


def candidate(name: str, ms: float, ap: float | None = None) -> Candidate:
    _, precision, engine = name.split("-")
    return Candidate(name, engine, precision, ms, ap)


def on(board: str, root: Path) -> Path:
    write_identity(identity_files(boards.find(board)), root)
    return root


def test_the_fastest_serves_best_unless_it_finds_less() -> None:
    slow, fast = candidate("mos_s-fp16-ncnn", 60.0, 0.76), candidate("mos_s-int8-tflite", 20.0, 0.755)
    assert choose("mos_s", [slow, fast], "estimate").best == ["mos_s-int8-tflite", "mos_s-fp16-ncnn"]
    worse = msgspec.structs.replace(fast, ap=0.70)
    found = choose("mos_s", [slow, worse], "estimate")
    assert (found.best, found.candidates[0]) == (["mos_s-fp16-ncnn"], worse)
    assert "find as many" in found.why


def test_a_small_difference_leaves_the_default() -> None:
    default, faster = candidate("mos_s-int8-ncnn", 54.0), candidate("mos_s-int8-tflite", 51.0)
    assert choose("mos_s", [default, faster], "estimate").best[0] == default.name
    assert choose("mos_s", [default, faster], "board").best[0] == faster.name


def test_an_unknown_ap_is_that_of_the_same_precision_or_held_against_nobody() -> None:
    known, same = candidate("m-int8-ncnn", 30.0, 0.5), candidate("m-int8-tflite", 10.0)
    better, unknown = candidate("m-fp16-ncnn", 40.0, 0.6), candidate("m-fp32-onnx", 20.0)
    assert choose("m", [known, same, better, unknown], "host").best == ["m-fp32-onnx", "m-fp16-ncnn"]


def test_an_unknown_ap_of_the_fast_form_is_that_of_int8() -> None:
    known, better = candidate("m-int8-tflite", 30.0, 0.5), candidate("m-fp16-ncnn", 40.0, 0.6)
    fast = Candidate("m-int8-fast-ncnn", "ncnn", "int8-fast", 10.0, None)
    assert choose("m", [known, fast, better], "host").best[0] == "m-fp16-ncnn"
    assert choose("m", [msgspec.structs.replace(known, ap=0.6), fast, better], "host").best[0] == fast.name


def test_every_bundle_of_a_model_by_name_or_in_a_folder(tmp_path: Path, tiny_bundle: Path) -> None:
    assert "shipped:mos_s-fp16-ncnn" in bundles_of("mos_s")
    assert bundles_of("mos_s") == bundles_of("shipped:mos_s")
    with pytest.raises(OptionError, match=r"nobody: no bundles of a model .* choose of maskface, mhcnn"):
        bundles_of("nobody")
    with pytest.raises(OptionError, match="no bundles in this folder"):
        bundles_of(str(tmp_path))
    shutil.copytree(tiny_bundle, tmp_path / "a")
    assert bundles_of(str(tmp_path)) == [str(tmp_path / "a")]
    shutil.copytree(weights.directory() / "tcnn-int8-ncnn", tmp_path / "b")
    with pytest.raises(OptionError, match="several models"):
        bundles_of(str(tmp_path))


def test_ap_is_the_bundle_s_own_or_that_which_was_measured_of_the_shipped_one() -> None:
    of = {entry.name: average_precision(entry.read()) for entry in catalog.shipped()}
    own = read_bundle(weights.directory() / "mos_s-fp16-ncnn").metrics["wider_dev_640px"]["medium"]
    assert of["mos_s-fp16-ncnn"] == own
    assert of["mhcnn-int8-ncnn"] == weights.figures()["mhcnn-int8-ncnn"]["measured"]["ap"]["medium"]
    assert of["tcnn-int8-ncnn"] is None


def test_what_a_description_says_of_the_best_is_replaced_and_nothing_else() -> None:
    text = '# mine\nextends = "rk3399"\n\n[best]\n# old\nmos_s = ["a"]\n\n[[clusters]]\ncpus = [0]\n'
    after = with_best(text, {"mos_s": ["b", "c"], "tcnn": ["d"]})
    assert msgspec.toml.decode(after) == {
        "extends": "rk3399", "clusters": [{"cpus": [0]}], "best": {"mos_s": ["b", "c"], "tcnn": ["d"]},
    }
    assert after.startswith("# mine\n")
    assert after.count("[best]") == 1
    assert with_best(after, {"mos_s": ["b", "c"], "tcnn": ["d"]}) == after


def test_a_choice_is_kept_beside_those_that_ship_and_those_of_before(own: Path) -> None:
    board = boards.find("rk3399")
    for model, name in (("mos_s", "mos_s-fp16-ncnn"), ("x", "x-int8-ncnn")):
        path = keep_best(board, choose(model, [candidate(name, 1.0)], "board"))
    assert path == own / "rk3399.toml"
    assert boards.find("rk3399").best == board.best | {"mos_s": ["mos_s-fp16-ncnn"], "x": ["x-int8-ncnn"]}
    assert boards.find("rk3399").clusters == board.clusters


def test_a_description_that_is_no_toml_is_not_written_over(own: Path) -> None:
    own.mkdir(parents=True)
    (own / "rk3399.toml").write_text("extends = ")
    with pytest.raises(DeviceError, match="not TOML"):
        boards.find("rk3399")
    assert (own / "rk3399.toml").read_text() == "extends = "


@pytest.mark.parametrize("name", SHIPPED)
def test_what_a_shipped_board_is_served_best_by_comes_with_edgeface(name: str) -> None:
    shipped = {entry.name: entry.read().model for entry in catalog.shipped()}
    for model, names in boards.find(name).best.items():
        assert [shipped.get(each) for each in names] == [model] * len(names)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_board_is_recognised_by_its_processors(own: Path, tmp_path: Path, name: str) -> None:
    found = recognised.recognised(machine(on(name, tmp_path)).clusters)
    assert found is not None
    assert found.name == name


def test_a_board_of_the_user_s_own_goes_first_and_a_wrong_one_is_passed_by(
    own: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own.mkdir(parents=True)
    (own / "zebra.toml").write_text('extends = "rpi4"\n[best]\nmos_s = ["mos_s-fp16-ncnn"]\n')
    (own / "aardvark.toml").write_text("threads = 0\n")
    found = recognised.preference(True, on("rpi4", tmp_path / "root"))
    assert (found.board, found.best["mos_s"]) == ("zebra", ["mos_s-fp16-ncnn"])
    assert "aardvark.toml" in caplog.text


def test_what_was_kept_for_this_very_machine_goes_before_its_board(own: Path, tmp_path: Path) -> None:
    own.mkdir(parents=True)
    (own / "host.toml").write_text('[best]\nmos_s = ["mos_s-int8-tflite"]\n')
    found = recognised.preference(True, on("rk3399", tmp_path / "root"))
    assert found.best == boards.find("rk3399").best | {"mos_s": ["mos_s-int8-tflite"]}
    assert preference_here().best == {"mos_s": ["mos_s-int8-tflite"]}
    assert recognised.preference(False, tmp_path / "nothing") == Preference("host", {"mos_s": ["mos_s-int8-tflite"]})


def test_a_machine_like_no_board_takes_the_defaults_and_says_so(
    own: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with caplog.at_level(logging.INFO, "edgeface"):
        assert preference_here() == Preference()
        assert catalog.find("mos_s").name == weights.DEFAULTS["mos_s"]
    assert "processors of no board that is described: a model means its default bundle" in caplog.text
    assert f"taking {weights.directory() / weights.DEFAULTS['mos_s']}" in caplog.text
    preference_here.cache_clear()


def test_a_model_means_what_serves_best_unless_something_else_is_asked_for(served: dict[str, list[str]]) -> None:
    served["mos_s"] = ["mos_s-fp16-ncnn", "mos_s-int8-tflite"]
    assert catalog.find("shipped:mos_s").name == "mos_s-fp16-ncnn"
    assert catalog.find("mos_s", precision="int8").name == "mos_s-int8-tflite"
    assert catalog.find("mos_s", "ncnn").name == "mos_s-fp16-ncnn"
    assert catalog.find("mos_s", "ncnn", "int8").name == "mos_s-int8-ncnn"
    assert catalog.find("mos_s-int8-ncnn").name == "mos_s-int8-ncnn"
    assert catalog.find("tcnn").name == weights.DEFAULTS["tcnn"]
    assert catalog.find("mos_s", best=["mos_s-int8-tflite"]).name == "mos_s-int8-tflite"


@pytest.mark.parametrize("name", ["mos_s-int4-ncnn", "tcnn-int8-ncnn"])
def test_a_best_bundle_that_is_not_installed_is_named_and_the_next_one_taken(
    served: dict[str, list[str]], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    assert catalog.find("mos_s", best=[name, "mos_s-fp16-ncnn"]).name == "mos_s-fp16-ncnn"
    assert f"no bundle {name} of that model" in caplog.text
    served["mos_s"] = [name, "mos_s-int8-tflite"]
    assert catalog.find("mos_s").name == "mos_s-int8-tflite"
    assert f"door.toml: best: mos_s: no bundle {name} of that model comes with edgeface" in caplog.text


def test_a_best_bundle_whose_engine_is_not_installed_is_passed_by(
    served: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    served["mos_s"] = ["mos_s-int8-tflite"]
    monkeypatch.setattr(preference, "find_spec", lambda _module: None)
    assert catalog.find("mos_s").name == weights.DEFAULTS["mos_s"]


@pytest.mark.parametrize(("arguments", "said"), [
    (["mos_s", "--keep-best"], "--keep-best keeps what --all finds"),
    (["mos_s", "tcnn", "--all"], "--all compares the engines of one model"),
    (["mos_s", "--all", "--engine", "ncnn"], "--all compares the engines of one model"),
    (["mos_s", "--all", "--plot", "x.png"], "--all does not count"),
    (["nobody", "--all"], "no bundles of a model of that name"),
])
def test_options_that_do_not_fit_end_at_once(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["bench", *arguments])
    assert result.exit_code == 2
    assert said in result.output


def test_a_model_is_compared_here_and_the_best_of_it_kept(own: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "bundles" / "a")
    report = tmp_path / "report.json"
    result = CliRunner().invoke(main, [
        "bench", str(tmp_path / "bundles"), "--all", "--keep-best", "--size", "64", "--rounds", "1",
        "--json", str(report),
    ])
    assert result.exit_code == 0, result.output
    bundle = read_bundle(tiny_bundle)
    assert f"{bundle.name} serves best: the fastest" in result.output
    # Nobody watches here, and still it says how far it is.
    assert "a: opened, 1 of 1\n1 bundle, " in result.stderr
    assert msgspec.json.decode(report.read_bytes())["choice"]["best"] == [bundle.name]
    assert boards.find("host").best == {bundle.model: [bundle.name]}
