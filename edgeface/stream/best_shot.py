"""The best face of every track, for whoever compares faces (mos.txt, section 1: image selection by pose and quality).

A face's quality is the model's where it predicts one, which has seen what makes faces hard to tell apart. Elsewhere it
is the geometric mean of four shares, 0..1 each: the detector's score; how nearly it looks into the camera; its size, up
to that of the crop; and the sharpness of its crop. All but the last cost nothing, so a crop is made only where they
leave a chance of being better than what the track has, and five times a second at most where they are not clearly
better: frames in between show much the same face.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeface.atomic import make_folder, write_bytes
from edgeface.errors import InputError, OutputError
from edgeface.faces import QUALITY, Faces, face_records
from edgeface.runtime.align import SIZE_PX, align
from edgeface.stream.results import Result
from edgeface.stream.shots import Shot, Status
from edgeface.stream.sinks.queued import CallQueue

_TURNED_DEG = 30.0      # here the share is 0.61, at twice the angle 0.14
# Variance of the Laplacian of the grey crop at which half of the sharpness is reached. That of the astronaut's crop is
# 620, and 60 once it is blurred by one pixel.
_HALF_SHARP = 150.0
_CAPACITY = 256
# A track's next crop comes so long after its last one, unless all but its sharpness is better by this factor.
_PAUSE_NS, _CLEARLY = 200_000_000, 1.1

_log = logging.getLogger("edgeface.stream")


@dataclass(frozen=True)
class BestShot:
    """The best face of a track so far. ``crop`` uint8 (112, 112, 3) BGR, aligned; ``faces`` are those of its
    frame, of which it is that of ``index``; ``quality`` 0..1; ``shares`` what it is the mean of."""

    track: int
    crop: NDArray[np.uint8]
    quality: float
    shares: dict[str, float]
    faces: Faces
    index: int
    source: str
    frame: int
    taken_unix_ns: int

    def record(self) -> dict[str, Any]:
        """The face's JSON object, as in docs/camera.md."""
        return face_records(self.faces.select([self.index]))[0]


class BestShots:
    """Keeps the best face of every track that is followed, one crop a track. Tracks without landmarks have none."""

    def __init__(self) -> None:
        self._best: dict[int, BestShot] = {}
        self._tried: dict[int, tuple[int, float]] = {}      # by track: when a crop was made, what was known before it

    def add(self, shot: Shot, result: Result) -> None:
        """Look at the faces of a shot that were detected in it."""
        faces = result.faces
        if faces.landmarks is None:
            return
        for i, track in enumerate(faces.tracks.tolist()):
            if track < 1 or not faces.seen[i]:
                continue
            shares = _shares(faces, i)
            is_predicted = "predicted" in shares
            known = self._best.get(track)
            if known is not None and not self._is_worth_a_crop(shot, known, shares, is_predicted):
                continue
            self._tried[track] = shot.taken_monotonic_ns, _mean(shares.values())
            try:
                (crop,) = align(shot.frame, faces.landmarks[i : i + 1])
            except InputError:      # landmarks that make no face: there is nothing to keep
                continue
            if not is_predicted:
                shares["sharpness"] = sharpness_share(crop)
            quality = _mean(shares.values())
            if not math.isfinite(quality):      # nothing compares with it: it would stay the best for good
                continue
            if known is None or quality > known.quality:
                self._best[track] = BestShot(
                    track, crop, quality, shares, faces, i, shot.source, shot.number, shot.taken_unix_ns
                )

    def _is_worth_a_crop(self, shot: Shot, known: BestShot, shares: dict[str, float], is_predicted: bool) -> bool:
        if _mean([*shares.values(), *([] if is_predicted else [1.0])]) <= known.quality:
            return False
        tried_ns, before = self._tried[known.track]
        return shot.taken_monotonic_ns - tried_ns >= _PAUSE_NS or _mean(shares.values()) > _CLEARLY * before

    def take(self, tracks: Iterable[int]) -> list[BestShot]:
        """The best faces of tracks that have ended, and forget them."""
        tracks = list(tracks)
        for track in tracks:
            self._tried.pop(track, None)
        return [best for track in tracks if (best := self._best.pop(track, None)) is not None]

    def take_all(self) -> list[BestShot]:
        """The best faces of all tracks, and forget them."""
        return self.take(list(self._best))


def _shares(faces: Faces, index: int) -> dict[str, float]:
    """What can be said of a face's quality without its crop."""
    if QUALITY in faces.attributes:
        return {"predicted": float(faces.attributes[QUALITY][index])}
    return {
        "score": float(faces.scores[index]),
        "pose": 1.0 if faces.pose is None else frontal_share(faces.pose[index]),
        "size": size_share(faces.boxes[index]),
    }


def frontal_share(pose: NDArray[np.floating]) -> float:
    """1 for a face that looks into the camera, falling with pitch and yaw in degrees, (3,) pitch yaw roll; roll is
    undone by the alignment and costs nothing."""
    pitch_deg, yaw_deg = float(pose[0]), float(pose[1])
    return math.exp(-(pitch_deg**2 + yaw_deg**2) / (2 * _TURNED_DEG**2))


def size_share(box: NDArray[np.floating]) -> float:
    """The geometric mean of a box's sides (4,) x1 y1 x2 y2 as a share of the crop's side, at most 1."""
    x1, y1, x2, y2 = box.tolist()
    return min(1.0, math.sqrt(max(x2 - x1, 0.0) * max(y2 - y1, 0.0)) / SIZE_PX)


def sharpness_share(crop: NDArray[np.uint8]) -> float:
    """From 0 for a crop without any detail towards 1, by the variance of its Laplacian (Pech-Pacheco and others, 2000).
    """
    _, deviation = cv2.meanStdDev(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), cv2.CV_16S))
    variance = float(deviation[0, 0]) ** 2
    return variance / (variance + _HALF_SHARP)


def _mean(shares: Iterable[float]) -> float:
    values = list(shares)
    return math.prod(values) ** (1 / len(values))


class BestShotFiles:
    """A sink that writes the best face of every track that ends into ``folder``: a PNG and a JSON file beside it.

    Raises OutputError when the folder cannot be made. Files are written by a thread. A disk that takes no more later
    on is logged, counted in ``lost``, and does not end the run.
    """

    def __init__(self, folder: Path) -> None:
        self.lost = 0
        self._folder = folder
        self._best = BestShots()
        make_folder(folder)
        self._queue = CallQueue("best shots", lambda: None, capacity=_CAPACITY)

    def put(self, shot: Shot, result: Result) -> None:
        self._best.add(shot, result)
        self._queue_up(self._best.take(result.ended))

    def status(self, status: Status) -> None:
        pass

    def close(self) -> None:
        self._queue_up(self._best.take_all())
        self._queue.close()

    def _queue_up(self, shots: list[BestShot]) -> None:
        if shots:
            self._queue.add(lambda: self._write(shots))

    def _write(self, shots: Iterable[BestShot]) -> None:
        for best in shots:
            seconds, rest = divmod(best.taken_unix_ns, 1_000_000_000)
            name = f"{seconds}.{rest // 1_000_000:03}-{best.track:05}"
            about = {
                "schema": 1,
                "type": "best_shot",
                "image": f"{name}.png",
                "source": best.source,
                "frame": best.frame,
                "time": round(best.taken_unix_ns / 1e9, 6),
                "track": best.track,
                "quality": round(best.quality, 4),
                "shares": {share: round(value, 4) for share, value in best.shares.items()},
                "face": best.record(),
            }
            _, png = cv2.imencode(".png", best.crop)
            try:
                write_bytes(self._folder / f"{name}.png", png.tobytes())
                write_bytes(self._folder / f"{name}.json", msgspec.json.format(msgspec.json.encode(about), indent=2))
            except OutputError as error:
                if not self.lost:
                    _log.warning("%s; best shots are lost until it can be", error)
                self.lost += 1
