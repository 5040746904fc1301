"""How many threads a detector takes where nobody chose, beside what other work there is."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import os
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import edgeface
from edgeface.bundle import read_bundle
from edgeface.runtime.loading import open_sessions
from edgeface.runtime.threads import (
    MOST_THREADS,
    AutomaticThreads,
    OtherWork,
    ThreadedSession,
    default_threads,
    running_now,
    threads_beside,
)


@pytest.mark.parametrize(
    ("processors", "others", "threads"),
    [
        (1, 0.0, 1), (2, 0.0, 1), (4, 0.0, 3), (6, 0.0, 4), (16, 0.0, 4),
        (4, 1.0, 3), (4, 1.2, 3), (4, 1.3, 2), (4, 2.0, 2), (4, 3.0, 1), (4, 9.0, 1), (6, 3.0, 3), (16, 11.0, 4),
    ],
)
def test_a_processor_is_left_or_what_others_take(processors: int, others: float, threads: int) -> None:
    assert threads_beside(others, processors) == threads


def test_the_default_counts_the_processors_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= default_threads() <= MOST_THREADS
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    assert threads_beside(0.0) == 3


def test_what_runs_now_is_the_systems_count_less_this_thread(tmp_path: Path) -> None:
    path = tmp_path / "loadavg"
    path.write_text("0.00 0.01 0.05 4/1234 5678\n")
    assert running_now(path) == 3.0
    for text in ("", "0.0 0.0 0.0\n", "a b c d\n"):
        path.write_text(text)
        assert running_now(path) == 0.0
    assert running_now(tmp_path / "none") == 0.0


class Machine:
    """A /proc/stat of two processors, of which this process may use the given ones, and its clock."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, usable: set[int]) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: usable)
        monkeypatch.setattr(time, "process_time", lambda: self.own_s)
        self.path = folder / "stat"
        self.now_s = self.own_s = 0.0
        self.busy_s = [0.0, 0.0, 0.0]
        self.write()

    def write(self) -> None:
        tick_s = 1 / os.sysconf("SC_CLK_TCK")
        lines = [f"cpu{i} {round(s / tick_s)} 0 0 999 0 0 0 0 0 0" for i, s in enumerate(self.busy_s)]
        self.path.write_text("\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *lines, "intr 5", "ctxt 6"]) + "\n")

    def pass_by(self, seconds: float, others: list[float], own: float = 0.0) -> None:
        self.now_s += seconds
        self.own_s += own * seconds
        self.busy_s = [before + share * seconds for before, share in zip(self.busy_s, others, strict=True)]
        self.busy_s[0] += own * seconds
        self.write()

    def work(self) -> OtherWork:
        return OtherWork(self.path, lambda: self.now_s)


def test_others_are_what_is_busy_less_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch, {0, 1})
    work = machine.work()
    machine.pass_by(2.0, [0.0, 1.0, 1.0], own=0.5)
    assert work.age_s == 2.0
    assert work.busy() == pytest.approx(1.0, abs=0.02)    # the third processor is not this process's
    machine.pass_by(1.0, [0.25, 0.0, 0.0], own=0.75)
    assert work.busy() == pytest.approx(0.25, abs=0.03)
    assert work.busy() == 0.0


def test_a_system_that_says_nothing_counts_as_idle(tmp_path: Path) -> None:
    assert OtherWork(tmp_path / "none").busy() == 0.0
    (tmp_path / "zeros").write_text("cpu0 0 0 0 0 0 0 0 0 0 0\n")
    assert OtherWork(tmp_path / "zeros").busy() == 0.0
    (tmp_path / "short").write_text("cpu0 1 2\ncpu1\n")
    assert OtherWork(tmp_path / "short").busy() == 0.0


class Net:
    def __init__(self) -> None:
        self.given: list[int] = []

    def set_threads(self, threads: int) -> None:
        self.given.append(threads)


def test_threads_go_down_at_once_and_up_after_a_calm_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch, {0, 1, 2})
    net = Net()
    automatic = AutomaticThreads([net, object()], 2, work=machine.work())
    machine.pass_by(0.1, [0, 1, 1])
    automatic.adjust()      # too soon for another look
    assert net.given == []
    machine.pass_by(0.5, [0, 1, 1])
    automatic.adjust()
    assert net.given == [1]
    for others in ([0, 0, 0], [0, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]):
        machine.pass_by(0.6, others)
        automatic.adjust()
    assert net.given == [1]
    machine.pass_by(0.6, [0, 0, 0])
    automatic.adjust()
    assert net.given == [1, 2]


def _spin(ready: multiprocessing.synchronize.Event) -> None:
    ready.set()
    while True:
        pass


def test_a_busy_process_is_seen() -> None:
    ready = multiprocessing.get_context("spawn").Event()
    process = multiprocessing.get_context("spawn").Process(target=_spin, args=(ready,), daemon=True)
    process.start()
    try:
        assert ready.wait(60)
        work = OtherWork()
        time.sleep(1.0)
        # On a machine that others keep busy it does not get all of a processor.
        assert work.busy() > 0.3
    finally:
        process.kill()
        process.join()


def test_results_do_not_depend_on_the_threads(tiny_bundle: Path, astronaut: NDArray[np.uint8]) -> None:
    bundle = read_bundle(tiny_bundle)
    (net,) = open_sessions(tiny_bundle, bundle, 2)[0]
    assert isinstance(net, ThreadedSession)
    x = np.ascontiguousarray(astronaut[:160, :160].transpose(2, 0, 1), np.float32) / 128
    before = net.run(x).output("score8")
    net.set_threads(1)
    np.testing.assert_array_equal(net.run(x).output("score8"), before)


def test_only_a_choice_of_ones_own_is_kept(
    tiny_bundle: Path, astronaut: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    monkeypatch.setattr(AutomaticThreads, "adjust", lambda self: looks.append(self))
    edgeface.load(tiny_bundle, threads=1)(astronaut)
    assert not looks
    edgeface.load(tiny_bundle)(astronaut)
    assert len(looks) == 1


def test_tflite_goes_on_with_other_threads(astronaut: NDArray[np.uint8]) -> None:
    pytest.importorskip("ai_edge_litert")
    detector = edgeface.load("shipped:mos_s", engine="tflite", threads=2, size=160)
    before = detector.raw(astronaut)["score8"]
    sessions = [detector._first.net]
    AutomaticThreads(sessions, 2)._set(1)
    np.testing.assert_array_equal(detector.raw(astronaut)["score8"], before)
