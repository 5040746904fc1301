"""The models that come with the package: a directory a bundle, named model-precision-engine, and float checkpoints."""

from __future__ import annotations

from pathlib import Path

# Before a name: the one that comes with edgeface, whatever lies in the current folder.
SHIPPED = "shipped:"
# What is taken where no model is given, which a folder that happens to lie here does not change.
DEFAULT_MODEL = f"{SHIPPED}mhcnn"
# What a model's name alone means.
DEFAULTS = {
    "mos_s": "mos_s-int8-ncnn",
    "mtcnn": "mtcnn-int8-ncnn",
    "tcnn": "tcnn-int8-ncnn",
    "mhcnn": "mhcnn-int8-ncnn",
}


def directory() -> Path:
    """Where they lie."""
    return Path(__file__).parent
