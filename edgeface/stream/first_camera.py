"""Which camera a run without a source takes: the Raspberry Pi's, else the first V4L2 device that gives pictures."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from edgeface.errors import EdgefaceError, SourceError
from edgeface.stream.sources import SourceSpec, make_spec
from edgeface.stream.sources.v4l2 import check_device
from edgeface.stream.supervision import Deadlines, Supervisor

# The first failure ends a trial; a camera that is there gives its first picture within these.
_TRIAL = Deadlines(start_s=30.0, open_s=8.0, stall_s=1.0, read_s=4.0, give_up_s=0.0)
_LONGEST_S = 45.0
_DEV = Path("/dev")
_MODEL = Path("/proc/device-tree/model")

_log = logging.getLogger("edgeface.stream")


def first_camera(wanted: SourceSpec | None = None, devices: Path = _DEV) -> str:
    """The text of the first camera that gives a picture, "picamera2" or as "/dev/video0".

    ``wanted``: what is asked of it, its kind and address left out of account. ``devices``: the folder of device files.
    Every camera is opened for a moment, in a process of its own that is ended when it hangs. Raises SourceError with
    one line that says what was tried and what else there is.
    """
    failures: list[str] = []
    for text in _candidates(devices):
        try:
            if text.startswith("/"):
                check_device(text)
            _try(_spec(text, wanted))
        except EdgefaceError as error:
            _log.info("%s", error)
            failures.append(str(error))
            continue
        _log.info("%s: the first camera that gives pictures; name another to take that", text)
        return text
    tried = "; ".join(failures) or f"there is no {devices}/video*"
    raise SourceError(
        f"no camera gives pictures ({tried}){_pi_hint()}: plug one in, name a source, or see it work without one: "
        "'edgeface camera demo --show'"
    )


_NUMBER = re.compile(r"video(\d+)")


def _candidates(devices: Path) -> Iterator[str]:
    if importlib.util.find_spec("picamera2") is not None:
        yield "picamera2"
    numbered = [(int(found[1]), path) for path in devices.glob("video*") if (found := _NUMBER.fullmatch(path.name))]
    yield from (str(path) for _, path in sorted(numbered))


def _spec(text: str, wanted: SourceSpec | None) -> SourceSpec:
    named = make_spec(text)
    return named if wanted is None else replace(wanted, kind=named.kind, address=named.address)


def _try(spec: SourceSpec) -> None:
    """Return when the camera has given a picture; raises what ends a source, SourceError when there is none."""
    with Supervisor(spec, _TRIAL) as supervisor:
        try:
            shot = supervisor.newest(_LONGEST_S)
        except SourceError:
            # Its text says after how long it was given up, which nobody asked for here.
            raise SourceError(supervisor.status.reason) from None
    if shot is None:
        raise SourceError(f"{spec.shown}: no picture within {_LONGEST_S:g} s")


def _pi_hint() -> str:
    """On a Raspberry Pi without picamera2, what its own camera needs."""
    try:
        is_pi = b"Raspberry Pi" in _MODEL.read_bytes()
    except OSError:
        return ""
    if not is_pi or importlib.util.find_spec("picamera2") is not None:
        return ""
    return "; the Raspberry Pi's own camera needs picamera2: sudo apt install python3-picamera2"
