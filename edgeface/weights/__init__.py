"""The models that come with the package: a directory a bundle, named model-precision-engine, and checkpoints.

A wheel has of each model but TFN the bundle in int8 for ncnn, which detection needs, and no checkpoints
(``pyproject.toml``). The rest is taken from the clone that pip installed from, while it is there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# What was measured of the bundles and estimated, made by docs/make_figures.py.
FIGURES = "figures.json"
# Before a name: the one that comes with edgeface, whatever lies in the current folder.
SHIPPED = "shipped:"
# What is taken where no model is given, which a folder that happens to lie here does not change.
DEFAULT_MODEL = f"{SHIPPED}mhcnn"
# How the names of bundles end that every wheel has, and how those begin that it lacks: TFN, a beginning, would be a
# third of it.
_IN_WHEELS, _LEFT_OUT = "-int8-ncnn", ("tfn-",)
# What a model's name alone means.
DEFAULTS = {
    "mos_s": "mos_s-int8-ncnn",
    "mtcnn": "mtcnn-int8-ncnn",
    "tcnn": "tcnn-int8-ncnn",
    "mhcnn": "mhcnn-int8-ncnn",
    "maskface": "maskface-int8-ncnn",
    "tfn": "tfn-int8-ncnn",
    "mos_m": "mos_m-int8-ncnn",
    "mhcnn_m": "mhcnn_m-int8-ncnn",
    "mos_tiny": "mos_tiny-int8-ncnn",
    "mhcnn_tiny": "mhcnn_tiny-int8-ncnn",
}
# What each model is to be taken for, in one line.
PURPOSES = {
    "mhcnn": "nearly everything: MOS-S, and T-CNN's second look at every face",
    "mos_s": "crowds: one net in one pass, so that faces cost next to no time",
    "mhcnn_m": "the most faces, for about twice the time: MOS on MobileNetV2, and T-CNN's second look",
    "mos_m": "crowds where the most faces count more than time",
    "mhcnn_tiny": "little time: MOS on a trunk made for Cortex-A72, and T-CNN's second look",
    "mos_tiny": "crowds in the least time; it misses more small faces than mos_s",
    "mtcnn": "comparison: the published cascade on an image pyramid",
    "maskface": "68 points of each face: eyes, brows, nose, mouth and jaw",
    "tfn": "a beginning: 68 points, apparent age, gender and ethnicity, often wrong",
    "tcnn": "a second look at the faces of another detector (--refine tcnn)",
}
WHY_DEFAULT = "it finds nearly as many faces as mhcnn_m, in half of the time"


def figures() -> dict[str, Any]:
    """What ``FIGURES`` keeps, by bundle; empty where the file is not there."""
    path = directory() / FIGURES
    bundles: dict[str, Any] = json.loads(path.read_bytes())["bundles"] if path.is_file() else {}
    return bundles


def directories() -> list[Path]:
    """Where they lie: in the package, and what it lacks in the clone that it was installed from."""
    clone = clone_directory()
    return [directory()] if clone is None or not clone.is_dir() else [directory(), clone]


def is_in_wheels(name: str) -> bool:
    """Whether every wheel has the bundle of this name, if there is one."""
    return name.endswith(_IN_WHEELS) and not name.startswith(_LEFT_OUT)


def directory() -> Path:
    """The package's own."""
    return Path(__file__).parent


def clone_directory() -> Path | None:
    """The same folder in the clone that ``pip install .`` made this package of, whether or not it is still there.

    None where edgeface came from a wheel or an index, and in an editable installation, whose own folder is the clone's.
    """
    # pip notes it (PEP 610). importlib.metadata would take 20 ms to find the note.
    for note in directory().parents[1].glob("edgeface-*.dist-info/direct_url.json"):
        origin = json.loads(note.read_bytes())
        if "dir_info" in origin:
            return Path(unquote(urlsplit(origin["url"]).path)) / "edgeface" / "weights"
    return None
