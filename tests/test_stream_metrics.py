"""``/metrics`` as Prometheus reads it, and ``/health`` as whatever watches reads it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from edgeface.board_health import Health, Zone
from edgeface.stream.metrics import Metrics
from edgeface.stream.preview.web import Web, WebOptions
from edgeface.stream.sinks import SinkContext
from edgeface.stream.thermometer import Thermometer, Warmth
from preview_shots import SOURCE, result, shot, status

PICTURE = np.zeros((24, 32, 3), np.uint8)


class Hot(Thermometer):
    def look(self) -> Warmth:
        return Warmth(Health([Zone("cpu-thermal", 85.0)], [], []), "the clock is capped")


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web(WebOptions(page=False, port=0), SinkContext(SOURCE), Hot())
    yield made
    made.close()


def get(web: Web, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=20)
    connection.request("GET", path)
    answer = connection.getresponse()
    got = answer.status, answer.read().decode()
    connection.close()
    return got


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_figures_add_up(web: Web) -> None:
    web.status(status())
    for number in range(4):
        web.put(shot(PICTURE, number), result([(1, 1, 9, 9), (10, 1, 19, 9)]))
    code, text = get(web, "/metrics")
    assert code == 200
    found = samples(text)
    assert found["edgeface_frames_total", ()] == 4
    assert found["edgeface_detections_total", ()] == 4
    assert found["edgeface_dropped_frames_total", ()] == 3
    assert found["edgeface_faces", ()] == 2
    assert found["edgeface_source_starts_total", ()] == 1
    assert found["edgeface_latency_seconds_count", ()] == 4
    assert found["edgeface_latency_seconds_sum", ()] == pytest.approx(4 * 0.015)
    assert found["edgeface_stage_seconds_count", (("stage", "network"),)] == 4
    assert found["edgeface_source_state", (("state", "online"),)] == 1
    assert found["edgeface_source_state", (("state", "offline"),)] == 0
    assert found["edgeface_temperature_celsius", (("zone", "cpu-thermal"),)] == 85.0
    assert found["edgeface_throttled", ()] == 1


def test_health_says_why_it_is_not_well(web: Web) -> None:
    code, text = get(web, "/health")
    assert (code, json.loads(text)["ok"]) == (503, False)
    web.status(status())
    web.put(shot(PICTURE, 0), result([]))
    code, text = get(web, "/health")
    assert (code, json.loads(text)["ok"]) == (200, True)
    assert json.loads(text)["machine"]["throttled"] == "the clock is capped"
    web.status(status("offline", "the camera is gone"))
    code, text = get(web, "/health")
    assert code == 503
    assert json.loads(text)["source"]["reason"] == "the camera is gone"


def test_the_figures_alone_have_no_page(web: Web) -> None:
    assert get(web, "/")[0] == 404
    assert web.url == f"http://127.0.0.1:{web.port}/metrics"


def test_where_others_can_reach_it_there_is_a_token() -> None:
    web = Web(WebOptions(bind="0.0.0.0", port=0), SinkContext(SOURCE), Thermometer())
    try:
        assert web.asks_token
        assert "?token=" in web.url
        assert "0.0.0.0" not in web.url     # nobody can go there
        assert get(web, "/metrics")[0] == 401
        assert get(web, "/health")[0] == 401
        assert get(web, "/metrics?" + web.url.split("?")[1])[0] == 200
    finally:
        web.close()


def test_a_token_of_ones_own_is_asked_for_and_not_printed() -> None:
    web = Web(WebOptions(token="a-token-of-good-length", port=0), SinkContext(SOURCE), Thermometer())
    try:
        assert web.asks_token
        assert web.url == f"http://127.0.0.1:{web.port}/"
        assert get(web, "/metrics")[0] == 401
        assert get(web, "/metrics?token=a-token-of-good-length")[0] == 200
    finally:
        web.close()


def test_zones_of_one_kind_are_told_apart() -> None:
    class Twin(Thermometer):
        def look(self) -> Warmth:
            return Warmth(Health([Zone("cpu", 60.0), Zone("gpu", 50.0), Zone("cpu", 70.0)], [], []), "")

    found = samples(generate_latest(Metrics(SOURCE, Twin()).registry).decode())
    celsius = {dict(labels)["zone"]: value for (name, labels), value in found.items() if "celsius" in name}
    assert celsius == {"cpu": 60.0, "gpu": 50.0, "cpu-2": 70.0}


def test_two_runs_in_one_process_do_not_share_figures() -> None:
    first, second = Metrics(SOURCE, Thermometer()), Metrics(SOURCE, Thermometer())
    first.put(shot(PICTURE, 0), result([]))
    assert second.registry.get_sample_value("edgeface_frames_total") == 0
