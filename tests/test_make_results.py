"""docs/results.md: the page is what the kept reports say, and a report's command is the one that was run."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.tiny_data import write_tiny_data

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, at work on copies of the plan and the page in an empty folder."""
    spec = importlib.util.spec_from_file_location("make_results", DOCS / "make_results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.syspath_prepend(DOCS)       # where it has its tables
    spec.loader.exec_module(module)
    results = tmp_path / "results"
    results.mkdir()
    for name, value in {"RESULTS": results, "PAGE": tmp_path / "results.md", "PLAN": results / "plan.toml"}.items():
        monkeypatch.setattr(module, name, value)
    return module


def plan(script: ModuleType, *commands: str) -> None:
    script.PLAN.write_text(f"models = ['mtcnn-int8-ncnn']\ncommands = {list(commands)!r}\n")


def run(script: ModuleType, *arguments: str | Path) -> Result:
    return CliRunner().invoke(script.main, [str(argument) for argument in arguments])


def kept(script: ModuleType, **changes: Any) -> None:
    record = {
        "model": "some-model", "bundle_sha256": "0", "edgeface": "0.1.0", "made": "2026-11-29",
        "runs": [{
            "command": "edgeface evaluate some-model --data wider --size 640",
            "reports": [{
                "data": "wider", "size_px": 640,
                "measures": {"detection": {"ap": {"easy": {"ap": 0.9126}}, "ap_by_height_px": {"8-16": {"ap": 1.0}}}},
            }],
        }],
        **changes,
    }
    (script.RESULTS / "some-model.json").write_text(json.dumps(record))


def test_the_kept_page_is_what_the_kept_reports_say(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RESULTS": DOCS / "results", "PAGE": DOCS / "results.md"}.items():
        monkeypatch.setattr(script, name, value)
    monkeypatch.setattr(script, "PLAN", DOCS / "results" / "plan.toml")
    result = run(script, "--check")
    assert result.exit_code == 0, f"{result.output}: run 'python docs/make_results.py'"


def test_a_table_has_a_row_a_model_and_the_command_below_it(script: ModuleType) -> None:
    plan(script)
    kept(script)
    assert run(script).exit_code == 0
    lines = script.PAGE.read_text().splitlines()
    start = lines.index("## Finding faces")
    assert lines[start + 4].startswith("| model | easy 640 | medium 640 | hard 640 | easy 320")
    assert lines[start + 6] == "| some-model (of an earlier bundle) | .913 | - | - | - | - | - |"
    assert lines[start + 8] == "    edgeface evaluate MODEL --data wider --size 640"
    assert "| some-model (of an earlier bundle) | 1.000 | - | - | - | - |" in lines
    # Nothing was measured of landmarks: no table of nothing.
    assert "## Landmarks" not in lines


def test_the_worst_group_stands_beside_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    class_cells = importlib.import_module("results_tables").class_cells
    groups = {"gender female": {"accuracy": 0.75}, "age 0-19": {"accuracy": 0.5}, "age 20-39": {"accuracy": None}}
    told = {"gender": {"overall": {"accuracy": 0.8}, "by_group": groups}}
    assert class_cells({"classes": told}) == [".800", ".500 age 0-19", "-", "-", "-", "-"]
    assert class_cells(None) == ["-"] * 6


def test_check_writes_nothing_and_fails_where_the_page_is_another(script: ModuleType) -> None:
    plan(script)
    kept(script)
    assert run(script, "--check").exit_code == 1
    assert not script.PAGE.exists()
    run(script)
    assert run(script, "--check").exit_code == 0
    script.PAGE.write_text(script.PAGE.read_text().replace(".913", ".999"))
    assert run(script, "--check").exit_code == 1


def test_what_is_no_report_is_named(script: ModuleType) -> None:
    plan(script)
    (script.RESULTS / "bad.json").write_text('{"model": "x"')
    result = run(script)
    assert result.exit_code == 1
    assert "bad.json: is no report of make_results.py" in result.output
    assert run(script, "--measure").exit_code == 2
    assert run(script, "mos_s").exit_code == 2


def test_measuring_runs_the_commands_of_the_plan_in_the_data_folder(
    script: ModuleType, tmp_path: Path, astronaut: np.ndarray
) -> None:
    data = write_tiny_data(tmp_path / "data", astronaut)
    plan(script, "edgeface evaluate MODEL --data wider --data backgrounds --size 640")
    result = run(script, "--measure", "--data", data)
    assert result.exit_code == 0, result.output
    record = json.loads((script.RESULTS / "mtcnn-int8-ncnn.json").read_text())
    (done,) = record["runs"]
    assert done["command"] == "edgeface evaluate mtcnn-int8-ncnn --data wider --data backgrounds --size 640"
    assert [report["data"] for report in done["reports"]] == ["wider", "backgrounds"]
    page = script.PAGE.read_text()
    assert str(tmp_path) not in page
    assert "| mtcnn-int8-ncnn | 1.000 |" in page
    assert "    edgeface evaluate MODEL --data wider --data backgrounds --size 640" in page
    # Another command joins the plan: what is kept stays as it is, and only the other is run.
    first = "edgeface evaluate MODEL --data wider --data backgrounds --size 640"
    plan(script, first, "edgeface evaluate MODEL --data wider --size 320")
    filled = run(script, "--measure", "--missing", "--data", data)
    assert filled.stderr.splitlines() == ["edgeface evaluate mtcnn-int8-ncnn --data wider --size 320"]
    assert len(json.loads((script.RESULTS / "mtcnn-int8-ncnn.json").read_text())["runs"]) == 2
    # What is measured of this model alone comes after what is of all.
    with script.PLAN.open("a") as file:
        file.write("[more]\nmtcnn-int8-ncnn = ['edgeface evaluate MODEL --data wider --size 64']\n")
    filled = run(script, "--measure", "--missing", "--data", data)
    assert filled.stderr.splitlines() == ["edgeface evaluate mtcnn-int8-ncnn --data wider --size 64"]
    plan(script, "edgeface evaluate MODEL --data none")
    before = (script.RESULTS / "mtcnn-int8-ncnn.json").read_bytes()
    failed = run(script, "--measure", "--data", data)
    assert failed.exit_code == 1
    assert "ended with exit code 4" in failed.output
    assert (script.RESULTS / "mtcnn-int8-ncnn.json").read_bytes() == before


def test_the_figures_that_ship_are_those_of_the_kept_reports() -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS / "make_figures.py"), "--check"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
