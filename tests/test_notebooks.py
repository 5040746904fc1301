"""The notebooks: their cells run in order, in this process."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import edgeface
from docs_blocks import check_command

FOLDER = Path(edgeface.__file__).parent.parent / "examples"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the source tree")
NAMES = ("detect_and_look", "train_quantise_convert_compare")


def cells(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]
    return found


def run(name: str) -> dict[str, Any]:
    """Every code cell, in one namespace; what it left there."""
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells(name)):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}.ipynb, cell {number}", "exec"), names)
    return names


def test_detect_and_look(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = run("detect_and_look")
    assert len(left["faces"]) == 1
    assert left["upright"].shape == (1, 112, 112, 3)
    assert left["show"](left["faces"].draw()).size == (512, 512)
    yaw, mirrored = left["faces"].pose[0, 1], left["mirrored"].pose[0, 1]
    assert abs(yaw + mirrored) < 10
    assert "640 px: [" in capsys.readouterr().out
    assert not list(here.iterdir())


@pytest.mark.timeout(900)
def test_train_quantise_convert_compare(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """17 s of processor time, most of it the comparison of the conversion."""
    pytest.importorskip("torch", reason='needs torch: pip install "edgeface[train,convert]"')
    pytest.importorskip("pnnx", reason='needs pnnx: pip install "edgeface[convert]"')
    assert run(NAMES[1])["home"] == here / "edgeface-notebook"
    assert (here / "edgeface-notebook" / "compare.html").stat().st_size > 10_000
    assert "report -> compare.html" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_is_without_outputs(name: str) -> None:
    """Pictures in outputs would be megabytes of every change."""
    code = [cell for cell in cells(name) if cell["cell_type"] == "code"]
    assert len(code) >= 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_the_steps_of_the_second_are_commands_that_there_are() -> None:
    """Where torch is not installed as well."""
    code = "\n".join("".join(cell["source"]) for cell in cells(NAMES[1]) if cell["cell_type"] == "code")
    given = [line.split() for line in re.findall(r'^edgeface\(f?"(.*)"\)$', code, re.MULTILINE)]
    assert [words[0] for words in given] == ["data", "data", "train", "quantize", "convert", "compare"]
    for words in given:
        check_command(words, whole=True)
