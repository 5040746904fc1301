"""Results at a real broker: mosquitto, started, killed and started again by the tests."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeface.errors import OptionError
from edgeface.stream.notify import Outlet
from edgeface.stream.sinks import SinkContext, open_sink
from edgeface.stream.sinks import mqtt as mqtt_sink
from edgeface.stream.sinks.mqtt import Address, MqttSink
from preview_shots import SOURCE, result, shot, status

paho = pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
PICTURE = np.zeros((24, 32, 3), np.uint8)
BOX = (4.0, 4.0, 20.0, 20.0)
DEADLINE_S = 20.0
CONTEXT = SinkContext(SOURCE)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Broker:
    """A mosquitto on a free port of the loopback, with a folder for its files."""

    def __init__(self, folder: Path, *settings: str) -> None:
        assert MOSQUITTO is not None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", *(settings or ("allow_anonymous true",))]
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [str(MOSQUITTO), "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

        def answers() -> bool:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
            except OSError:
                return False
            return True

        until(answers)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(DEADLINE_S)
            self._process = None


class Subscriber:
    """Everything under ``prefix``: pairs of topic and text, in the order of arrival."""

    def __init__(self, port: int, prefix: str = "edgeface", user: str | None = None, password: str = "") -> None:
        from paho.mqtt.enums import CallbackAPIVersion

        self.heard: list[tuple[str, str]] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2)
        if user is not None:
            self.client.username_pw_set(user, password)
        self.client.on_message = lambda _c, _d, message: self.heard.append((message.topic, message.payload.decode()))
        subscribed: list[Any] = []
        self.client.on_subscribe = lambda *details: subscribed.append(details)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        self.client.subscribe(f"{prefix}/#", qos=1)
        until(lambda: subscribed)

    def of(self, topic: str) -> list[str]:
        return [text for name, text in list(self.heard) if name == topic]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if MOSQUITTO is None:
        pytest.skip("no mosquitto here: apt-get install mosquitto")
    made = Broker(tmp_path)
    made.start()
    yield made
    made.kill()


def test_results_and_state_arrive(broker: Broker) -> None:
    listener = Subscriber(broker.port)
    sink = open_sink("mqtt", f"mqtt://127.0.0.1:{broker.port}", CONTEXT)
    sink.status(status())
    for number in range(5):
        sink.put(shot(PICTURE, number), result([BOX]))
    until(lambda: len(listener.of("edgeface/frame")) == 5 and listener.of("edgeface/state"))
    frames = [json.loads(text) for text in listener.of("edgeface/frame")]
    assert [frame["frame"] for frame in frames] == list(range(5))
    assert frames[0]["faces"][0]["box"] == list(BOX)
    assert json.loads(listener.of("edgeface/state")[-1])["state"] == "online"
    sink.close()
    until(lambda: listener.of("edgeface/available")[-1:] == ["offline"])
    assert listener.of("edgeface/available")[-2:] == ["online", "offline"]
    listener.close()


def test_who_comes_later_is_told_the_state(broker: Broker) -> None:
    sink = open_sink("mqtt", f"mqtt://127.0.0.1:{broker.port}/door/1", CONTEXT)
    sink.status(status("stalled", "no frame for 1 s"))
    time.sleep(0.3)
    listener = Subscriber(broker.port, "door/1")
    until(lambda: listener.of("door/1/state") and listener.of("door/1/available") == ["online"])
    assert json.loads(listener.of("door/1/state")[0])["reason"] == "no frame for 1 s"
    sink.close()
    listener.close()


def test_a_broker_that_is_down_at_the_start_gets_what_was_kept_and_the_oldest_give_way(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mqtt_sink, "MOST_WAITING", 10)
    broker.kill()
    sink = open_sink("mqtt", f"mqtt://127.0.0.1:{broker.port}", CONTEXT)
    assert isinstance(sink, MqttSink)
    for number in range(25):
        sink.put(shot(PICTURE, number), result([]))
    assert sink.dropped == 15
    until(lambda: "results wait for it" in caplog.text)
    broker.start()
    listener = Subscriber(broker.port)
    until(lambda: len(listener.of("edgeface/frame")) == 10 or sink.dropped > 15)
    sink.put(shot(PICTURE, 99), result([]))
    until(lambda: any(json.loads(text)["frame"] == 99 for text in listener.of("edgeface/frame")))
    got = [json.loads(text)["frame"] for text in listener.of("edgeface/frame")]
    assert got == [*range(25 - len(got) + 1, 25), 99]
    sink.close()
    listener.close()


def test_a_broker_that_goes_away_and_comes_back_loses_nothing_that_fits(broker: Broker) -> None:
    sink = open_sink("mqtt", f"mqtt://127.0.0.1:{broker.port}", CONTEXT)
    assert isinstance(sink, MqttSink)
    first = Subscriber(broker.port)
    sink.put(shot(PICTURE, 0), result([]))
    until(lambda: len(first.of("edgeface/frame")) == 1)
    first.close()
    broker.kill()
    until(lambda: not sink._connected)
    for number in range(1, 6):
        sink.put(shot(PICTURE, number), result([]))
    broker.start()
    second = Subscriber(broker.port)
    sink.put(shot(PICTURE, 6), result([]))
    until(lambda: any(json.loads(text)["frame"] == 6 for text in second.of("edgeface/frame")))
    assert sink.dropped == 0
    sink.close()
    second.close()


def test_a_wrong_password_is_said_once_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if MOSQUITTO is None or shutil.which("mosquitto_passwd") is None:
        pytest.skip("no mosquitto here: apt-get install mosquitto")
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "robot", "right"], check=True, capture_output=True)
    passwords.chmod(0o644)
    tmp_path.chmod(0o755)
    guarded = Broker(tmp_path, "allow_anonymous false", f"password_file {passwords}", "user root")
    guarded.start()
    try:
        monkeypatch.setenv("EDGEFACE_MQTT_PASSWORD", "wrong")
        sink = open_sink("mqtt", f"mqtt://robot@127.0.0.1:{guarded.port}", CONTEXT)
        until(lambda: "ot authori" in caplog.text)
        time.sleep(2.5)
        sink.put(shot(PICTURE, 0), result([]))
        sink.close()
        assert caplog.text.count("ot authori") == 1
        monkeypatch.setenv("EDGEFACE_MQTT_PASSWORD", "right")
        listener = Subscriber(guarded.port, user="robot", password="right")
        sink = open_sink("mqtt", f"mqtt://robot@127.0.0.1:{guarded.port}", CONTEXT)
        sink.put(shot(PICTURE, 1), result([]))
        until(lambda: listener.of("edgeface/frame"))
        sink.close()
        listener.close()
    finally:
        guarded.kill()


def test_closing_does_not_wait_for_a_broker_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:
        sink = open_sink("mqtt", f"mqtt://127.0.0.1:{silent.getsockname()[1]}", CONTEXT)
        sink.put(shot(PICTURE, 0), result([]))
        started = time.monotonic()
        sink.close()
        sink.close()
        assert time.monotonic() - started < 5.0


def test_addresses() -> None:
    assert Address.parse("mqtt://broker") == Address("broker", 1883, False, None, None, "edgeface")
    assert Address.parse("mqtts://me:p%40ss@b:99/a/b/") == Address("b", 99, True, "me", "p@ss", "a/b")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("broker", "write mqtt://"),
        ("http://broker", "write mqtt://"),
        ("mqtt://", "write mqtt://"),
        ("mqtt://b:port", "write mqtt://"),
        ("mqtt://b/a/+", "'+' or '#'"),
        ("mqtt://b/a?x=1", "write mqtt://"),
    ],
)
def test_addresses_that_cannot_work_are_one_line(target: str, says: str) -> None:
    with pytest.raises(OptionError, match="--mqtt") as raised:
        Address.parse(target)
    assert says in str(raised.value)


def test_a_password_is_never_repeated() -> None:
    with pytest.raises(OptionError) as raised:
        Address.parse("amqp://me:secret@broker")
    assert "secret" not in str(raised.value)


def test_events_and_what_home_assistant_discovers(broker: Broker) -> None:
    listener, discovered = Subscriber(broker.port, "door"), Subscriber(broker.port, "homeassistant")
    context = SinkContext(SOURCE, zones=("left",), event_kinds=("enter", "best_shot"), home_assistant=True)
    sink = open_sink("mqtt", f"mqtt://127.0.0.1:{broker.port}/door", context)
    assert isinstance(sink, MqttSink)
    assert isinstance(sink, Outlet)
    sink.present({"left": 0})
    sink.happened({"event_type": "enter", "zone": "left"})
    sink.present({"left": 1})
    sink.happened({"event_type": "best_shot", "png_base64": "UE5H"})
    until(lambda: len(listener.of("door/event")) == 2 and listener.of("door/best_shot") and len(discovered.heard) == 4)
    assert json.loads(listener.of("door/event")[0]) == {"event_type": "enter", "zone": "left"}
    assert json.loads(listener.of("door/event")[1]) == {"event_type": "best_shot"}
    assert listener.of("door/best_shot") == ["PNG"]
    until(lambda: listener.of("door/zone/left/faces")[-1:] == ["1"])
    later = Subscriber(broker.port, "door")
    until(lambda: later.of("door/zone/left/faces"))
    # Retained: the picture of a face is not.
    assert (later.of("door/zone/left/faces"), later.of("door/best_shot")) == (["1"], [])
    for topic, text in discovered.heard:
        about = json.loads(text)
        assert about["availability_topic"] == "door/available"
        assert about.get("state_topic", about.get("image_topic")) in {
            "door/event", "door/best_shot", "door/zone/left/faces",
        }, topic
    sink.close()
