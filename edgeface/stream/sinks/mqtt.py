"""The sink ``mqtt``: results and the source's state for everybody who subscribes (topics: docs/camera.md)."""

from __future__ import annotations

import base64
import logging
import os
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from edgeface.addresses import can_be_host, redacted
from edgeface.errors import MissingExtraError, OptionError
from edgeface.stream.notify.home_assistant import discovery
from edgeface.stream.results import Result, frame_record, status_record
from edgeface.stream.shots import Shot, Status
from edgeface.stream.sinks import SinkContext, sink

PASSWORD_VARIABLE = "EDGEFACE_MQTT_PASSWORD"
DEFAULT_PREFIX = "edgeface"
# What is kept while the broker is away: at 25 results a second, 40 seconds; the oldest give way.
MOST_WAITING = 1000
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_KEEP_ALIVE_S = 30
_FIRST_RETRY_S, _LAST_RETRY_S = 1, 30
_MOST_IN_FLIGHT = 100
_FAREWELL_S = 0.4

_log = logging.getLogger("edgeface.stream")


@dataclass(frozen=True)
class Address:
    """Where a broker is, and the ``prefix`` that all topics begin with."""

    host: str
    port: int
    secure: bool
    user: str | None
    password: str | None
    prefix: str

    @classmethod
    def parse(cls, target: str) -> Address:
        """Of ``mqtt://[user[:password]@]host[:port][/prefix]``, or mqtts:// for TLS; a password is better given in the
        environment, EDGEFACE_MQTT_PASSWORD. Raises OptionError."""
        shape = "mqtt://[USER@]HOST[:PORT][/PREFIX]"
        try:
            parts = urlsplit(target)
            port = parts.port
        except ValueError:
            # Its text may hold a part of a password with a '/' in it.
            raise OptionError(f"--mqtt {redacted(target)}: not an address: write {shape}") from None
        if parts.scheme not in _PORTS or not can_be_host(parts.hostname) or parts.query or parts.fragment:
            raise OptionError(f"--mqtt {redacted(target)}: write {shape}, or mqtts://... for TLS")
        prefix = parts.path.strip("/") or DEFAULT_PREFIX
        if any(sign in prefix for sign in "+#\0"):
            raise OptionError(f"--mqtt: the prefix {prefix!r} has a '+' or '#', which only subscribers may use")
        password = os.environ.get(PASSWORD_VARIABLE) if parts.password is None else unquote(parts.password)
        return cls(
            parts.hostname, port or _PORTS[parts.scheme], parts.scheme == "mqtts",
            None if parts.username is None else unquote(parts.username), password, prefix,
        )


class MqttSink:
    """Publishes in paho's thread; ``put`` never waits.

    ``PREFIX/frame``: every result, QoS 0 while the broker is there, kept and sent late where it was not, at most
    MOST_WAITING of them, counted in ``dropped``. ``PREFIX/state``: the source's state, retained, QoS 1.
    ``PREFIX/available``: ``online`` or, by the broker when the connection breaks, ``offline``; retained.

    It is an outlet of events as well: ``PREFIX/event``, QoS 1, which wait as results do; ``PREFIX/best_shot``, a PNG;
    ``PREFIX/zone/NAME/faces``, how many are there, retained, QoS 1. Home Assistant's discovery is retained.
    """

    def __init__(self, address: Address, context: SinkContext) -> None:
        """Raises MissingExtraError without paho-mqtt. A broker that is down is tried again and again."""
        try:
            from paho.mqtt import client as paho
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError:
            raise MissingExtraError('MQTT needs paho-mqtt: pip install "edgeface[mqtt]"') from None
        self.dropped = 0
        self._address = address
        self._source = context.source
        self._lock = threading.Lock()
        self._waiting: deque[tuple[str, bytes, int]] = deque()     # topic below the prefix, content, QoS
        self._present: dict[str, int] = {}
        self._discovery = _discovery(address, context)
        self._state: bytes | None = None
        self._connected = False
        self._complaint = ""
        self._closed = False
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(_FIRST_RETRY_S, _LAST_RETRY_S)
        self._client.max_queued_messages_set(_MOST_IN_FLIGHT)
        if address.user is not None:
            self._client.username_pw_set(address.user, address.password)
        if address.secure:
            self._client.tls_set()
        self._client.will_set(f"{address.prefix}/available", "offline", qos=1, retain=True)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.connect_async(address.host, address.port, _KEEP_ALIVE_S)
        self._client.loop_start()

    def put(self, shot: Shot, result: Result) -> None:
        self._send("frame", msgspec.json.encode(frame_record(shot, result)), 0)

    def happened(self, record: Mapping[str, Any]) -> None:
        without = {name: value for name, value in record.items() if name != "png_base64"}
        self._send("event", msgspec.json.encode(without), 1)
        if "png_base64" in record:
            self._send("best_shot", base64.b64decode(record["png_base64"]), 1)

    def present(self, faces: Mapping[str, int]) -> None:
        with self._lock:
            self._present = dict(faces)
        self._publish_present()

    def status(self, status: Status) -> None:
        with self._lock:
            self._state = msgspec.json.encode(status_record(self._source, status))
        self._publish_state()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._connected:
            farewell = self._client.publish(f"{self._address.prefix}/available", "offline", qos=1, retain=True)
            with suppress(RuntimeError, ValueError):    # the connection broke meanwhile, so the broker says it
                farewell.wait_for_publish(_FAREWELL_S)
        self._client.disconnect()
        # paho's thread may be in the middle of reaching a broker that does not answer: it is not waited for longer.
        ending = threading.Thread(target=self._client.loop_stop, daemon=True)
        ending.start()
        ending.join(_FAREWELL_S)

    def _send(self, topic: str, content: bytes, qos: int) -> None:
        with self._lock:
            self._waiting.append((topic, content, qos))
            if len(self._waiting) > MOST_WAITING:
                self._waiting.popleft()
                self.dropped += 1
        self._flush()

    def _flush(self) -> None:
        with self._lock:
            while self._connected and self._waiting:
                topic, content, qos = self._waiting[0]
                sent = self._client.publish(f"{self._address.prefix}/{topic}", content, qos=qos)
                if sent.rc != 0:
                    return
                self._waiting.popleft()

    def _publish_state(self) -> None:
        with self._lock:
            if self._connected and self._state is not None:
                self._client.publish(f"{self._address.prefix}/state", self._state, qos=1, retain=True)

    def _publish_present(self) -> None:
        with self._lock:
            for zone, faces in self._present.items() if self._connected else ():
                topic = f"{self._address.prefix}/zone/{zone}/faces"
                self._client.publish(topic, str(faces), qos=1, retain=True)

    def _on_connect(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._complain(str(reason))
            return
        self._complaint = ""
        _log.info("mqtt: connected to %s:%d", self._address.host, self._address.port)
        client.publish(f"{self._address.prefix}/available", "online", qos=1, retain=True)
        for topic, content in self._discovery.items():
            client.publish(topic, content, qos=1, retain=True)
        self._connected = True
        self._publish_state()
        self._publish_present()
        self._flush()

    def _on_connect_fail(self, _client: Any, _data: Any) -> None:
        self._complain("not reachable")

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        was_connected, self._connected = self._connected, False
        if was_connected and not self._closed:
            self._complain(str(reason))

    def _complain(self, what: str) -> None:
        """Once a reason, not once a retry."""
        if what != self._complaint:
            self._complaint = what
            _log.warning(
                "mqtt: %s:%d: %s; results wait for it, at most %d of them", self._address.host, self._address.port,
                what, MOST_WAITING,
            )


def _discovery(address: Address, context: SinkContext) -> dict[str, bytes]:
    """What Home Assistant is told, JSON by topic, where that is asked for."""
    if not context.home_assistant:
        return {}

    found = discovery(address.prefix, context.zones, context.event_kinds, version("edgeface"))
    return {topic: msgspec.json.encode(about) for topic, about in found.items()}


@sink("mqtt")
def open_mqtt(target: str, context: SinkContext) -> MqttSink:
    """Results at a broker, ``mqtt://HOST``. Raises OptionError and MissingExtraError."""
    return MqttSink(Address.parse(target), context)
