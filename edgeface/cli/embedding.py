"""``--embed MODULE:FUNCTION``: numbers for every face from a function of the user's own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import EngineError, OptionError

_SHAPE = "MODULE:FUNCTION, such as my_faces:embed for embed() in my_faces.py here"


class Embedder:
    """The function that ``text`` names, held to what it is to give.

    It takes upright faces uint8 (N, 112, 112, 3) BGR, N at least 1, and gives N rows of as many finite numbers. Its
    module is looked for where Python looks, and in the current folder last. Raises OptionError where it is not there.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._function = _function(text)
        self._length: int | None = None

    def __call__(self, upright: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 (N, D) for uint8 (N, 112, 112, 3) BGR, D the same in every call. Raises EngineError where the
        function fails or gives anything else."""
        if not len(upright):
            return np.empty((0, self._length or 0), np.float32)
        try:
            # What it gives may be a tensor of any library, whose own conversion may fail as well.
            found = np.asarray(self._function(upright), np.float32)
        except Exception as error:
            raise EngineError(f"--embed {self._text}: {type(error).__name__}: {error}") from error
        if found.ndim != 2 or len(found) != len(upright) or not found.shape[1]:
            raise EngineError(
                f"--embed {self._text}: gave {found.shape} for {len(upright)} faces: give a row of numbers each"
            )
        if found.shape[1] != (self._length or found.shape[1]):
            raise EngineError(
                f"--embed {self._text}: gave {found.shape[1]} numbers a face, after {self._length} before: give as many"
            )
        if not np.isfinite(found).all():
            raise EngineError(f"--embed {self._text}: gave numbers that are not finite")
        self._length = found.shape[1]
        return found


def _function(text: str) -> Callable[[NDArray[np.uint8]], Any]:
    module, colon, name = text.partition(":")
    if not (module and colon and name) or module.startswith("."):
        raise OptionError(f"--embed {text}: write {_SHAPE}")
    # Last, so that a file that lies here takes no library's place.
    sys.path.append(str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module.split(".")[0] or error.name == module:
            raise OptionError(f"--embed {text}: no module {module!r} here or among the installed ones: write {_SHAPE}"
                              ) from None
        raise OptionError(f"--embed {text}: {module} needs {error.name!r}, which is not installed") from error
    except Exception as error:
        raise OptionError(f"--embed {text}: {module} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop()
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise OptionError(f"--embed {text}: {module} has no function {name!r}")
    function: Callable[[NDArray[np.uint8]], Any] = found
    return function
