"""A folder of arrays, one .npy each, that is complete or not there, and is mapped when it is read."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.atomic import refused, working_folder
from edgeface.errors import TrainingError


def write_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the arrays, of any shape and dtype, by name, in place of what ``folder`` held. Raises OutputError."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with working_folder(folder.parent) as work:
            for name, array in arrays.items():
                np.save(work / f"{name}.npy", array)
            shutil.rmtree(folder, ignore_errors=True)
            work.replace(folder)
    except OSError as error:
        raise refused(folder, error) from None


def open_arrays(folder: Path, names: Sequence[str]) -> list[NDArray[Any]]:
    """The arrays that ``write_arrays`` left, mapped, in the order of ``names``.

    Raises TrainingError where one cannot be read.
    """
    try:
        return [np.load(folder / f"{name}.npy", mmap_mode="r") for name in names]
    except (OSError, ValueError, EOFError):
        raise TrainingError(f"{folder}: its samples cannot be read: remove the folder, and train again") from None
