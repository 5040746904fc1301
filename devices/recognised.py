"""Which board this machine is, told by its processors, and what serves it best by the board's description."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from edgeface.errors import EdgefaceError
from edgeface.runtime.preference import THIS_MACHINE, Preference, preferences

from . import boards
from .boards import Board
from .cores import Cluster, cores_of
from .machine import ROOT, machine

_HOST = Path(THIS_MACHINE).stem
_log = logging.getLogger(__name__)


def recognised(clusters: Sequence[Cluster]) -> Board | None:
    """The described board with just these processors; a user's own one before one that ships. None where there is none.

    A description that is wrong is passed by, with a line in the log.
    """
    wanted = cores_of(clusters)
    found = []
    for name in boards.names():
        try:
            board = boards.find(name)
        except EdgefaceError as error:
            _log.warning("%s", error)
            continue
        if not board.local and cores_of(board.clusters) == wanted:
            found.append(board)
    return min(found, key=lambda board: (not boards.is_own(board.name), board.name), default=None)


@preferences("here")
def preference(is_board: bool, root: Path = ROOT) -> Preference:
    """What serves this machine best: by the user's own ``host.toml`` and, for what that does not say, by the board that
    it is. ``is_board``: whether its processors are a board's kind; ``root`` as in ``machine``."""
    own = boards.find(_HOST).best if boards.is_own(_HOST) else {}
    board = recognised(machine(root).clusters) if is_board else None
    if board is None:
        return Preference(_HOST if own else None, own)
    return Preference(_HOST if own else board.name, board.best | own)
