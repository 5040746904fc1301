"""Settings from a TOML file, and ``edgeface camera --check``."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgeface.cli import main
from edgeface.errors import OptionError
from edgeface.runtime.detector_options import DetectorOptions
from edgeface.stream.camera import CameraOptions, _prepared
from edgeface.stream.config import CameraConfig, read_config


def written(folder: Path, text: str) -> Path:
    path = folder / "camera.toml"
    path.write_text(text)
    return path


def check(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["camera", *arguments, "--check"])


@pytest.mark.parametrize(
    ("score", "track", "started_from", "detected_from"),
    [(None, True, 0.6, 0.4), (None, False, 0.6, 0.6), (0.2, True, 0.2, 0.2)],
)
def test_a_face_counts_from_the_model_s_own_score(
    score: float | None, track: bool, started_from: float, detected_from: float
) -> None:
    ready = _prepared(CameraOptions(source="demo", detector=DetectorOptions(model="mos_s", score=score), track=track))
    assert ready.detector.bundle.defaults.score == 0.6
    assert (ready.controls.settings.score, ready.detector.score) == (started_from, detected_from)


def test_only_what_the_file_says_is_set(tmp_path: Path) -> None:
    path = written(tmp_path, '[source]\nsource = "demo"\nloop = true\n[page]\nshow = true\nport = 0\n')
    assert read_config(path) == {"source": "demo", "loop": True, "show": True, "port": 0}
    assert read_config(written(tmp_path, "")) == {}


def test_every_key_is_an_option_and_every_option_that_lasts_is_a_key() -> None:
    from edgeface.cli.camera import command
    from edgeface.cli.verbosity import add_to

    keys = {key for section in CameraConfig.__struct_fields__
            for key in type(getattr(CameraConfig(), section)).__struct_fields__}
    # How much is said comes with every command, once the group has handed the command out.
    options = {parameter.name for parameter in add_to(command).params}
    said = {"quiet", "verbose", "log_level"}
    assert keys <= options
    assert options - keys == {"source_argument", "config", "check_only", "max_frames", "seconds"} | said
    own = {field.name for kind in (CameraOptions, DetectorOptions) for field in fields(kind)}
    assert own - keys == {"detector", "sinks", "max_frames", "seconds"}


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, '[source]\nsource = "demo"\n[detector]\nsize = 320\n')
    done = check("--config", str(path))
    assert (done.exit_code, done.stdout) == (0, "demo by mhcnn-int8-ncnn at 320 pixels, tracked, to standard output\n")
    done = check("--config", str(path), "--size", "160", "--no-track", "--json", "-", "--show")
    assert done.stdout == "demo by mhcnn-int8-ncnn at 160 pixels, not tracked, to json, page\n"


def test_what_the_file_switches_on_the_command_line_can_switch_off(tmp_path: Path) -> None:
    path = written(tmp_path, '[source]\nsource = "demo"\n[page]\nshow = true\n[output]\nblur = true\n')
    assert check("--config", str(path)).stdout.endswith("to page\n")
    assert check("--config", str(path), "--no-show").stdout.endswith("to standard output\n")
    done = check("--config", str(path), "--best-shots", str(tmp_path))
    assert (done.exit_code, done.stdout) == (2, "")
    assert check("--config", str(path), "--best-shots", str(tmp_path), "--no-blur").exit_code == 0


def test_the_source_of_the_command_line_goes_before_that_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, '[source]\nsource = "no-such.mp4"\n')
    for arguments in (["demo"], ["--source", "demo"]):
        assert check("--config", str(path), *arguments).stdout.startswith("demo by ")


def test_a_token_in_the_environment_waits_for_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEFACE_TOKEN", "a-token-of-good-length")
    assert check("demo").exit_code == 0
    assert check("demo", "--token", "a-token-of-good-length").exit_code == 2
    monkeypatch.setenv("EDGEFACE_TOKEN", "short")
    assert "the token must be" in check("demo", "--show").stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[detector]\nsise = 1\n", "[detector] has no key 'sise'. Did you mean 'size'? Its keys are model, size"),
        ("[camera]\n", "no section or key 'camera'. There are source, detector"),
        ("[detector]\nscore = 2.0\n", "detector.score: Expected `float` <= 1.0"),
        ('[page]\nport = "high"\n', "page.port: Expected `int | null`, got `str`"),
        ("[page\n", "not TOML"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_it(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(OptionError) as raised:
        read_config(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert check("--config", str(path)).exit_code == 2


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="No such file or directory: check --config"):
        read_config(tmp_path / "camera.toml")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["demo", "--bind", "0.0.0.0"], 2, "add --show or --metrics"),
        (["demo", "--show", "--bind", "0.0.0.0", "--token", "short"], 2, "the token must be"),
        (["demo", "--mqtt", "broker"], 2, "write mqtt://"),
        (["demo", "--json", "/no/such/folder/x.jsonl"], 10, "its folder is not there"),
        (["demo", "--best-shots", "best", "--no-track"], 2, "leave --no-track out"),
        (["demo", "--detect-every", "3", "--no-track"], 2, "frames are left out only where tracking fills in"),
        (["demo", "--model", "mos_z"], 2, "no model 'mos_z'"),
        (["no-such.mp4"], 3, "no such file"),
        (["demo", "--source", "rtsp://a:b@c/"], 2, "two sources, demo and rtsp://c/: give one"),
        (["demo", "--video", "x.avi"], 2, "name it so"),
        (["demo", "--blur", "--best-shots", "best"], 2, "choose one of them"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(arguments: list[str], code: int, says: str) -> None:
    done = check(*arguments)
    assert done.exit_code == code
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_zero_character_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    for text in ('[output]\njson = "a\\u0000b"', '[notify]\nexec = ["touch", "a\\u0000b"]', '[page]\nbind = "\\u0000"'):
        with pytest.raises(OptionError, match="zero character"):
            read_config(written(tmp_path, text))
