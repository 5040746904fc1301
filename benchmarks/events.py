"""What ``edgeface camera --events`` costs beside a frame: processor time of the loop and of the thread that writes.

    python benchmarks/events.py FOLDER

Each of 300 frames of 640 x 480 has a face that comes and one that goes: at 30 frames a second, 30 events a second.
Beside it a frame is timed that mos_s looks at in one thread. Processor time is taken, since other work does not count
in it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from skimage.data import astronaut

import edgeface
from edgeface.faces import Faces
from edgeface.frames import Frame
from edgeface.stream.events.recorder import EventOptions, EventRecorder
from edgeface.stream.results import Result, TrackedFaces
from edgeface.stream.shots import Shot, Status

FRAMES, LIFE_FRAMES, RATE = 300, 2, 30.0
ONLINE = Status("online", "", 0.0)


def result_of(number: int, face: Faces) -> Result:
    """The faces of a frame: each track is there for LIFE_FRAMES, one comes and one goes a frame."""
    tracks = np.arange(number, number + LIFE_FRAMES, dtype=np.int64) + 1
    faces = TrackedFaces.of(face.select(np.zeros(LIFE_FRAMES, int)), tracks)
    return Result(faces, True, (number,) if number else (), {}, 10.0, 0, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the events are written; it stays")
    parser.add_argument("--no-shots", action="store_true", help="rows alone")
    given = parser.parse_args()
    picture = np.zeros((480, 640, 3), np.uint8)
    picture[:, 64:576] = astronaut()[:480, :, ::-1]
    detector = edgeface.load("mos_s-int8-ncnn", threads=1)
    face = detector(picture)
    frames_ms = []
    for _ in range(30):
        before = time.process_time()
        detector(picture)
        frames_ms.append((time.process_time() - before) * 1e3)
    frame_ms = statistics.median(frames_ms)
    recorder = EventRecorder(EventOptions(given.folder, shots=not given.no_shots))
    whole, mine, loop_s, started = time.process_time(), time.thread_time(), 0.0, time.monotonic()
    for number in range(FRAMES):
        shot = Shot("bench", Frame(picture), number, time.monotonic_ns(), time.time_ns(), ONLINE)
        result = result_of(number, face)
        before = time.thread_time()
        recorder.put(shot, result)
        loop_s += time.thread_time() - before
        time.sleep(max(0.0, started + (number + 1) / RATE - time.monotonic()))
    before = time.thread_time()
    recorder.close()
    loop_s += time.thread_time() - before
    # Less what making the shots and results took here.
    whole = time.process_time() - whole - (time.thread_time() - mine - loop_s)
    for what, seconds in (("in the loop", loop_s), ("in all, with the thread that writes", whole)):
        ms = seconds / FRAMES * 1e3
        print(f"{what}: {ms:.3f} ms a frame, {ms / frame_ms:.1%} of its {frame_ms:.1f} ms")  # noqa: T201
    print(f"{recorder.lost} events lost")  # noqa: T201


if __name__ == "__main__":
    main()
