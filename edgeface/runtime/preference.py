"""Which of a model's bundles serve this machine best, asked of whoever knows boards, who stands above the runtime."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec

from edgeface.errors import UnknownNameError
from edgeface.registry import Registry
from edgeface.regular_files import is_there
from edgeface.user_folders import devices_directory

# Boards are ARM. Elsewhere only what a user kept for this very machine counts.
_BOARDS = ("aarch64", "arm64")
# The modules that an engine can run with, one of which is enough; where none is named it has the engine's name.
_MODULES = {"tflite": ("ai_edge_litert", "tflite_runtime"), "onnx": ("onnxruntime",)}

# Among the user's own descriptions of boards, the one of this machine.
THIS_MACHINE = "host.toml"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preference:
    """By model the names of its bundles, the best one first, and the ``board`` that they serve so; None where nobody
    knows a board like this machine."""

    board: str | None = None
    best: dict[str, list[str]] = field(default_factory=dict)


# "here": that of this machine. It is told whether the machine is of a board's kind: others are held against no board.
preferences: Registry[Callable[[bool], Preference]] = Registry("preference", UnknownNameError)


@cache
def preference_here() -> Preference:
    """That of this machine, looked for once; the log says which board it is like."""
    is_board = platform.machine() in _BOARDS
    if not is_board and not is_there(devices_directory() / THIS_MACHINE):
        return Preference()     # without the 10 ms that reading descriptions of boards takes
    found = preferences.get("here")(is_board)
    if found.board is not None:
        _log.info("this machine is like board %s", found.board)
    elif is_board:
        _log.info("this machine has the processors of no board that is described: a model means its default bundle")
    return found


def is_installed(engine: str) -> bool:
    """Whether a package is here that the engine of that name can run with; none is imported."""
    return any(find_spec(module) is not None for module in _MODULES.get(engine, (engine,)))
