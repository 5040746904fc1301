"""Where frames come from: the registry ``source``, and what a user's text means.

A source is written in three steps: a class with ``fps``, ``read`` and ``close`` (the protocol ``Source``), an opener at
the top of an importable module that makes one from a SourceSpec and is registered under the source's name, and an
import of the module here. Openers run in the capture process (``edgeface.stream.capture``), which imports their module
by name; so importing it is cheap, and what it needs is imported by the opener. The names of what takes long to load are
in the module's LIBRARIES: that is loaded before, since the time for opening is for the source and not for a slow disk.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from edgeface.addresses import redacted
from edgeface.errors import DamagedFrameError, InputError, OptionError, UnknownSourceError
from edgeface.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeface.frames import Format, Frame

MAX_SIDE_PX = 8192
MAX_FPS = 1000.0
ROTATIONS_DEG = (0, 90, 180, 270)


class SourceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a source; it travels to the capture process. None leaves a choice to the source.

    ``kind`` is its name in the registry, ``address`` the rest: a path, a URL, a number. A camera is asked for
    ``width_px``, ``height_px``, ``fps`` and ``pixel_format`` and may give others. A file is played at ``fps``, or its
    own rate; with ``loop`` again and again; with ``every_frame`` as fast as its frames are taken, none left out. An
    http camera is followed to other hosts only with ``any_redirect``, and its TLS certificate need not be one to trust
    with ``any_certificate``. Frames of any source are turned by ``rotate_deg`` clockwise, 0, 90, 180 or 270, and then
    mirrored from left to right with ``flip``. ``patience_s`` is how long it may be silent, as its supervisor sees it.
    """

    kind: str
    address: str
    width_px: int | None = None
    height_px: int | None = None
    fps: float | None = None
    pixel_format: str | None = None
    loop: bool = False
    every_frame: bool = False
    any_redirect: bool = False
    any_certificate: bool = False
    rotate_deg: int = 0
    flip: bool = False
    seed: int = 0
    patience_s: float | None = None

    @property
    def shown(self) -> str:
        """The source as people may see it: without what lets others in (see ``addresses.redacted``), and what is no
        Unicode in a file's name as U+FFFD."""
        if self.kind in ("file", "folder"):
            return os.fsencode(self.address).decode("utf-8", "replace")
        return redacted(self.address) if self.address else self.kind


@dataclass(frozen=True)
class Grab:
    """A frame and CLOCK_MONOTONIC in ns when it was taken, as near to the sensor as the source can tell."""

    frame: Frame
    taken_monotonic_ns: int


class Source(Protocol):
    """An opened source, used by one thread. ``fps`` is the rate that it announces, None when it says nothing."""

    fps: float | None

    def read(self) -> Grab | None:
        """The next frame, waiting for it; None at the end, where there is one. It may hang: the process is killed then.

        The frame may be overwritten by the next ``read``. Raises SourceError for what may pass, and is opened anew
        later; any other EdgefaceError ends the run. One frame that is damaged is left out and the next one read; a
        source that knows of such frames counts them in an attribute ``damage`` (``pictures.Damage``).
        """

    def close(self) -> None:
        """Let go of the device."""


Opener = Callable[[SourceSpec], Source]

source: Registry[Opener] = Registry("source", UnknownSourceError)

_SCHEMES = {"rtsp": "rtsp", "rtsps": "rtsp", "http": "http", "https": "http"}


def parse_source(text: str) -> tuple[str, str]:
    """A user's text as kind and address.

    ``demo``; a number or ``/dev/...`` for a V4L2 device; ``picamera2`` or ``picamera2:1``; an address rtsp:// or
    http://; a folder, a pattern, a file; or any registered ``kind:address``. Raises UnknownSourceError with the choices
    for another kind, InputError for a file that is not there, OptionError for an address with signs that are no text.
    """
    scheme, colon, rest = text.partition(":")
    if "://" in text:
        if scheme.lower() not in _SCHEMES:
            source.get(scheme)
        if not text.isprintable():
            # FFmpeg is given it as it is, and OpenCV ends by a signal where it is no Unicode.
            raise OptionError(f"{redacted(text)}: has signs that no address has: write each as %XX")
        return _SCHEMES[scheme.lower()], text
    if text.isascii() and text.isdigit():
        return "v4l2", f"/dev/video{int(text)}"
    if text.startswith("/dev/"):
        return "v4l2", text
    if scheme in source.names() and (colon or not Path(text).exists()):
        return scheme, rest
    path = Path(text)
    if path.is_dir() or (not path.exists() and any(c in text for c in "*?[")):
        return "folder", text
    if path.exists():
        return "file", text
    if colon and scheme.isidentifier():
        source.get(scheme)
    if "/" not in text and not path.suffix:
        source.get(text)
    shown = redacted(text)
    raise InputError(f"{shown}: no such file: check the path, or name a camera: 0, /dev/video2, rtsp://..., demo")


def make_spec(
    text: str,
    *,
    width_px: int | None = None,
    height_px: int | None = None,
    fps: float | None = None,
    pixel_format: str | None = None,
    loop: bool = False,
    every_frame: bool = False,
    any_redirect: bool = False,
    any_certificate: bool = False,
    rotate_deg: int = 0,
    flip: bool = False,
    seed: int = 0,
) -> SourceSpec:
    """The checked SourceSpec of a user's text and options; raises as ``parse_source`` does, and OptionError."""
    kind, address = parse_source(text)
    for name, side_px in (("width", width_px), ("height", height_px)):
        if side_px is not None and not 1 <= side_px <= MAX_SIDE_PX:
            raise OptionError(f"{name} {side_px} cannot work: choose 1 to {MAX_SIDE_PX} pixels")
    if fps is not None and not 0 < fps <= MAX_FPS:
        raise OptionError(f"{fps:g} frames a second cannot work: choose more than 0, at most {MAX_FPS:g}")
    if every_frame and fps is not None:
        raise OptionError("a rate and every frame exclude each other: drop one")
    if rotate_deg not in ROTATIONS_DEG:
        raise OptionError(f"to rotate by {rotate_deg} degrees cannot work: choose 0, 90, 180 or 270")
    return SourceSpec(
        kind=kind, address=address, width_px=width_px, height_px=height_px, fps=fps, pixel_format=pixel_format,
        loop=loop, every_frame=every_frame, any_redirect=any_redirect, any_certificate=any_certificate,
        rotate_deg=rotate_deg, flip=flip, seed=seed,
    )


def live_frame(pixels: NDArray[np.uint8], format: Format, shown: str) -> Frame:
    """A camera's pixels as a Frame; raises DamagedFrameError where they are none, since the next ones may be."""
    from edgeface.frames import Frame

    try:
        return Frame(pixels, format)
    except InputError as error:
        raise DamagedFrameError(f"{shown}: sends no usable picture: {error}") from None


def check_options(spec: SourceSpec, *taken: str) -> None:
    """Raise OptionError when the spec asks for an option that is not among those ``taken``: fields of SourceSpec."""
    for name, words in _OPTIONS.items():
        if name not in taken and getattr(spec, name):
            raise OptionError(f"{spec.shown}: a source of the kind {spec.kind} takes no {words}: leave that out")


_OPTIONS = {
    "width_px": "width", "height_px": "height", "fps": "frame rate", "pixel_format": "pixel format",
    "loop": "--loop", "every_frame": "--every-frame", "any_redirect": "--any-redirect",
    "any_certificate": "--any-certificate",
}

for _name in ("v4l2", "picamera2", "network", "http", "files", "demo"):
    importlib.import_module(f"{__name__}.{_name}")
