"""Sets of one's own, for cascades, whose configurations name the sets that samples are drawn from."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from edgeface.data.sets import open_data

_LOG = logging.getLogger(__name__)


def own_sets(data: Path, configured: Iterable[str]) -> list[str]:
    """The sets of a data folder where none of it is ``configured``: samples are then drawn from all of them, and the
    log says so. Else an empty list: the configuration holds. Raises DataError as ``open_data`` does."""
    folder, names = open_data(data), list(configured)
    if not folder.sets or any(name in folder.sets for name in names):
        return []
    own = list(folder.sets)
    _LOG.warning(
        "%s: none of the sets that the configuration names (%s): samples are drawn from all that are there: %s",
        data, ", ".join(dict.fromkeys(names)), ", ".join(own),
    )
    return own
