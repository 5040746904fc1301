"""The command line before it does anything: help, version, completion, and how little that imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edgeface.cli import COMMANDS, main

HEAVY = ("numpy", "cv2", "ncnn", "torch", "onnx", "onnxruntime", "matplotlib", "tqdm", "skimage")


def modules_after(*arguments: str, environment: dict[str, str] | None = None) -> tuple[set[str], str]:
    """What a fresh process has imported after the command line ran with ``arguments``, and what it printed."""
    code = (
        "import json, sys\n"
        "from edgeface.cli import main\n"
        "try:\n"
        f"    main({list(arguments)!r}, prog_name='edgeface')\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | (environment or {})
    )
    return set(json.loads(done.stderr.splitlines()[-1])), done.stdout


@pytest.mark.parametrize("arguments", [["--help"], [], ["--version"], ["detect", "--help"], ["models", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    modules, _ = modules_after(*arguments)
    assert not modules & set(HEAVY)


def test_help_imports_no_command() -> None:
    modules, printed = modules_after("--help")
    assert not {lazy.home.split(":")[0] for lazy in COMMANDS.values()} & modules
    for name, lazy in COMMANDS.items():
        assert f"  {name} " in printed
        assert lazy.help in printed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_where_the_group_says(name: str) -> None:
    context = click.Context(main, info_name="edgeface")
    command = main.get_command(context, name)
    assert isinstance(command, click.Command)
    assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.output.startswith(f"edgeface {version('edgeface')} (ncnn {version('ncnn')}")
    assert result.output.endswith(" kernels)\n")


def test_an_unknown_command_answers_with_the_nearest() -> None:
    result = CliRunner().invoke(main, ["detct"])
    assert result.exit_code == 2
    assert "no command 'detct'. Did you mean 'detect'?" in result.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    modules, printed = modules_after(environment={"_EDGEFACE_COMPLETE": f"{shell}_source"})
    assert "_edgeface_completion" in printed
    assert not modules & set(HEAVY)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("edgeface de", ["detect", "demo", "deploy", "devices"]),
        ("edgeface detect --max", ["--max-megapixels"]),
        ("edgeface models v", ["verify"]),
    ],
)
def test_completion_answers_without_heavy_imports(typed: str, offered: list[str]) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    modules, printed = modules_after(environment={"_EDGEFACE_COMPLETE": "bash_complete"} | words)
    assert [line.partition(",")[2] for line in printed.splitlines()] == offered
    assert not modules & set(HEAVY)


def test_completion_of_models_offers_their_names() -> None:
    words = {"COMP_WORDS": "edgeface detect --model mo", "COMP_CWORD": "3"}
    _, printed = modules_after(environment={"_EDGEFACE_COMPLETE": "bash_complete"} | words)
    assert "plain,mos_s" in printed.splitlines()


def test_a_clone_s_root_gives_every_part_of_the_package() -> None:
    """Python started there finds edgeface/ before an installed package, also one that is not editable."""
    root = Path(__file__).resolve().parents[1]
    code = (
        "import sys\n"
        "sys.meta_path = [f for f in sys.meta_path if f.__module__.startswith('_frozen_importlib')]\n"
        f"sys.path.insert(0, {str(root)!r})\n"
        "import edgeface.convert\n"
        "print(edgeface.convert.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == root / "convert" / "__init__.py"
