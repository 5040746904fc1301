"""``cross/try_wheel.py`` before it has a board: what it checks first."""

from __future__ import annotations

import pytest

import try_wheel
from edgeface.errors import MissingExtraError


def test_an_engine_that_is_not_here_is_said_before_a_root_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MissingExtraError('the tflite engine needs ai-edge-litert (none): pip install "edgeface[tflite]"')

    monkeypatch.setattr(try_wheel, "interpreter_class", missing)
    with pytest.raises(MissingExtraError, match=r"mos_s-int8-tflite: the tflite engine needs .* leave it out: --model"):
        try_wheel.check_engines(try_wheel.MODELS)
    try_wheel.check_engines(["mos_s-int8-ncnn"])
