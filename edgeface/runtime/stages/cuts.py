"""Says that more was found than is looked at: once for a detector, since the next picture is likely to be as full."""

from __future__ import annotations

import logging

_log = logging.getLogger(__name__)


class CutNotice:
    """Of one stage of the bundle ``bundle_name``; ``things``: what is cut, as in "faces"."""

    def __init__(self, bundle_name: str, things: str) -> None:
        self._bundle_name, self._things = bundle_name, things
        self._is_said = False

    def tell(self, found: int, limit: int | None) -> None:
        """``found`` of them are there and the ``limit`` best go on. Where they are as many, nothing is said."""
        if limit is not None and found > limit and not self._is_said:
            self._is_said = True
            _log.warning(
                "%s: a picture has %d %s, the %d best are looked at and more are given up: choose a higher score, or "
                "more candidates where the model lets you", self._bundle_name, found, self._things, limit,
            )
