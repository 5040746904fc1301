"""What docs/architecture.md promises of the code, read from the code."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from edgeface.devices.agreement import compare
from numpy.typing import NDArray

import edgeface
from bright_nets import PYRAMID, RNET, TCNN, BrightCrops, BrightWindows, bundle, detector, picture
from edgeface import bundle as schema
from edgeface.bundle import FaceStage
from edgeface.cli import main
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

# Packages from the lowest to the highest: each imports only what stands below it, and none of its own line.
LAYERS = (
    {"int8", "bundle"}, {"models", "runtime"}, {"data", "devices", "result_files", "stream"}, {"evaluation"},
    {"convert", "training"}, {"quantize"}, {"cli"},
)
# Where everything is brought together: edgeface.load, the names of the API, and what runs "python -m edgeface".
TOPS = {"edgeface", "edgeface.__main__"}

# What comes so fast that nothing is won by putting it off, and what of Python itself does not.
LIGHT = {"edgeface", "click", "msgspec"}
HEAVY_OF_PYTHON = {"importlib.metadata"}
ONE_MEANING = {"Board", "Machine", "Look", "Source", "Options", "Detector", "Bundle", "Stage", "Trainer"}

Arrows = dict[str, set[str]]

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the source tree")


@cache
def sources() -> list[tuple[str, ast.Module]]:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())) for path in paths]


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


def module_name(path: str) -> str:
    parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
    return ".".join(parts if parts[0] == "edgeface" else ["edgeface", *parts])


def named(module: str, is_package: bool, node: ast.Import | ast.ImportFrom, modules: set[str]) -> set[str]:
    """The modules that one line of ``module`` imports, those of edgeface in full."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    parts = module.split(".") if is_package else module.split(".")[:-1]
    above = parts[: len(parts) - node.level + 1] if node.level else []
    source = ".".join([*above, *([node.module] if node.module else [])])
    return {f"{source}.{alias.name}" for alias in node.names} & modules or {source}


def imports(module: str, is_package: bool, tree: ast.Module, modules: set[str]) -> set[str]:
    """The modules of edgeface that one imports: lazily, for types, from the same folder, or by its name as a text."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= named(module, is_package, node, modules)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "bring")):
            found |= {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
    return found & modules - {module}


@cache
def all_imports() -> Arrows:
    trees = {module_name(path): (path, tree) for path, tree in sources()}
    arrows = {
        name: imports(name, path.endswith("/__init__.py"), tree, set(trees)) for name, (path, tree) in trees.items()
    }
    return {name: to - TOPS for name, to in arrows.items() if name not in TOPS}


def import_lines(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import below ``node`` but those for types alone, and whether it stands inside a function."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield node, inside
    below = node.orelse if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) else (
        ast.iter_child_nodes(node)
    )
    inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    for child in below:
        yield from import_lines(child, inside)


class Loads:
    """Which heavy packages come with a module, by what it and those below it import outside of functions."""

    def __init__(self) -> None:
        self.lines = {
            module_name(path): (path, list(import_lines(tree)), path.endswith("/__init__.py"))
            for path, tree in sources()
        }
        self._first = {
            module: {name for line, inside in lines if not inside for name in self.named(module, line)}
            for module, (_, lines, _) in self.lines.items()
        }

    def named(self, module: str, line: ast.Import | ast.ImportFrom) -> set[str]:
        inside = {f"{getattr(line, 'module', None)}.{alias.name}" for alias in line.names}
        return named(module, self.lines[module][2], line, set(self.lines)) | inside & HEAVY_OF_PYTHON

    def heavy(self, module: str) -> set[str]:
        found: set[str] = set()
        left, seen = [module], {"edgeface"}
        while left:
            name = left.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in self.lines:
                left += [*self._first[name], name.rpartition(".")[0]]
            elif name.split(".")[0] not in LIGHT | sys.stdlib_module_names or name in HEAVY_OF_PYTHON:
                found.add(name.split(".")[0])
        return found


def package_of(module: str) -> str:
    return module.split(".")[1]


def by_package(arrows: Arrows) -> Arrows:
    found: Arrows = {}
    for module, targets in arrows.items():
        found.setdefault(package_of(module), set()).update(map(package_of, targets))
    return {package: targets - {package} for package, targets in found.items()}


def in_circles(arrows: Arrows) -> set[str]:
    """What is left when everything is taken away, again and again, that imports nothing of the rest."""
    left = dict(arrows)
    while free := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in free}
    return set(left)


def test_no_modules_and_no_packages_import_one_another() -> None:
    arrows = all_imports()
    assert len(arrows) > 300
    assert in_circles(arrows) == set()
    assert in_circles(by_package(arrows)) == set()


def test_imports_point_one_way() -> None:
    packages = by_package(all_imports())
    folders = {path.name for path in (ROOT / "edgeface").iterdir() if (path / "__init__.py").is_file()}
    assert set().union(*LAYERS) == (folders | {*PACKAGES}) - {"edgeface", "weights"}
    for number, layer in enumerate(LAYERS):
        not_below = set().union(*LAYERS[number:])
        assert {name: packages[name] & not_below for name in sorted(layer)} == {name: set() for name in sorted(layer)}


def test_imports_inside_functions_put_off_a_heavy_package() -> None:
    """Each brings a package that its module has not loaded by then."""
    loads = Loads()
    idle = []
    for module, (path, lines, _) in loads.lines.items():
        for line, inside in lines:
            if inside and not set().union(*map(loads.heavy, loads.named(module, line))) - loads.heavy(module):
                idle.append(f"{path}:{line.lineno}: {ast.unparse(line)}")
    assert idle == []


def test_an_import_that_puts_nothing_off_would_be_seen() -> None:
    tree = ast.parse("import json\nif TYPE_CHECKING:\n    import torch\ndef f():\n    import numpy")
    assert [(line.names[0].name, inside) for line, inside in import_lines(tree)] == [("json", False), ("numpy", True)]


def test_load_means_to_open_a_detector() -> None:
    """Here, by a name or a bundle, and over there, on a board."""
    found = {path for path, tree in sources() for node in tree.body if getattr(node, "name", None) == "load"}
    assert found == {"edgeface/runtime/loading.py", "devices/operations.py"}


def test_names_that_had_two_meanings_have_one() -> None:
    found: dict[str, list[str]] = {}
    for path, tree in sources():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name in ONE_MEANING:
                found.setdefault(node.name, []).append(path)
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import edgeface.cli.main", "from edgeface.cli import main", "from edgeface.cli.main import run",
        "from . import main",
        "def f():\n    from .main import run", "if TYPE_CHECKING:\n    from edgeface.cli.main import run",
        "import_module('edgeface.cli.main')",
    ],
)  # fmt: skip
def test_every_way_to_import_is_seen(code: str) -> None:
    known = {"edgeface.cli", "edgeface.cli.main", "edgeface.cli.other"}
    assert imports("edgeface.cli.other", False, ast.parse(code), known) == {"edgeface.cli.main"}


def test_a_circle_would_be_seen() -> None:
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"a", "b", "c"}


def test_the_kinds_are_those_of_the_schema() -> None:
    assert {"Crops", "Points", "Score", "Bins", "Classes"} <= KINDS
    assert all(issubclass(getattr(schema, name), msgspec.Struct) for name in KINDS)


def test_only_one_place_decides_what_kind_a_stage_is() -> None:
    found = {name: set(switches(tree)) for name, tree in sources() if name not in ALLOWED}
    stages = {"DenseStage", "PyramidStage", "FaceStage", "Crops", "Points", "Regions", "Joined"}
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


def test_the_example_of_a_model_is_all_that_it_takes(tmp_path: Path, astronaut: NDArray[np.uint8]) -> None:
    """The code in docs/architecture.md, run: the model is trained a step, deployed, calibrated and described."""
    torch = pytest.importorskip("torch")
    from edgeface.quantize.inputs import calibration_inputs

    from edgeface.models.checkpoint import load_checkpoint
    from edgeface.models.family import families, graphs
    from edgeface.training.config import default_config_path
    from tiny_data import write_tiny_data

    text = (ROOT / "docs" / "architecture.md").read_text()
    code = text.split("<!-- model -->\n```python\n")[1].split("```")[0]
    config = default_config_path("mos_m").read_text().replace("mos_m", "mos_half")
    (tmp_path / "mos_half.toml").write_text(config.replace("width = 1.0", "channels = 16"))
    data, out = write_tiny_data(tmp_path / "data", astronaut), tmp_path / "run"
    try:
        exec(compile(code, "docs/architecture.md", "exec"), {})
        result = CliRunner().invoke(main, [
            "train", "mos_half", "--config", str(tmp_path / "mos_half.toml"), "--data", str(data), "--out", str(out),
            "--cache", str(tmp_path / "cache"), "--licence", "public domain", "run.steps=1", "run.dev_pictures=1",
            "run.dev_size_px=128", "canvases=[{size_px=128, batch=2, share=1.0}]", "data.workers=0",
            "data.weights={wider=0.6, landmarks68=0.3, backgrounds=0.1}", "feedback.every_epochs=0",
        ])
        assert result.exit_code == 0, result.output
        family, net = families.get("mos_half"), load_checkpoint(out / "mos_half.last.pt").build()
        deployed = family.deployed(net, 1).eval()
        with torch.no_grad():
            x = torch.rand(1, 3, 64, 96)
            for found, expected in zip(deployed(x).box, net(x).box, strict=True):
                assert torch.allclose(found, expected, atol=1e-4)
        assert calibration_inputs(deployed, data, 1, lambda items, _label, _total: items)
        assert [graph.stem for graph in graphs(net)] == ["dense", "pose8", "pose16", "pose32"]
        stages = family.stages(lambda stem: [stem], {}, {})
        assert [type(stage) for stage in stages] == [schema.DenseStage, FaceStage]
    finally:
        families._entries.pop("mos_half", None)


def test_the_files_that_the_guide_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = {name for name in re.findall(r"`((?:edgeface|tests|docs)/[\w/]+\.\w+)`", text) if "NAME" not in name}
    assert len(named) > 8
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
