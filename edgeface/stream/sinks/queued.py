"""A bounded queue with a thread of its own, so that what waits for a disk, a network or a reader slows nobody."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from edgeface.errors import EdgefaceError
from edgeface.stream.sinks import Sink

if TYPE_CHECKING:
    from edgeface.stream.results import Result
    from edgeface.stream.shots import Shot, Status

CLOSE_S = 1.0
LONGEST_WAIT_S = 5.0

_log = logging.getLogger("edgeface.stream")


class CallQueue:
    """Runs calls in order in its thread; the oldest ones make room for new ones, counted in ``dropped``.

    ``capacity`` counts droppable calls. With ``lossless`` a full queue lets ``add`` wait for room, up to 5 s, before it
    drops. What a call raises, EdgefaceError or OSError, is raised by the next ``add`` or by ``close``, once, and no
    further call is run. ``finish`` is called in the thread at the end, after an error too.
    """

    def __init__(
        self, name: str, finish: Callable[[], None], *, capacity: int, lossless: bool = False, close_s: float = CLOSE_S
    ) -> None:
        self.dropped = 0
        self._name = name
        self._finish = finish
        self._capacity = capacity
        self._lossless = lossless
        self._close_s = close_s
        self._calls: deque[tuple[bool, Callable[[], None]]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._failed = False
        self._error: EdgefaceError | OSError | None = None
        self._thread = threading.Thread(target=self._work, name=f"edgeface-{name}", daemon=True)
        self._thread.start()

    def add(self, call: Callable[[], None], *, droppable: bool = True) -> None:
        """Have ``call`` run in the thread. Raises what an earlier call raised."""
        self._raise()
        with self._changed:
            if droppable and self._lossless:
                deadline = monotonic() + LONGEST_WAIT_S
                while self._is_full() and not self._failed and (left_s := deadline - monotonic()) > 0:
                    self._changed.wait(left_s)
            if self._failed or self._closing:
                return
            if droppable and self._is_full():
                self._drop_oldest()
            self._calls.append((droppable, call))
            self._changed.notify_all()

    def close(self) -> None:
        """Give the queue ``close_s`` to empty and drop what is left. Raises what a call raised; safe to call twice.

        A call that still hangs then is left to its thread, which does not keep the process alive.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(self._close_s)
        if self._thread.is_alive():
            with self._changed:
                self.dropped += len(self._calls)
                self._calls.clear()
            _log.warning("%s: did not finish within %g s: what was left is lost", self._name, self._close_s)
        self._raise()

    def _is_full(self) -> bool:
        return sum(droppable for droppable, _ in self._calls) >= self._capacity

    def _drop_oldest(self) -> None:
        for i, (droppable, _) in enumerate(self._calls):
            if droppable:
                del self._calls[i]
                break
        if not self.dropped:
            _log.warning("%s: too slow: results are being dropped", self._name)
        self.dropped += 1

    def _raise(self) -> None:
        with self._changed:
            error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        try:
            while (call := self._next()) is not None:
                call()
        except (EdgefaceError, OSError) as error:
            self._fail(error)
        finally:
            try:
                self._finish()
            except (EdgefaceError, OSError) as error:
                self._fail(error)

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._calls and not self._closing:
                self._changed.wait()
            if not self._calls:
                return None
            _, call = self._calls.popleft()
            self._changed.notify_all()
        return call

    def _fail(self, error: EdgefaceError | OSError) -> None:
        with self._changed:
            self._failed = True
            self._error = self._error or error
            self._calls.clear()
            self._changed.notify_all()


class Queued:
    """``inner`` as a sink that never waits. Results wait in a CallQueue, with their pictures, so ``capacity`` is small;
    changes of state are never dropped."""

    def __init__(
        self, inner: Sink, name: str, *, capacity: int = 4, lossless: bool = False, close_s: float = CLOSE_S
    ) -> None:
        self._inner = inner
        self._queue = CallQueue(name, inner.close, capacity=capacity, lossless=lossless, close_s=close_s)

    @property
    def dropped(self) -> int:
        """Results that found no room."""
        return self._queue.dropped

    def put(self, shot: Shot, result: Result) -> None:
        self._queue.add(lambda: self._inner.put(shot, result))

    def status(self, status: Status) -> None:
        self._queue.add(lambda: self._inner.status(status), droppable=False)

    def close(self) -> None:
        self._queue.close()
