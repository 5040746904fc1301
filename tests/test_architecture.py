"""What docs/architecture.md promises of the code, read from the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from edgeface.devices.agreement import compare

import edgeface
from bright_nets import PYRAMID, RNET, TCNN, BrightCrops, BrightWindows, bundle, detector, picture
from edgeface.bundle import schema
from edgeface.bundle.schema import FaceStage
from edgeface.faces import face_records
from edgeface.stream.tracking import Tracker

ROOT = Path(edgeface.__file__).parent.parent
PACKAGES = ("edgeface", "convert", "devices", "quantize")
KINDS = {"DenseStage", "PyramidStage", "FaceStage", *(
    kind.__name__ for union in (schema.Gather, schema.Output) for kind in union.__args__
)}
# The schema itself, and the one place that knows which class runs which stage.
ALLOWED = {"edgeface/bundle/schema.py", "edgeface/bundle/schema1.py", "edgeface/bundle/checks.py"}
DISPATCH = "edgeface/runtime/stages/kinds.py"

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the source tree")


def sources() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def switches(tree: ast.Module) -> Iterator[str]:
    """Where a kind of the schema is asked for, by isinstance or as a key of a dictionary."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            names = {each.id for each in ast.walk(node.args[1]) if isinstance(each, ast.Name)}
        elif isinstance(node, ast.Dict):
            names = {key.id for key in node.keys if isinstance(key, ast.Name)}
        else:
            continue
        yield from names & KINDS


def test_the_kinds_are_those_of_the_schema() -> None:
    assert {"Crops", "Points", "Score", "Bins", "Classes"} <= KINDS
    assert all(issubclass(getattr(schema, name), msgspec.Struct) for name in KINDS)


def test_only_one_place_decides_what_kind_a_stage_is() -> None:
    found = {name: set(switches(tree)) for name, tree in sources() if name not in ALLOWED}
    stages = {"DenseStage", "PyramidStage", "FaceStage", "Crops", "Points"}
    assert {name for name, kinds in found.items() if kinds & stages} == {DISPATCH}
    # Outputs are looked up where they are decoded.
    assert {name for name, kinds in found.items() if kinds - stages} == {"edgeface/runtime/decode/__init__.py"}


def test_a_switch_would_be_seen() -> None:
    assert set(switches(ast.parse("isinstance(stage, (A, CropS, Crops))"))) == {"Crops"}
    assert set(switches(ast.parse("{DenseStage: 1, FaceStage: 2}"))) == {"DenseStage", "FaceStage"}


def test_every_kind_of_the_schema_is_known_to_its_dispatch() -> None:
    from edgeface.runtime import decode
    from edgeface.runtime.stages import kinds

    assert set(kinds._KINDS) == {schema.DenseStage, schema.PyramidStage, *schema.Gather.__args__}
    assert set(decode._DECODERS) == set(schema.Output.__args__) - {schema.Score, schema.Box}


def test_a_stage_s_outputs_are_told_apart_by_their_kind() -> None:
    stage = FaceStage([["a"]], "x", schema.Points(["f"], 1), [schema.Bins("logits", 66, 3.0, -97.5)])
    assert stage.one_of(schema.Score) is None
    assert stage.all_of(schema.Bins) == stage.outputs


def test_the_example_of_an_attribute_is_all_that_it_takes() -> None:
    """The code in docs/architecture.md, run: what comes of it is seen in faces, records, tracks and pictures."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    code = text.split("<!-- attribute -->\n```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(compile(code, "docs/architecture.md", "exec"), names)
    whole = bundle(PYRAMID, RNET, names["with_hat"](TCNN))
    assert whole.attributes == {"mask": 0.6, "quality": 0.5, "hat": 0.6}
    answers = {"attributes": (0.0, -3.0, 2.0), "quality": (0.0,)}
    found = detector(whole, [BrightWindows(), BrightCrops(24), BrightCrops(48, answers)])(picture([(24, 32, 48)]))
    assert len(found) == 1
    assert found.has("hat").tolist() == [True]
    assert found[0].words() == ["hat", "q.50"]
    record = face_records(found)[0]
    assert record["present"] == ["quality", "hat"]
    tracker = Tracker()
    tracker.update(found, 0.0)
    assert tracker.update(found, 0.1).faces.has("hat").tolist() == [True]
    away = replace(found, attributes=found.attributes | {"hat": np.zeros(1, np.float32)})
    assert not compare(found, away, {}, {}).is_same


def test_the_files_that_the_guide_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = {name for name in re.findall(r"`((?:edgeface|tests|docs)/[\w/]+\.\w+)`", text) if "NAME" not in name}
    assert len(named) > 8
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
