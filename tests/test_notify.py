"""Faces that come and go, told to a webhook and a command: what is told when, and what a bad receiver costs."""

from __future__ import annotations

import base64
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from edgeface.cli import main
from edgeface.errors import OptionError, UnknownNameError
from edgeface.faces import Faces
from edgeface.frames import Frame
from edgeface.stream.notify import execute
from edgeface.stream.notify.execute import Execute
from edgeface.stream.notify.home_assistant import discovery
from edgeface.stream.notify.notifier import Notifier
from edgeface.stream.notify.options import NotifyOptions
from edgeface.stream.notify.queued_outlet import CAPACITY, QueuedOutlet
from edgeface.stream.notify.visits import DEFAULT_KINDS, KINDS, Visits
from edgeface.stream.notify.webhook import Webhook
from edgeface.stream.notify.zones import Zone, parse_zones
from edgeface.stream.results import Result, TrackedFaces
from edgeface.stream.shots import Shot, Status

PERIOD_NS = 400_000_000
POINTS = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], np.float32)
PICTURE = np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)


def shot(number: int) -> Shot:
    return Shot("door", Frame(PICTURE), number, number * PERIOD_NS, number * PERIOD_NS, Status("online", "", 0.0))


def result(x: float | None, *, mask: float | None = None, ended: tuple[int, ...] = ()) -> Result:
    """A face of 20 px whose middle is at ``x``, 50 of a picture of 200 x 100; None: nobody."""
    n = int(x is not None)
    box = np.array([[(x or 0) - 10, 40, (x or 0) + 10, 60]], np.float32)[:n]
    faces = Faces(
        box, np.full(n, 0.9, np.float32), POINTS[None][:n],
        attributes={} if mask is None else {"mask": np.full(n, mask, np.float32)}, thresholds={"mask": 0.6},
    )
    return Result(TrackedFaces.of(faces, np.ones(n, np.int64)), True, ended, {}, 1.0, 0, 0)


def told(visits: Visits, *results: Result) -> list[tuple[int, str, str]]:
    """The number of the result, the event and its zone."""
    found = []
    for number, each in enumerate(results):
        found += [(number, record["event_type"], record["zone"]) for record in visits.add(shot(number), each)]
    return [*found, *((-1, record["event_type"], record["zone"]) for record in visits.end())]


def until(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_face_enters_and_leaves_the_picture() -> None:
    visits = Visits(parse_zones(()), DEFAULT_KINDS)
    assert told(visits, result(100), result(-5), result(None), result(None, ended=(1,))) == [
        (0, "enter", "picture"), (3, "leave", "picture"),
    ]
    assert told(Visits(parse_zones(()), ("leave",)), result(100)) == [(-1, "leave", "picture")]


def test_zones_and_a_time_to_stay() -> None:
    zones = parse_zones(("left=0,0,0.5,1", "right=0.5,0,1,0,1,1,0.5,1"))
    visits = Visits(zones, DEFAULT_KINDS, dwell_s=0.8)
    # Left for 1.2 s, then right; on the way back to the left for too short a time.
    places = (20, 20, 20, 20, 150, 150, 150, 150, 20, 150)
    assert told(visits, *map(result, places)) == [
        (2, "enter", "left"), (6, "leave", "left"), (6, "enter", "right"), (-1, "leave", "right"),
    ]
    assert visits.present() == {"left": 0, "right": 0}


def test_what_a_record_says() -> None:
    visits = Visits(parse_zones(("a=0,0,1,1",)), KINDS)
    visits.add(shot(0), result(50, mask=0.5))
    assert visits.present() == {"a": 1}
    best, leave = visits.add(shot(5), result(None, ended=(1,)))
    assert leave == {
        "schema": 1, "type": "event", "event_type": "leave", "source": "door", "time": 0.0, "zone": "a", "track": 1,
        "since": 0.0, "seconds": 0.0, "width": 200, "height": 100, "box": [40, 40, 60, 60], "score": 0.9, "mask": 0.5,
        "has_mask": False,
    }
    png = np.frombuffer(base64.b64decode(best["png_base64"]), np.uint8)
    assert cv2.imdecode(png, cv2.IMREAD_COLOR).shape == (112, 112, 3)


def test_a_missing_mask_is_told_once_and_again_after_one_was_worn() -> None:
    bare, worn = 0.1, 0.9
    #         told at 3             a flicker        surely on          told at 14
    masks = [bare, bare, bare, bare, worn, bare, bare, worn, worn, worn, worn, bare, bare, bare, bare, bare]
    visits = Visits(parse_zones(()), ("mask_missing",))
    assert [number for number, _, _ in told(visits, *(result(100, mask=mask) for mask in masks))] == [3, 14]
    unknown = Visits(parse_zones(()), ("mask_missing",))
    assert told(unknown, *(result(100) for _ in range(9))) == []


@pytest.mark.parametrize(
    "text", ["", "a", "a=", "a=0,0,1", "a=0,0,1,2", "a=0,0,0,1", "a b=0,0,1,1", "a=0,0,1,1,x,1", "a=0,0,1,1,0.5"]
)
def test_zones_that_are_none(text: str) -> None:
    with pytest.raises(OptionError, match="--zone"):
        Zone.parse(text)
    with pytest.raises(OptionError, match="two are called a"):
        parse_zones(("a=0,0,1,1", "a=0,0,.5,.5"))


class Receiver:
    """An HTTP server on the loopback: ``answer`` is its status, or None to hang until it is closed."""

    def __init__(self) -> None:
        self.answer: int | None = 204
        self.got: list[tuple[dict[str, Any], str | None]] = []
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if outer.answer is None:
                    outer.closing.wait(30)
                    return
                outer.got.append((body, self.headers["Authorization"]))
                self.send_response(outer.answer)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/faces?token=secret"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.closing.set()
    made.server.shutdown()
    made.server.server_close()


def test_a_webhook_gets_events(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEFACE_WEBHOOK_TOKEN", "abc")
    notifier = Notifier(Visits(parse_zones(()), DEFAULT_KINDS), [QueuedOutlet(Webhook(receiver.url))])
    notifier.put(shot(0), result(100))
    notifier.put(shot(1), result(None, ended=(1,)))
    notifier.close()
    notifier.close()
    assert [(body["event_type"], token) for body, token in receiver.got] == [
        ("enter", "Bearer abc"), ("leave", "Bearer abc"),
    ]


def test_a_webhook_in_trouble_is_said_once_and_counted(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    outlet = QueuedOutlet(Webhook(receiver.url))
    with caplog.at_level(logging.WARNING, "edgeface.stream"):
        receiver.answer = 500
        for number in range(3):
            outlet.happened({"number": number})
        until(lambda: outlet.dropped == 3)
        receiver.answer = 200
        outlet.happened({"number": 3})
        until(lambda: len(receiver.got) == 4 and len(caplog.records) == 2)
        outlet.close()
    texts = [record.getMessage() for record in caplog.records]
    assert "answers 500; events are dropped until it works" in texts[0]
    assert "works again; 3 events were dropped" in texts[1]
    assert "3 events were dropped" in texts[2]
    assert not [text for text in texts if "secret" in text]


def test_a_webhook_that_hangs_costs_the_camera_nothing(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver.answer = None
    outlet = QueuedOutlet(Webhook(receiver.url))
    for number in range(CAPACITY + 10):
        outlet.happened({"number": number})
    # One is on its way, or not yet.
    assert outlet.dropped >= 9
    outlet.close()
    assert outlet.dropped >= CAPACITY + 9


def test_a_webhook_that_is_down(caplog: pytest.LogCaptureFixture) -> None:
    outlet = QueuedOutlet(Webhook("http://127.0.0.1:9/x"))
    outlet.happened({})
    until(lambda: outlet.dropped == 1)
    outlet.close()
    assert "webhook http://127.0.0.1:9/x: not reachable" in caplog.text


def test_a_command_reads_events_without_a_shell(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = "import sys; open(sys.argv[1], 'a').write(sys.argv[2] + sys.stdin.read())"
    outlet = QueuedOutlet(Execute([sys.executable, "-c", code, str(out), "$HOME; "]))
    outlet.happened({"number": 0})
    until(lambda: out.exists() and out.read_text().endswith("\n"))
    outlet.close()
    assert out.read_text() == '$HOME; {"number":0}\n'
    assert outlet.dropped == 0


def test_a_command_that_fails_or_hangs_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlet = QueuedOutlet(Execute([sys.executable, "-c", "raise SystemExit('no such door')"]))
    outlet.happened({})
    until(lambda: outlet.dropped == 1)
    outlet.close()
    assert "ended with 1: no such door; events are dropped" in caplog.text
    monkeypatch.setattr(execute, "TIMEOUT_S", 0.3)
    hanging = QueuedOutlet(Execute(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; wait"]))
    hanging.happened({})
    until(lambda: hanging.dropped == 1)
    hanging.close()
    assert "was killed after 0.3 s" in caplog.text
    # What it started is gone as well, but for its entry until somebody asks.
    status = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/status")
    until(lambda: not status.exists() or "\nState:\tZ" in status.read_text())


def test_a_command_that_runs_at_the_end_is_ended(tmp_path: Path) -> None:
    outlet = QueuedOutlet(Execute(["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 60"]))
    outlet.happened({})
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    outlet.close()
    status = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/status")
    until(lambda: not status.exists() or "\nState:\tZ" in status.read_text())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"webhook": "ftp://x"}, "write http://HOST"),
        ({"webhook": "http://x:y"}, "write http://HOST"),
        ({"exec": ("no-such-command-here",)}, "no such command"),
        ({"zones": ("a=0,0,1,1",)}, "say to whom"),
        ({"home_assistant": True}, "add --mqtt"),
        ({"mqtt": True, "zones": ("a",)}, "--zone a"),
        ({"mqtt": True, "on": ("entre",)}, "Did you mean 'enter'"),
        ({"mqtt": True, "dwell_s": 1e6}, "--dwell"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], says: str) -> None:
    with pytest.raises((OptionError, UnknownNameError), match=says):
        NotifyOptions(**options)


def test_home_assistant_is_told_what_there_is() -> None:
    found = discovery("door/1", ("left", "right"), ("enter", "best_shot"), "0.1")
    assert sorted(found) == [
        "homeassistant/binary_sensor/edgeface_door_1/left_occupied/config",
        "homeassistant/binary_sensor/edgeface_door_1/right_occupied/config",
        "homeassistant/event/edgeface_door_1/happened/config",
        "homeassistant/image/edgeface_door_1/best_shot/config",
        "homeassistant/sensor/edgeface_door_1/left_faces/config",
        "homeassistant/sensor/edgeface_door_1/right_faces/config",
    ]
    assert len({about["unique_id"] for about in found.values()}) == 6
    assert {about["availability_topic"] for about in found.values()} == {"door/1/available"}
    sensor = found["homeassistant/sensor/edgeface_door_1/left_faces/config"]
    assert sensor["state_topic"] == "door/1/zone/left/faces"


def test_the_camera_tells_a_command(tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = tmp_path / "camera.toml"
    code = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"
    arguments = json.dumps([sys.executable, "-c", code, str(out)])
    config.write_text(f'[notify]\nexec = {arguments}\non = ["enter"]\nzone = ["all=0,0,1,1"]\n')
    camera = ["camera", "demo", "--model", "mos_s", "--size", "320", "--threads", "1", "--every-frame"]
    result = CliRunner().invoke(main, [*camera, "--max-frames", "6", "--config", str(config)])
    assert result.exit_code == 0, result.stderr
    # The end of the run may cut off the second.
    told = [json.loads(line) for line in out.read_text().splitlines()]
    assert {(event["event_type"], event["zone"], event["source"]) for event in told} == {("enter", "all", "demo")}
    for options, says in (
        (["--no-track", "--webhook", "http://x"], "leave --no-track out"),
        (["--blur", "--webhook", "http://x", "--on", "best_shot"], "choose one of them"),
        (["--exec", "'x"], "quote it as a shell wants it"),
        (["--exec", " "], "the command is empty"),
    ):
        refused = CliRunner().invoke(main, [*camera, *options])
        assert (refused.exit_code, says in refused.stderr) == (2, True)
