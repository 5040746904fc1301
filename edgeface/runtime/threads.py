"""How many threads a detector takes where nobody chose: a processor is left to others, and more when they take more.

An engine's threads wait for each other without sleeping, so that one that gets no processor holds up all of them: two
threads on two processors, one of them busy, take several times as long as one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

MOST_THREADS = 4    # beyond that small nets gain nothing
LOOK_EVERY_S = 0.5
# A processor that others use for less than this part of the time counts as free.
_SLIGHT = 0.25
# So many looks in a row that would allow more threads, before there are more.
_CALM_LOOKS = 4
_LOADAVG, _STAT = Path("/proc/loadavg"), Path("/proc/stat")


@runtime_checkable
class ThreadedSession(Protocol):
    """A net whose threads can be changed between two runs."""

    def set_threads(self, threads: int) -> None:
        """From the next run on; 1 or more."""
        ...


def threads_beside(others: float, processors: int | None = None) -> int:
    """The threads that leave a processor free, or as many as ``others`` keep busy: 1 to 4.

    ``processors``: those that this process may use, counted here where it is None.
    """
    count = len(os.sched_getaffinity(0)) if processors is None else processors
    taken = max(1, int(others + 1 - _SLIGHT))
    return max(1, min(MOST_THREADS, count - taken))


def default_threads() -> int:
    """The threads for a net that is opened now, by what is running at this moment; 1 to 4."""
    return threads_beside(running_now())


def running_now(loadavg: Path = _LOADAVG) -> float:
    """The threads of others that run or wait for a processor at this moment, 0 where the system does not say.

    The load averages would say so half a minute later.
    """
    try:
        running = loadavg.read_text().split()[3].partition("/")[0]
        return max(0.0, float(running) - 1.0)   # less this one, which reads it
    except (OSError, IndexError, ValueError):
        return 0.0


@dataclass(frozen=True)
class _Look:
    time_s: float
    own_s: float
    busy_s: float


class OtherWork:
    """How many of this process's processors others keep busy, from one look to the next, by /proc/stat."""

    def __init__(self, stat: Path = _STAT, clock: Callable[[], float] = time.monotonic) -> None:
        self._stat = stat
        self._clock = clock
        self._tick_s = 1.0 / os.sysconf("SC_CLK_TCK")
        self._last = self._look()

    @property
    def age_s(self) -> float:
        """Seconds since the last look."""
        return self._clock() - self._last.time_s

    def busy(self) -> float:
        """The processors that others kept busy on average since the last look; 0 where the system does not say."""
        before, now = self._last, self._look()
        self._last = now
        seconds = now.time_s - before.time_s
        if seconds <= 0 or now.busy_s <= before.busy_s:
            return 0.0
        return max(0.0, (now.busy_s - before.busy_s - (now.own_s - before.own_s)) / seconds)

    def _look(self) -> _Look:
        usable = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        ticks = 0
        try:
            with self._stat.open() as lines:
                for line in lines:
                    name, *columns = line.split()
                    if name in usable:
                        user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, columns)
                        ticks += user + nice + system + irq + softirq
                    elif not name.startswith("cpu"):
                        break
        except (OSError, ValueError):
            ticks = 0
        return _Look(self._clock(), time.process_time(), ticks * self._tick_s)


class AutomaticThreads:
    """Holds the threads of a detector's nets at what other work leaves: fewer at once, more after a calm while."""

    def __init__(
        self, sessions: Sequence[object], threads: int, *, work: OtherWork | None = None, processors: int | None = None
    ) -> None:
        self._sessions = [session for session in sessions if isinstance(session, ThreadedSession)]
        self.threads = threads
        self._work = OtherWork() if work is None else work
        self._processors = processors
        self._calm = 0

    def adjust(self) -> None:
        """Look, at most twice a second, and change the threads where that is due. Between two pictures."""
        if self._work.age_s < LOOK_EVERY_S:
            return
        wanted = threads_beside(self._work.busy(), self._processors)
        self._calm = self._calm + 1 if wanted > self.threads else 0
        if wanted < self.threads or self._calm >= _CALM_LOOKS:
            self._calm = 0
            self._set(wanted)

    def _set(self, threads: int) -> None:
        self.threads = threads
        for session in self._sessions:
            session.set_threads(threads)
