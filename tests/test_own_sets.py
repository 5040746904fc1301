"""Cascades on sets of one's own, whose names no configuration knows."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeface.training.patches.own_sets import own_sets
from tiny_data import write_tiny_data


def test_all_sets_are_taken_where_none_is_configured(
    tmp_path: Path, astronaut: NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    data = write_tiny_data(tmp_path / "data", astronaut)
    assert own_sets(data, ["wider", "extra"]) == []
    (data / "wider").rename(data / "door")
    with caplog.at_level(logging.WARNING):
        assert own_sets(data / "door", ["wider", "landmarks68", "wider"]) == ["door"]
    assert "none of the sets that the configuration names (wider, landmarks68): samples are drawn" in caplog.text
    assert caplog.text.rstrip().endswith("all that are there: door")
