"""What edgeface is asked in the machine with a camera, and whether what it answered is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeVar

import msgspec

from edgeface.errors import SourceError
from edgeface.frames import Format

# vivid has no MJPEG: whoever asks for it gets another format.
_LOOKED_AT = ("yuyv", "nv12", "grey", "bgr", "mjpeg")
_SHAPES: dict[Format, tuple[int, ...]] = {"yuyv": (180, 320, 2), "nv12": (270, 320), "grey": (180, 320),
                                          "bgr": (180, 320, 3)}
# White, yellow, cyan, green, magenta, red, blue, black: whether B, G and R are bright.
_BARS = ((1, 1, 1), (0, 1, 1), (1, 1, 0), (0, 1, 0), (1, 0, 1), (0, 0, 1), (1, 0, 0), (0, 0, 0))
_BRIGHT, _DARK = 128.0, 32.0
# A frame waited in the driver while look.py slept 400 ms; a stamp of its own says so.
_LEAST_AGE_MS, _MOST_AGE_MS = 100.0, 2000.0
_TIMEOUT_S = 120.0
_NOBODY = 65534
_UNPLUG_AFTER, _UNPLUG_FRAMES = 4, 10


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A program for the machine's Python: ``user`` runs it (None: root) while another program has the camera
    (``held``), or the camera goes away after so many frames and comes back once that is noticed (``unplug_after``)."""

    name: str
    argv: list[str]
    timeout_s: float = _TIMEOUT_S
    user: int | None = None
    held: bool = False
    unplug_after: int = 0


class Outcome(msgspec.Struct, frozen=True, tag="outcome"):
    """What a step wrote, line by line, and its exit code, None when it did not end in time."""

    name: str
    code: int | None
    out: list[str]
    err: list[str]
    seconds: float


class Look(msgspec.Struct, frozen=True):
    """A line of look.py."""

    asked: str
    error: str = ""
    given: Format = "bgr"
    shape: tuple[int, ...] = ()
    width: int = 0
    height: int = 0
    fps: float | None = None
    age_ms: float = 0.0
    bars: list[list[float]] = []


class _Line(msgspec.Struct, frozen=True):
    """A line of ``edgeface camera --json -``, as far as it is looked at."""

    type: str
    time: float
    state: str
    width: int = 0
    height: int = 0
    frame: int = -1
    reason: str = ""
    starts: int = 0


_Known = TypeVar("_Known", Look, _Line)


class WrongError(Exception):
    """An answer is not what it should be: which, in a few words."""


@dataclass(frozen=True)
class Trial:
    """A step, and what says of its outcome in a line what came, or raises WrongError."""

    step: Step
    judge: Callable[[Outcome], str]


def judge_looks(outcome: Outcome) -> str:
    """Each format has its own shape, the driver's stamp and the bars' colours; what is not to be had becomes another.

    Raises WrongError.
    """
    _ended(outcome, 0)
    looks = [_decoded(line, Look) for line in outcome.out]
    if tuple(look.asked for look in looks) != _LOOKED_AT:
        raise WrongError(f"looked at {', '.join(look.asked for look in looks) or 'nothing'}")
    for look in looks:
        if look.error:
            raise WrongError(f"{look.asked}: {look.error}")
        wanted = "bgr" if look.asked == "mjpeg" else look.asked
        if look.given != wanted or look.shape != _SHAPES[look.given]:
            raise WrongError(f"{look.asked} asked, {look.given} {look.shape} given")
        if not _LEAST_AGE_MS <= look.age_ms <= _MOST_AGE_MS:
            raise WrongError(f"{look.asked}: a frame that waited counts as {look.age_ms:.0f} ms old")
        _judge_bars(look)
    given = ", ".join(f"{look.asked} as {look.given} {look.width} x {look.height}" for look in looks)
    return f"{given}; frames that waited are {min(look.age_ms for look in looks):.0f} ms old or more"


def _judge_bars(look: Look) -> None:
    if len(look.bars) != len(_BARS):
        raise WrongError(f"{look.asked}: {len(look.bars)} bars")
    if look.given == "grey":
        luma = [bar[0] for bar in look.bars]
        if any(right >= left for left, right in pairwise(luma)):
            raise WrongError(f"grey: the bars do not get darker: {luma}")
        return
    for bar, wanted in zip(look.bars, _BARS, strict=True):
        if not all(value > _BRIGHT if bright else value < _DARK for value, bright in zip(bar, wanted, strict=True)):
            raise WrongError(f"{look.asked}: a bar of the colour (B, G, R) {tuple(round(v) for v in bar)}")


def judge_frames(outcome: Outcome, count: int, width: int, height: int, *, is_other: bool) -> str:
    """``count`` frames of that size from a camera that was started once; ``is_other`` than asked, and a line says so.

    Raises WrongError.
    """
    _ended(outcome, 0)
    states, frames = _lines(outcome)
    _judge_frames(frames, count, width, height)
    if [line.state for line in states] != ["offline", "online"]:
        raise WrongError(f"the camera was {', '.join(line.state for line in states)}")
    if any("the camera gives" in line for line in outcome.err) != is_other:
        raise WrongError(f"what the camera gives in place of what was asked is {'not ' if is_other else ''}said")
    return f"{len(frames)} frames of {width} x {height}, the camera {' then '.join(line.state for line in states)}"


def judge_unplugged(outcome: Outcome) -> str:
    """Frames, a camera that goes away and is said to, the same camera again, frames. Raises WrongError."""
    _ended(outcome, 0)
    states, frames = _lines(outcome)
    _judge_frames(frames, _UNPLUG_FRAMES, 320, 180)
    names = [line.state for line in states]
    if names[:3] != ["offline", "online", "offline"] or names[-1] != "online" or states[-1].starts < 2:
        raise WrongError(f"the camera was {', '.join(names)}, started {states[-1].starts if states else 0} times")
    lost, back = states[2], states[-1]
    after = sum(line.time >= lost.time for line in frames)
    if not after or after == len(frames):
        raise WrongError(f"{after} of {len(frames)} frames came after the camera had gone")
    return (f"{len(frames) - after} frames, then {lost.reason!r}, back after {back.time - lost.time:.1f} s emulated, "
            f"{after} frames more")


def judge_refused(outcome: Outcome, words: tuple[str, ...]) -> str:
    """The exit code of a source that does not work, and a line for the try and one for the end that say why.

    Raises WrongError.
    """
    _ended(outcome, SourceError.exit_code)
    if outcome.out or not outcome.err:
        raise WrongError(f"{len(outcome.out)} lines of output, {len(outcome.err)} of errors")
    for line in outcome.err:
        missing = [word for word in words if word not in line]
        if not line.startswith("edgeface: ") or missing:
            raise WrongError(f"{line!r} does not say {' and '.join(missing) or 'who speaks'}")
    return outcome.err[-1]


def _ended(outcome: Outcome, code: int) -> None:
    if outcome.code is None:
        raise WrongError(f"it did not end within {outcome.seconds:.0f} s")
    if outcome.code != code:
        raise WrongError(f"exit code {outcome.code} and not {code}")


def _lines(outcome: Outcome) -> tuple[list[_Line], list[_Line]]:
    lines = [_decoded(line, _Line) for line in outcome.out]
    return [line for line in lines if line.type == "state"], [line for line in lines if line.type == "frame"]


def _judge_frames(frames: list[_Line], count: int, width: int, height: int) -> None:
    if len(frames) != count:
        raise WrongError(f"{len(frames)} frames and not {count}")
    other = next((line for line in frames if (line.width, line.height) != (width, height)), None)
    if other is not None:
        raise WrongError(f"a frame of {other.width} x {other.height} and not {width} x {height}")
    if any(after.frame <= before.frame or after.time <= before.time
           for before, after in pairwise(frames)):
        raise WrongError("numbers or times of the frames do not rise")


def _decoded(line: str, kind: type[_Known]) -> _Known:
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.DecodeError as error:
        raise WrongError(f"{line!r}: {error}") from None


def _camera(name: str, *options: str, user: int | None = None, held: bool = False, unplug_after: int = 0) -> Step:
    argv = ["-m", "edgeface", "camera", *options]
    return Step(name=name, argv=argv, user=user, held=held, unplug_after=unplug_after)


_SMALL = ("--width", "320", "--height", "240", "--size", "160", "--json", "-")
_ONCE = ("--give-up", "1")

# vivid gives 320 x 180 and 640 x 480, and takes the nearest of its sizes for another.
TRIALS = (
    Trial(Step(name="pixel formats", argv=["/look.py", "320", "240", *_LOOKED_AT]), judge_looks),
    Trial(_camera("yuyv", "0", "--pixel-format", "yuyv", "--max-frames", "5", *_SMALL),
          partial(judge_frames, count=5, width=320, height=180, is_other=True)),
    Trial(_camera("nv12", "0", "--pixel-format", "nv12", "--width", "640", "--height", "480", "--size", "160",
                  "--max-frames", "5", "--json", "-"),
          partial(judge_frames, count=5, width=640, height=480, is_other=False)),
    Trial(_camera("unplugged", "0", "--max-frames", str(_UNPLUG_FRAMES), *_SMALL, unplug_after=_UNPLUG_AFTER),
          judge_unplugged),
    Trial(_camera("no such device", "/dev/video9", *_ONCE),
          partial(judge_refused, words=("/dev/video9", "no such device", "/dev/video0"))),
    Trial(_camera("no camera", "1", *_ONCE), partial(judge_refused, words=("/dev/video1", "gives no pictures"))),
    Trial(_camera("in use", "0", *_ONCE, held=True),
          partial(judge_refused, words=("/dev/video0", "in use by another program"))),
    Trial(_camera("not allowed", "0", *_ONCE, user=_NOBODY),
          partial(judge_refused, words=("/dev/video0", "permission denied", "video"))),
)
