"""The loop from shots to results: frame by frame, when the detector fails, and with a tracker that fills in."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from edgeface.errors import InputError, OptionError
from edgeface.faces import Faces
from edgeface.frames import Frame
from edgeface.runtime.clock import Timing
from edgeface.stream.controls import Controls
from edgeface.stream.loop import MOST_FAILURES, Limits, Loop, run, tracking_options
from edgeface.stream.results import UNTRACKED, Result
from edgeface.stream.shots import Shot, Status
from edgeface.stream.sources import SourceSpec
from edgeface.stream.supervision import Supervisor
from edgeface.stream.tracking import Tracker
from stream_fakes import Detector


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.results: list[tuple[Shot, Result]] = []
        self.states: list[Status] = []
        self.closed = 0

    def put(self, shot: Shot, result: Result) -> None:
        self.results.append((shot, result))

    def status(self, status: Status) -> None:
        self.states.append(status)

    def close(self) -> None:
        self.closed += 1


class Broken(Kept):
    """A sink whose reader left."""

    def put(self, shot: Shot, result: Result) -> None:
        raise BrokenPipeError

    def close(self) -> None:
        super().close()
        raise InputError("cannot be closed either")


def every_frame(count: int) -> Supervisor:
    return Supervisor(SourceSpec(kind="counting", address=str(count), every_frame=True))


def test_every_sink_gets_every_result_and_the_states_and_is_closed() -> None:
    first, second, detector = Kept(), Kept(), Detector()
    with every_frame(12) as supervisor:
        totals = run(Loop(supervisor, detector), [first, second], threading.Event())
    assert detector.looked == list(range(12))
    assert (totals.frames, totals.with_faces, totals.dropped, totals.failed) == (12, 12, 0, 0)
    assert len(totals.latencies_ms) == 12
    assert [shot.number for shot, _ in first.results] == list(range(12))
    assert first.results == second.results
    assert [status.state for status in first.states] == ["offline", "online"]
    assert (first.closed, second.closed) == (1, 1)
    shot, result = first.results[3]
    assert result.faces.boxes.tolist() == [[3, 10, 23, 30]]
    assert result.faces.tracks.tolist() == [UNTRACKED]
    assert list(result.stages_ms) == ["preprocess", "network", "decode"]
    assert 0 < result.latency_ms < (time.monotonic_ns() - shot.taken_monotonic_ns) / 1e6
    assert result.detected


def test_a_frame_that_the_detector_fails_on_is_counted_and_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    sink = Kept()
    with every_frame(8) as supervisor, caplog.at_level(logging.WARNING, "edgeface.stream"):
        totals = run(Loop(supervisor, Detector(frozenset({2, 5}))), [sink], threading.Event())
    assert [shot.number for shot, _ in sink.results] == [0, 1, 3, 4, 6, 7]
    assert [result.failed for _, result in sink.results] == [0, 0, 1, 1, 2, 2]
    assert (totals.frames, totals.failed) == (6, 2)
    said = [record.getMessage() for record in caplog.records if "detector" in record.getMessage()]
    assert said == ["frame 2: the detector failed: RuntimeError: no faces today"]


@pytest.mark.parametrize("frames", [100, 3], ids=["many", "fewer than it takes"])
def test_a_detector_that_fails_on_every_frame_ends_the_run(frames: int) -> None:
    sink, detector = Kept(), Detector(failing=None)
    with every_frame(frames) as supervisor, pytest.raises(RuntimeError, match="no faces today"):
        run(Loop(supervisor, detector), [sink], threading.Event())
    assert len(detector.looked) == min(frames, MOST_FAILURES)
    assert sink.closed == 1


def test_failures_that_are_not_in_a_row_do_not_add_up() -> None:
    with every_frame(60) as supervisor:
        totals = run(Loop(supervisor, Detector(frozenset(range(0, 60, 2)))), [], threading.Event())
    assert (totals.frames, totals.failed) == (30, 30)


def test_a_tracker_fills_in_where_the_detector_does_not_look() -> None:
    sink, detector = Kept(), Detector()
    with every_frame(9) as supervisor:
        run(Loop(supervisor, detector, tracker=Tracker(), detect_every=3), [sink], threading.Event())
    results = [result for _, result in sink.results]
    assert detector.looked == [0, 3, 6]
    assert [result.detected for result in results] == [True, False, False] * 3
    assert all(result.faces.tracks.tolist() == [1] for result in results)
    assert [result.faces.seen.tolist() for result in results] == [[result.detected] for result in results]
    assert list(results[0].stages_ms) == ["preprocess", "network", "decode", "track"]
    assert list(results[1].stages_ms) == ["track"]


def test_after_a_failure_the_next_frame_is_looked_at() -> None:
    detector = Detector(frozenset({3}))
    with every_frame(9) as supervisor:
        run(Loop(supervisor, detector, tracker=Tracker(), detect_every=3), [], threading.Event())
    assert detector.looked == [0, 3, 4, 7]


def test_frames_are_left_out_only_with_a_tracker() -> None:
    with pytest.raises(OptionError, match="only where tracking fills in"):
        Loop(every_frame(1), Detector(), detect_every=2)
    with pytest.raises(OptionError, match="choose 1 or more"):
        Loop(every_frame(1), Detector(), tracker=Tracker(), detect_every=0)


def test_controls_take_effect_with_the_next_frame() -> None:
    detector, controls = Detector(), Controls(0.6, 64)
    with every_frame(4) as supervisor:
        results = Loop(supervisor, detector, controls=controls).results(threading.Event(), lambda _status: None)
        next(results)
        assert (detector.score, detector.size_px) == (0.6, 64)
        controls.set(score=0.3, size_px=128)
        next(results)
    assert (detector.score, detector.size_px) == (0.3, 128)


def test_with_a_tracker_the_score_is_the_least_that_starts_a_track() -> None:
    detector, tracker = Detector(), Tracker()
    controls = Controls(tracker.options.start_score, 64)
    with every_frame(4) as supervisor:
        results = Loop(supervisor, detector, tracker=tracker, controls=controls).results(
            threading.Event(), lambda _status: None
        )
        next(results)
        assert detector.score == tracker.options.low_score < controls.settings.score
        controls.set(score=0.2)
        next(results)
    assert (detector.score, tracker.options.low_score, tracker.options.start_score) == (0.2, 0.2, 0.2)
    assert tracking_options(0.9).low_score == tracking_options(0.7).low_score


def test_limits_and_a_stop_end_the_run() -> None:
    def endless() -> Supervisor:
        return Supervisor(SourceSpec(kind="counting", address=""))

    with endless() as supervisor:
        assert run(Loop(supervisor, Detector()), [], threading.Event(), Limits(frames=5)).frames == 5
    with endless() as supervisor:
        run(Loop(supervisor, Detector()), [], threading.Event(), Limits(seconds=0.5))
    stop = threading.Event()
    with endless() as supervisor:
        threading.Timer(0.5, stop.set).start()
        run(Loop(supervisor, Detector()), [], stop)
    assert stop.is_set()


def test_a_source_that_is_offline_does_not_end_the_run(tmp_path: object) -> None:
    sink = Kept()
    with Supervisor(SourceSpec(kind="flaky", address=f"{tmp_path}/no")) as supervisor:
        run(Loop(supervisor, Detector()), [sink], threading.Event(), Limits(seconds=4))
    assert [status.reason for status in sink.states][:2] == ["starting", "flaky: not there: plug it in"]


def test_all_sinks_are_closed_whatever_the_first_one_raises() -> None:
    first, second = Broken(), Kept()
    with every_frame(3) as supervisor, pytest.raises((BrokenPipeError, InputError)):
        run(Loop(supervisor, Detector()), [first, second], threading.Event())
    assert (first.closed, second.closed) == (1, 1)


def test_frames_of_other_sizes_and_formats_are_looked_at() -> None:
    detector = Detector()
    with Supervisor(SourceSpec(kind="changing", address="", every_frame=True)) as supervisor:
        run(Loop(supervisor, detector, tracker=Tracker()), [], threading.Event())
    assert detector.looked == [1, 2, 3, 4, 5]


def test_results_belong_to_their_shots() -> None:
    sink = Kept()
    with Supervisor(SourceSpec(kind="counting", address="")) as supervisor:
        run(Loop(supervisor, Detector()), [sink], threading.Event(), Limits(frames=20))
    for before, (shot, result) in enumerate(sink.results):
        assert result.faces.boxes[0, 0] == shot.number % 256 == np.unique(shot.image)
        assert result.dropped == shot.number - before


def test_a_driver_whose_stamps_go_back_does_not_end_the_run() -> None:
    sink = Kept()
    with Supervisor(SourceSpec(kind="unsteady", address="6", every_frame=True)) as supervisor:
        totals = run(Loop(supervisor, Detector(), tracker=Tracker()), [sink], threading.Event())
    assert totals.frames == 6
    taken_ns = [shot.taken_monotonic_ns for shot, _ in sink.results]
    assert taken_ns == sorted(taken_ns, reverse=True)
    assert {track for _, result in sink.results for track in result.faces.tracks.tolist()} == {1}


def test_what_the_tracker_does_not_show_is_hidden_all_the_same() -> None:
    class Unsure(Detector):
        def timed(self, image: Frame) -> tuple[Faces, Timing]:
            faces, timing = super().timed(image)
            return replace(faces, scores=np.full(len(faces), 0.5, np.float32)), timing

    sink = Kept()
    with every_frame(3) as supervisor:
        run(Loop(supervisor, Unsure(), tracker=Tracker()), [sink], threading.Event())
    for number, (_, result) in enumerate(sink.results):
        assert len(result.faces) == 0
        assert result.boxes_to_hide.tolist() == [[number, 10, number + 20, 30]]
    with every_frame(4) as supervisor:
        run(Loop(supervisor, Detector(), tracker=Tracker(), detect_every=2), [sink], threading.Event())
    assert all(len(result.boxes_to_hide) > len(result.faces) for _, result in sink.results[3:])
