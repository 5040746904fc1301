"""What a stream does as figures: ``/metrics`` for Prometheus and ``/health`` for whatever watches over it."""

from __future__ import annotations

import threading
from collections import Counter as Counted
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, get_args

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from edgeface.stream.results import Result, status_record
from edgeface.stream.shots import Shot, State, Status
from edgeface.stream.thermometer import Thermometer

# Seconds. From a tracker's part of a millisecond to what nobody would call live.
_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
# A source is online and yet nothing comes out of the loop for so long: something hangs.
_HANGS_S = 10.0


class Metrics:
    """A sink that counts, in a registry of its own. ``thermometer`` is asked when somebody reads the figures."""

    def __init__(self, source: str, thermometer: Thermometer) -> None:
        self._source = source
        self._thermometer = thermometer
        self._lock = threading.Lock()
        self._status: Status | None = None
        self._last_result_s: float | None = None
        self._dropped = self._failed = self._damaged = self._starts = 0
        self.registry = CollectorRegistry()
        self._frames = self._counter("frames", "Frames with a result")
        self._looks = self._counter("detections", "Frames that the detector looked at")
        self._drops = self._counter("dropped_frames", "Frames that a newer one replaced before they were looked at")
        self._failures = self._counter("failed_frames", "Frames that the detector failed on")
        self._damages = self._counter("damaged_frames", "Frames left out since they came damaged")
        self._source_starts = self._counter("source_starts", "Times that the source was started")
        self._faces = Gauge("edgeface_faces", "Faces in the newest frame", registry=self.registry)
        self._latency = Histogram(
            "edgeface_latency_seconds", "From the moment a frame was taken to its result", buckets=_BUCKETS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "edgeface_stage_seconds", "Time a stage of the loop", ["stage"], buckets=_BUCKETS, registry=self.registry
        )
        self._states = Gauge(
            "edgeface_source_state", "1 for the state that the source is in", ["state"], registry=self.registry
        )
        for state in get_args(State):
            self._states.labels(state).set(0)
        self.registry.register(_WarmthCollector(thermometer))

    def put(self, shot: Shot, result: Result) -> None:
        self._frames.inc()
        self._looks.inc(result.detected)
        self._drops.inc(max(0, result.dropped - self._dropped))
        self._failures.inc(max(0, result.failed - self._failed))
        self._damages.inc(max(0, shot.status.damaged - self._damaged))
        self._dropped, self._failed = result.dropped, result.failed
        self._damaged = max(self._damaged, shot.status.damaged)
        self._faces.set(len(result.faces))
        self._latency.observe(result.latency_ms / 1e3)
        for stage, stage_ms in result.stages_ms.items():
            self._stages.labels(stage).observe(stage_ms / 1e3)
        with self._lock:
            self._last_result_s = monotonic()

    def status(self, status: Status) -> None:
        with self._lock:
            self._status = status
        self._source_starts.inc(max(0, status.starts - self._starts))
        self._starts = status.starts
        self._damages.inc(max(0, status.damaged - self._damaged))
        self._damaged = max(self._damaged, status.damaged)
        for state in get_args(State):
            self._states.labels(state).set(state == status.state)

    def close(self) -> None:
        """Nothing is held."""

    def routes(self) -> list[BaseRoute]:
        """``/metrics`` and ``/health``."""
        return [Route("/metrics", self._metrics), Route("/health", self._health)]

    def health(self) -> Checked:
        """Whether all is well: the source is online and results come."""
        with self._lock:
            status, last_s = self._status, self._last_result_s
        age_s = None if last_s is None else monotonic() - last_s
        is_well = status is not None and status.state == "online" and age_s is not None and age_s < _HANGS_S
        return Checked(is_well, {
            "ok": is_well,
            "source": None if status is None else status_record(self._source, status),
            "last_result_age_s": None if age_s is None else round(age_s, 3),
            "machine": self._thermometer.look().record(),
            "time": round(time(), 3),
        })

    def _counter(self, name: str, documentation: str) -> Counter:
        return Counter(f"edgeface_{name}", documentation, registry=self.registry)

    async def _metrics(self, _request: Request) -> Response:
        return Response(generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _health(self, _request: Request) -> Response:
        checked = self.health()
        return JSONResponse(checked.record, 200 if checked.is_well else 503)


@dataclass(frozen=True)
class Checked:
    """An answer of ``/health``: 200 where it is well, 503 where it is not, with ``record`` in either case."""

    is_well: bool
    record: dict[str, Any]


class _WarmthCollector:
    def __init__(self, thermometer: Thermometer) -> None:
        self._thermometer = thermometer

    def collect(self) -> Iterator[GaugeMetricFamily]:
        warmth = self._thermometer.look()
        celsius = GaugeMetricFamily("edgeface_temperature_celsius", "Of each thermal zone", labels=["zone"])
        kinds: Counted[str] = Counted()
        for zone in warmth.health.zones:
            kinds[zone.kind] += 1
            # Prometheus refuses all figures where two have one name, and boards have several zones of a kind.
            name = zone.kind if kinds[zone.kind] == 1 else f"{zone.kind}-{kinds[zone.kind]}"
            celsius.add_metric([name], zone.celsius)
        yield celsius
        yield GaugeMetricFamily(
            "edgeface_throttled", "1 while the machine runs slower than it could", float(bool(warmth.throttled))
        )
