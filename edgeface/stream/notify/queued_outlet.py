"""An outlet that sends one event after the other from a thread, and drops with a count what nobody takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from edgeface.stream.sinks.queued import CallQueue

CAPACITY = 64

_log = logging.getLogger("edgeface.stream")


class DeliveryError(Exception):
    """An event could not be delivered; the text says why."""


class Sender(Protocol):
    """Delivers, and may wait for seconds."""

    name: str

    def send(self, content: bytes) -> None:
        """Deliver one event, JSON in UTF-8. Raises DeliveryError."""

    def abandon(self) -> None:
        """End a delivery that hangs; called from another thread, and safe to call when none is going on."""


class QueuedOutlet:
    """Gives events to ``sender``, at most CAPACITY waiting. ``dropped`` counts those that found no room and those
    that could not be delivered; trouble is logged when it begins and when it ends."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._failed = 0
        self._in_trouble = 0
        self._queue = CallQueue(sender.name, lambda: None, capacity=CAPACITY)
        self._is_closed = False

    @property
    def dropped(self) -> int:
        return self._queue.dropped + self._failed

    def happened(self, record: Mapping[str, Any]) -> None:
        content = msgspec.json.encode(record)
        self._queue.add(lambda: self._deliver(content))

    def present(self, faces: Mapping[str, int]) -> None:
        """The events say it."""

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._queue.close()
        self._sender.abandon()
        if self.dropped:
            _log.warning("%s: %d events were dropped", self._sender.name, self.dropped)

    def _deliver(self, content: bytes) -> None:
        try:
            self._sender.send(content)
        except DeliveryError as error:
            if not self._in_trouble:
                _log.warning("%s: %s; events are dropped until it works", self._sender.name, error)
            self._in_trouble += 1
            self._failed += 1
        else:
            if self._in_trouble:
                _log.warning("%s: works again; %d events were dropped", self._sender.name, self._in_trouble)
            self._in_trouble = 0
