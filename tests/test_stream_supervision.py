"""Sources in processes of their own: what hangs is killed, what fails comes back, and nothing is left behind."""

from __future__ import annotations

import importlib
import socket
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import stream_fakes  # noqa: F401  # registers its sources
from edgeface.children import PYTHON_VARIABLE
from edgeface.errors import InputError, OptionError, SourceError
from edgeface.stream import supervision
from edgeface.stream.process import CaptureProcess
from edgeface.stream.shots import Shot, Status
from edgeface.stream.sources import SourceSpec
from edgeface.stream.supervision import Deadlines, Supervisor
from edgeface.stream.wire import Ended, FromProcess, Next, decode, encode, received

LONG_S = 240.0
QUICK = Deadlines(stall_s=0.4, read_s=1.2, first_retry_s=0.1, last_retry_s=0.4)


def wait_for(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.01)


def next_shot(supervisor: Supervisor) -> Shot:
    shot = supervisor.newest(LONG_S)
    assert shot is not None
    return shot


def children() -> list[str]:
    """The command lines of this process's children that are or were capture processes."""
    found = []
    for path in Path("/proc/self/task").glob("*/children"):
        for pid in path.read_text().split():
            try:
                command = Path("/proc", pid, "cmdline").read_bytes()
            except OSError:
                continue
            if b"edgeface.stream.capture" in command or not command:
                found.append(pid)
    return found


def held() -> tuple[int, int, int]:
    """Open descriptors, threads, and mappings of capture memory."""
    maps = Path("/proc/self/maps").read_text().count("memfd:edgeface")
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count(), maps


def test_what_a_process_said_before_it_ended_is_heard_though_it_did_not_read_everything() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.setblocking(False)
        ours.send(encode(Next()))
        theirs.send(encode(Ended()))
        theirs.close()
        assert decode(received(ours), FromProcess) == Ended()
        assert received(ours) == b""


def test_only_the_newest_frame_is_given_out_and_the_others_are_counted() -> None:
    with Supervisor(SourceSpec(kind="counting", address="")) as supervisor:
        first = next_shot(supervisor)
        wait_for(lambda: supervisor.status.captured > first.number + 10)
        captured = supervisor.status.captured
        second = next_shot(supervisor)
    assert second.number >= captured - 1
    assert second.status.dropped == first.status.dropped + second.number - first.number - 1
    assert (second.image == second.number % 256).all()
    assert second.status.state == "online"
    assert first.taken_monotonic_ns < second.taken_monotonic_ns <= time.monotonic_ns()
    assert abs(second.taken_unix_ns / 1e9 - time.time()) < LONG_S


def test_every_frame_is_given_out_where_that_is_asked_for() -> None:
    spec = SourceSpec(kind="counting", address="40", every_frame=True)
    seen = []
    with Supervisor(spec) as supervisor:
        while (shot := supervisor.newest(LONG_S)) is not None:
            seen.append((shot.number, int(shot.image[0, 0, 0])))
        assert supervisor.is_over
    assert seen == [(n, n) for n in range(40)]


def test_a_source_that_waits_for_its_reader_is_not_taken_for_stalled() -> None:
    spec = SourceSpec(kind="counting", address="5", every_frame=True)
    with Supervisor(spec, QUICK) as supervisor:
        next_shot(supervisor)
        time.sleep(2 * QUICK.read_s)
        assert [next_shot(supervisor).number for _ in range(4)] == [1, 2, 3, 4]
        assert supervisor.status.starts == 1


def test_a_source_that_hangs_is_stalled_then_killed_and_back() -> None:
    changes: list[Status] = []
    with Supervisor(SourceSpec(kind="hanging", address="3"), QUICK) as supervisor:
        numbers = [next_shot(supervisor).number]
        while supervisor.status.starts < 3:
            shot = supervisor.newest(LONG_S)
            assert shot is not None
            numbers.append(shot.number)
            changes += supervisor.changes()
        next_shot(supervisor)
    assert numbers == sorted(set(numbers))
    states = [status.state for status in changes]
    assert states[:5] == ["offline", "online", "stalled", "offline", "online"]
    assert "no frame for" in next(status.reason for status in changes[2:] if status.state == "offline")
    assert children() == []


def test_a_source_that_does_not_open_is_killed() -> None:
    deadlines = Deadlines(open_s=0.5, stall_s=0.2, read_s=0.5, first_retry_s=0.05, last_retry_s=0.1)
    with Supervisor(SourceSpec(kind="hanging-open", address=""), deadlines) as supervisor:
        wait_for(lambda: supervisor.status.starts >= 3)
        assert supervisor.newest(0.01) is None
        assert supervisor.status.state == "offline"
    reasons = {status.reason for status in supervisor.changes()}
    assert reasons == {"starting", "hanging-open: does not open within 0.5 s"}
    assert children() == []


@pytest.mark.parametrize(("now_s", "starved_s", "hangs"), [
    (109.0, 0.0, False), (111.0, 0.0, True), (111.0, 5.0, False), (111.0, 0.5, True), (161.0, 60.0, True),
])
def test_what_a_process_waits_for_a_processor_is_not_the_sources_time(
    now_s: float, starved_s: float, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {"now": 100.0, "starved": 7.0}
    monkeypatch.setattr(supervision, "monotonic", lambda: seen["now"])
    monkeypatch.setattr(CaptureProcess, "starved_s", property(lambda _: seen["starved"]))
    process, clock = CaptureProcess.__new__(CaptureProcess), supervision._Clock(launched_s=100.0)
    assert not clock.hangs(process, 100.0, 10.0)
    seen.update(now=now_s, starved=7.0 + starved_s)
    assert clock.hangs(process, 100.0, 10.0) == hangs


def test_what_loads_slowly_does_not_take_the_time_for_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_library.py").write_text("import time; time.sleep(3)")
    (tmp_path / "slow_source.py").write_text(textwrap.dedent('''
        import stream_fakes
        from edgeface.stream.sources import source
        LIBRARIES = ("slow_library", "no_such_library")
        @source("slow-loading")
        def open_slow(spec):
            import slow_library
            return stream_fakes.open_counting(spec)
    '''))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("slow_source")
    with Supervisor(SourceSpec(kind="slow-loading", address=""), Deadlines(open_s=2.0)) as supervisor:
        next_shot(supervisor)
        assert supervisor.status.starts == 1


def test_a_process_that_dies_is_replaced_and_its_last_words_kept_without_the_password() -> None:
    with Supervisor(SourceSpec(kind="dying", address=""), QUICK) as supervisor:
        wait_for(lambda: supervisor.status.starts >= 2)
        reasons = [status.reason for status in supervisor.changes()]
    assert (
        "dying: the capture process ended with 7: driver: assertion failed for rtsp://camera/1" in reasons
    )


def test_retries_wait_longer_each_time_and_a_frame_starts_the_count_anew(tmp_path: Path) -> None:
    there = tmp_path / "camera"
    deadlines = Deadlines(first_retry_s=0.1, last_retry_s=0.4)
    with Supervisor(SourceSpec(kind="flaky", address=str(there)), deadlines) as supervisor:
        wait_for(lambda: supervisor.status.starts >= 5)
        there.touch()
        next_shot(supervisor)
        there.unlink()
        wait_for(lambda: supervisor.status.state == "offline")
        waits = [status.retry_in_s for status in supervisor.changes() if status.retry_in_s is not None]
    assert waits[:4] == [0.1, 0.2, 0.4, 0.4]
    assert waits[-1] == 0.1


def test_a_source_that_has_worked_is_tried_every_few_seconds(tmp_path: Path) -> None:
    there = tmp_path / "camera"
    there.touch()
    deadlines = Deadlines(first_retry_s=0.1, last_retry_s=60.0, worked_retry_s=0.4)
    with Supervisor(SourceSpec(kind="flaky", address=str(there)), deadlines) as supervisor:
        next_shot(supervisor)
        there.unlink()
        wait_for(lambda: supervisor.status.starts >= 8)
        waits = [status.retry_in_s for status in supervisor.changes() if status.retry_in_s is not None]
        there.touch()
        next_shot(supervisor)
    assert waits[0] == 0.1
    assert max(waits) <= 0.4


def test_damaged_frames_are_counted_and_keep_a_source_alive() -> None:
    """Two seconds of them, longer than a source may be silent, and then frames again."""
    changes: list[Status] = []
    with Supervisor(SourceSpec(kind="often-damaged", address="20"), QUICK) as supervisor:
        assert next_shot(supervisor).status.damaged == 0
        wait_for(lambda: supervisor.status.damaged >= 20)
        shot = next_shot(supervisor)
        while shot.status.damaged < 20:
            shot = next_shot(supervisor)
        changes = supervisor.changes()
        assert supervisor.status.starts == 1
    assert any("only damaged frames" in status.reason for status in changes)


def test_frames_that_grow_shrink_and_change_their_format_arrive_as_they_are() -> None:
    spec = SourceSpec(kind="changing", address="", every_frame=True)
    with Supervisor(spec) as supervisor:
        shots = [next_shot(supervisor) for _ in range(5)]
    assert [(s.width, s.height, s.frame.format) for s in shots] == [
        (32, 16, "bgr"), (640, 480, "bgr"), (1920, 1080, "yuyv"), (64, 48, "nv12"), (16, 16, "bgr"),
    ]
    assert all((shot.frame.pixels == i).all() for i, shot in enumerate(shots, start=1))
    assert shots[2].image.shape == (1080, 1920, 3)
    assert not shots[2].image.flags.writeable


def test_a_frame_without_pixels_is_an_error_of_the_source() -> None:
    """It is tried again like a camera that stopped, since the next start may give real frames."""
    with Supervisor(SourceSpec(kind="empty", address=""), QUICK) as supervisor:
        wait_for(lambda: supervisor.status.starts >= 2)
        reasons = [status.reason for status in supervisor.changes() if status.state == "offline"]
    assert any("(0, 16, 3)" in reason for reason in reasons)


def test_what_no_retry_can_mend_ends_the_source_with_its_error() -> None:
    with Supervisor(SourceSpec(kind="damaged", address="")) as supervisor:
        with pytest.raises(InputError, match=r"clip\.mp4: damaged"):
            supervisor.newest(LONG_S)
        assert supervisor.newest(0.01) is None
        assert supervisor.is_over


def test_giving_up_ends_it_with_the_last_reason(tmp_path: Path) -> None:
    deadlines = Deadlines(first_retry_s=0.1, last_retry_s=0.2, give_up_s=1.0)
    with (
        Supervisor(SourceSpec(kind="flaky", address=str(tmp_path / "no")), deadlines) as supervisor,
        pytest.raises(SourceError, match="flaky: not there: plug it in: given up after 1 s"),
    ):
        supervisor.newest(LONG_S)


def test_thirty_restarts_leave_nothing_behind(tmp_path: Path) -> None:
    deadlines = Deadlines(first_retry_s=0.01, last_retry_s=0.02)
    before = held()
    with Supervisor(SourceSpec(kind="flaky", address=str(tmp_path / "no")), deadlines) as supervisor:
        wait_for(lambda: supervisor.status.starts >= 3)
        early = held()
        wait_for(lambda: supervisor.status.starts >= 33)
        late = held()
    # One process may be there at the one moment and not at the other: its socket, its memory, its mapping.
    assert late[0] <= early[0] + 7
    assert late[1] == early[1]
    assert late[2] <= early[2] + 4
    wait_for(lambda: held() <= before)
    assert children() == []


def test_leaving_ends_a_source_that_hangs() -> None:
    with Supervisor(SourceSpec(kind="hanging", address="1")) as supervisor:
        next_shot(supervisor)
    assert children() == []


def test_a_source_is_not_orphaned_when_its_supervisor_is_killed() -> None:
    import signal
    import subprocess
    import sys

    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import stream_fakes\n"
        "from edgeface.stream.sources import SourceSpec\n"
        "from edgeface.stream.supervision import Supervisor\n"
        "with Supervisor(SourceSpec(kind='hanging', address='1')) as s:\n"
        "    s.newest(60); print(s._process._process.pid, flush=True); s.newest(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    capture = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait(LONG_S)
    parent.stdout.close()
    wait_for(lambda: not Path("/proc", str(capture)).exists())


@pytest.mark.parametrize(
    ("command", "why"), [("/no/such/python", "No such file"), ("python '", "No closing quotation")]
)
def test_an_interpreter_that_cannot_be_started_is_named(
    monkeypatch: pytest.MonkeyPatch, command: str, why: str
) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, command)
    with (
        Supervisor(SourceSpec(kind="counting", address=""), Deadlines(give_up_s=0.5)) as supervisor,
        pytest.raises(SourceError, match=f"cannot be started: {why}.*{PYTHON_VARIABLE}"),
    ):
        supervisor.newest(LONG_S)


def test_shots_keep_their_pixels_when_later_ones_come() -> None:
    with Supervisor(SourceSpec(kind="counting", address="")) as supervisor:
        shots = [next_shot(supervisor) for _ in range(6)]
    assert [int(np.unique(shot.image)[0]) for shot in shots] == [shot.number % 256 for shot in shots]


def test_deadlines_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(OptionError, match="stalled before it is given up"):
        Deadlines(stall_s=3.0)
    assert Deadlines.patient(None, None) == Deadlines()
    with pytest.raises(OptionError, match="more than 0 seconds"):
        Deadlines(open_s=0.0)
    assert Deadlines.patient(0.5, 9.0) == Deadlines(stall_s=0.5, read_s=0.5, give_up_s=9.0)
    assert Deadlines.patient(20.0, None) == Deadlines(read_s=20.0)
