"""Where edgeface's own wheel for a board comes from."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from edgeface.devices.emulation import project

from edgeface.errors import DeviceError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone in a folder with a space, and the package as pip installed it from there; the clone's folder."""
    clone = tmp_path / "my clone"
    for name in ("edgeface", "convert", "quantize", "devices"):
        shutil.copytree(ROOT / name, clone / name, ignore=lambda _folder, names: {n for n in names if n[-3:] != ".py"
                        and ("." in n or n == "__pycache__")})
    (clone / "cross").mkdir()
    for name in ("pyproject.toml", "cross/build_wheel.py"):
        shutil.copyfile(ROOT / name, clone / name)
    package = tmp_path / "site" / "edgeface"
    shutil.copytree(clone / "edgeface", package)
    for name in ("convert", "quantize", "devices"):
        shutil.copytree(clone / name, package / name)
    noted = json.dumps({"dir_info": {}, "url": clone.as_uri()})
    monkeypatch.setattr(metadata, "distribution", lambda _name: SimpleNamespace(read_text=lambda _file: noted))
    monkeypatch.setattr(project, "__file__", str(package / "devices" / "emulation" / "project.py"))
    return clone


def test_a_clone_is_its_own_source() -> None:
    assert project.source_tree() == ROOT


def test_an_installed_package_knows_the_clone_that_it_came_from(installed: Path) -> None:
    assert project.source_tree() == installed


def test_a_clone_that_has_changed_since_is_not_what_runs_here(installed: Path) -> None:
    (installed / "convert" / "ncnn.py").write_text("# another\n")
    with pytest.raises(DeviceError, match="my clone: is no longer what is installed here: pip install it again"):
        project.source_tree()


def test_a_clone_that_is_gone_is_none(installed: Path) -> None:
    shutil.rmtree(installed)
    assert project.source_tree() is None


@pytest.mark.parametrize("noted", [None, "", "no json", "{}", '{"url": "https://example.org/edgeface.whl"}', "[]"])
def test_what_came_from_elsewhere_has_no_clone(
    installed: Path, monkeypatch: pytest.MonkeyPatch, noted: str | None
) -> None:
    monkeypatch.setattr(metadata, "distribution", lambda _name: SimpleNamespace(read_text=lambda _file: noted))
    assert project.source_tree() is None
