"""Connections are taken at a pace: each costs the page's thread something before it is known whose it is, and whoever
makes new ones without end must not take the detector's time. Those that come faster wait in the kernel's queue."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

# A browser keeps six and makes new ones seldom; forty that open the page together are within the burst.
ACCEPTED_A_S = 50
ACCEPTED_BURST = 256
# That may wait in the kernel's queue, to be taken within five seconds.
MOST_QUEUED = 256
# Without a free handle there is none a moment later either.
_RETRY_S = 1.0

_log = logging.getLogger("edgeface.stream")


async def accept(listening: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
    """Serve what connects to ``listening``, each by a protocol of its own, until it is cancelled."""
    loop = asyncio.get_running_loop()
    listening.setblocking(False)
    budget, budget_at_s = float(ACCEPTED_BURST), loop.time()
    while True:
        now_s = loop.time()
        budget = min(float(ACCEPTED_BURST), budget + (now_s - budget_at_s) * ACCEPTED_A_S)
        budget_at_s = now_s
        if budget < 1:
            await asyncio.sleep((1 - budget) / ACCEPTED_A_S)
            continue
        budget -= 1
        try:
            line, _ = await loop.sock_accept(listening)
            await loop.connect_accepted_socket(make, line)
        except OSError as error:
            # One that is gone already is nobody's concern.
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                _log.warning("page: no more connections can be taken: %s", error.strerror)
                await asyncio.sleep(_RETRY_S)
