"""Faces that enter a zone, stay, wear no mask, and leave."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2

from edgeface.errors import OptionError, UnknownNameError
from edgeface.faces import Faces
from edgeface.registry import unknown_name
from edgeface.stream.best_shot import BestShot, BestShots
from edgeface.stream.notify import SCHEMA
from edgeface.stream.notify.zones import Zone
from edgeface.stream.results import Result
from edgeface.stream.shots import Shot
from edgeface.stream.track_history import TrackHistories, TrackHistory

KINDS = ("enter", "leave", "best_shot", "mask_missing")
# A picture of a face is passed on only where it is asked for.
DEFAULT_KINDS = ("enter", "leave", "mask_missing")
# A face that crosses a zone's edge to and fro has not left.
_OUTSIDE_NS = 1_000_000_000
# So many sightings in a row, over so long, that say the same of a mask.
_MASK_SIGHTINGS, _MASK_NS = 3, 1_000_000_000

Record = dict[str, Any]


@dataclass
class _Visit:
    """Of one track to one zone."""

    since_ns: int
    last_ns: int
    has_entered: bool = False


@dataclass
class _Mask:
    """What the last sightings of a track said: ``missing``, how often in a row, since when, and whether it was told."""

    missing: bool
    count: int
    since_ns: int
    is_told: bool = False


class Visits:
    """Events of ``kinds``, out of KINDS, in ``zones``: a face has entered once the middle of its box was in a zone
    for ``dwell_s``. Raises UnknownNameError for another kind, and OptionError for a time that cannot be."""

    def __init__(self, zones: Sequence[Zone], kinds: Sequence[str], dwell_s: float = 0.0) -> None:
        for kind in kinds:
            if kind not in KINDS:
                raise UnknownNameError(unknown_name("event", kind, KINDS))
        if not 0 <= dwell_s < 86_400:
            raise OptionError(f"--dwell {dwell_s:g}: choose 0 to 86400 seconds")
        self._zones = zones
        self._kinds = frozenset(kinds)
        self._dwell_ns = round(dwell_s * 1e9)
        self._histories = TrackHistories()
        self._best = BestShots() if "best_shot" in kinds else None
        self._visits: dict[tuple[int, str], _Visit] = {}
        self._masks: dict[int, _Mask] = {}

    def add(self, shot: Shot, result: Result) -> list[Record]:
        """What has happened by this result, as objects for JSON."""
        if self._best is not None:
            self._best.add(shot, result)
        records: list[Record] = []
        masks = _masks(result.faces, result.faces.tracks.tolist())
        for history in self._histories.add(shot, result):
            records += self._moved(history, shot.taken_unix_ns)
            if history.track in masks:
                records += self._masked(history, masks[history.track], shot.taken_unix_ns)
        return self._wanted(records + self._ended(self._histories.take(result.ended)))

    def end(self) -> list[Record]:
        """What happens when the stream ends: every face leaves."""
        return self._wanted(self._ended(self._histories.take_all()))

    def present(self) -> dict[str, int]:
        """How many faces are in each zone."""
        inside = [zone for (_, zone), visit in self._visits.items() if visit.has_entered]
        return {zone.name: inside.count(zone.name) for zone in self._zones}

    def _wanted(self, records: list[Record]) -> list[Record]:
        return [record for record in records if record["event_type"] in self._kinds]

    def _moved(self, history: TrackHistory, now_ns: int) -> list[Record]:
        x1, y1, x2, y2 = history.last_box
        x, y = (x1 + x2) / 2 / history.width, (y1 + y2) / 2 / history.height
        records = []
        for zone in self._zones:
            key = history.track, zone.name
            visit = self._visits.get(key)
            if zone.holds(x, y):
                if visit is None:
                    visit = self._visits[key] = _Visit(now_ns, now_ns)
                visit.last_ns = now_ns
                if not visit.has_entered and now_ns - visit.since_ns >= self._dwell_ns:
                    visit.has_entered = True
                    records.append(_record("enter", history, zone.name, visit, now_ns))
            elif visit is not None and now_ns - visit.last_ns >= _OUTSIDE_NS:
                records += self._left(history, zone.name)
        return records

    def _left(self, history: TrackHistory, zone: str) -> list[Record]:
        visit = self._visits.pop((history.track, zone))
        return [_record("leave", history, zone, visit, visit.last_ns)] if visit.has_entered else []

    def _masked(self, history: TrackHistory, has_mask: bool, now_ns: int) -> list[Record]:
        known = self._masks.get(history.track)
        if known is None or known.missing == has_mask:
            # The other way round. It is told again only once the mask was surely on meanwhile.
            is_told = known is not None and known.is_told and (has_mask or known.count < _MASK_SIGHTINGS)
            known = self._masks[history.track] = _Mask(not has_mask, 0, now_ns, is_told)
        known.count += 1
        if not known.missing or known.is_told or known.count < _MASK_SIGHTINGS or now_ns - known.since_ns < _MASK_NS:
            return []
        records = [
            _record("mask_missing", history, zone.name, visit, now_ns)
            for zone in self._zones
            if (visit := self._visits.get((history.track, zone.name))) is not None and visit.has_entered
        ]
        known.is_told = bool(records)
        return records

    def _ended(self, histories: list[TrackHistory]) -> list[Record]:
        records = []
        for history in histories:
            self._masks.pop(history.track, None)
            shots = [] if self._best is None else self._best.take([history.track])
            for zone in self._zones:
                visit = self._visits.get((history.track, zone.name))
                if visit is None:
                    continue
                if visit.has_entered and shots:
                    best = _record("best_shot", history, zone.name, visit, visit.last_ns)
                    records.append(best | _picture(shots[0]))
                records += self._left(history, zone.name)
        return records


def _masks(faces: Faces, tracks: list[int]) -> dict[int, bool]:
    """What this look says of a mask, by track, where the model says anything."""
    if "mask" not in faces.attributes:
        return {}
    return dict(zip(tracks, faces.has("mask").tolist(), strict=True))


def _record(kind: str, history: TrackHistory, zone: str, visit: _Visit, now_ns: int) -> Record:
    mask = history.attributes().get("mask")
    return {
        "schema": SCHEMA,
        "type": "event",
        "event_type": kind,
        "source": history.source,
        "time": round(now_ns / 1e9, 6),
        "zone": zone,
        "track": history.track,
        "since": round(visit.since_ns / 1e9, 6),
        "seconds": round((now_ns - visit.since_ns) / 1e9, 3),
        "width": history.width,
        "height": history.height,
        "box": [round(value, 2) for value in history.last_box],
        "score": round(history.best_score, 4),
        "mask": None if mask is None else round(mask, 4),
        "has_mask": history.has("mask"),
    }


def _picture(best: BestShot) -> Record:
    _, png = cv2.imencode(".png", best.crop)
    return {"quality": round(best.quality, 4), "png_base64": base64.b64encode(png.tobytes()).decode()}
