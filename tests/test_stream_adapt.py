"""Holding the latency by the input's size, on results whose latency follows it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from edgeface.errors import OptionError
from edgeface.stream.adapt import Adapter
from edgeface.stream.controls import Controls
from preview_shots import result, shot

PICTURE = np.zeros((24, 32, 3), np.uint8)


class Run:
    """A detector whose latency goes with a power of the input's size, as a rule the square; 10 results a second."""

    def __init__(self, size_px: int, target_ms: float, power: float = 2.0) -> None:
        self.power = power
        self.controls = Controls(0.5, size_px)
        self.adapter = Adapter(self.controls, target_ms)
        self.seconds = 0.0

    def play(self, seconds: float, ms_at_320: float) -> list[int]:
        """The sizes over that time."""
        sizes = []
        for _ in range(round(seconds * 10)):
            self.seconds += 0.1
            latency_ms = ms_at_320 * (self.controls.settings.size_px / 320) ** self.power
            taken = replace(shot(PICTURE, 0), taken_monotonic_ns=round(self.seconds * 1e9))
            self.adapter.put(taken, replace(result([]), latency_ms=latency_ms))
            sizes.append(self.controls.settings.size_px)
        return sizes


def test_a_machine_that_is_quick_enough_is_left_alone() -> None:
    run = Run(320, 100.0)
    assert set(run.play(60, 90.0)) == {320}


def test_a_machine_that_gets_slow_sees_less_until_the_latency_holds() -> None:
    run = Run(640, 100.0)
    run.play(5, 20.0)
    run.play(10, 60.0)
    size_px = run.controls.settings.size_px
    assert size_px % 32 == 0
    assert 60.0 * (size_px / 320) ** 2 <= 100.0
    assert 60.0 * (size_px / 0.8 / 320) ** 2 > 80.0


def test_it_sees_more_again_when_it_has_cooled_and_never_more_than_was_asked_for() -> None:
    run = Run(480, 100.0)
    run.play(10, 150.0)
    assert run.controls.settings.size_px < 480
    sizes = run.play(300, 10.0)
    assert sizes[-1] == 480
    assert max(sizes) == 480


def test_it_does_not_swing_between_two_sizes() -> None:
    run = Run(416, 100.0)
    run.play(10, 68.0)      # fits at 384, not at 416
    sizes = run.play(600, 68.0)
    changes = sum(a != b for a, b in pairwise(sizes))
    assert changes <= 2


def test_what_was_too_early_is_tried_later_each_time() -> None:
    run = Run(416, 100.0, power=4.0)
    run.play(10, 50.0)      # at 320 there seems to be room for 416, which takes 143 ms
    sizes = run.play(600, 50.0)
    raised = [i / 10 for i, (before, after) in enumerate(pairwise(sizes)) if after > before]
    waits = [later - sooner for sooner, later in pairwise(raised)]
    assert len(raised) >= 4
    assert all(later > 1.5 * sooner for sooner, later in pairwise(waits))
    run.controls.set(size_px=384)       # a wish of somebody's starts anew
    assert 384 in run.play(40, 50.0)[50:]


def test_somebody_who_chooses_a_size_is_obeyed() -> None:
    run = Run(640, 100.0)
    run.play(5, 60.0)
    run.controls.set(size_px=256)
    assert set(run.play(60, 20.0)) == {256}


def test_there_is_a_smallest_size() -> None:
    run = Run(320, 1.0)
    assert run.play(60, 500.0)[-1] == 128


def test_a_latency_of_nothing_cannot_be_held() -> None:
    with pytest.raises(OptionError, match="cannot be held"):
        Adapter(Controls(0.5, 320), 0.0)
