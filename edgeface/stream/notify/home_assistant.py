"""What Home Assistant is told of a camera at the broker, so that its entities appear by themselves (MQTT discovery)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

DISCOVERY = "homeassistant"

_OTHER = re.compile(r"[^A-Za-z0-9_-]+")


def discovery(prefix: str, zones: Sequence[str], kinds: Sequence[str], version: str) -> dict[str, dict[str, Any]]:
    """The configurations by topic, for a camera whose topics begin with ``prefix``: of each zone whether somebody is
    there and how many faces, the events of ``kinds``, and the best shot where it is among them."""
    node = _OTHER.sub("_", prefix)
    common: dict[str, Any] = {
        "availability_topic": f"{prefix}/available",
        "device": {
            "identifiers": [f"edgeface_{node}"], "name": f"edgeface {prefix}", "manufacturer": "edgeface",
            "sw_version": version,
        },
    }
    found: dict[str, dict[str, Any]] = {}

    def add(component: str, name: str, about: dict[str, Any]) -> None:
        known = {"unique_id": f"edgeface_{node}_{name}", "object_id": f"edgeface_{node}_{name}"}
        found[f"{DISCOVERY}/{component}/edgeface_{node}/{name}/config"] = common | known | about

    for zone in zones:
        topic = f"{prefix}/zone/{zone}/faces"
        add("binary_sensor", f"{zone}_occupied", {
            "name": f"{zone} occupied", "device_class": "occupancy", "state_topic": topic,
            "value_template": "{{ 'ON' if value | int > 0 else 'OFF' }}",
        })
        add("sensor", f"{zone}_faces", {
            "name": f"{zone} faces", "state_topic": topic, "state_class": "measurement", "unit_of_measurement": "faces",
        })
    add("event", "happened", {
        "name": "happened", "state_topic": f"{prefix}/event", "event_types": list(kinds),
    })
    if "best_shot" in kinds:
        add("image", "best_shot", {
            "name": "best shot", "image_topic": f"{prefix}/best_shot", "content_type": "image/png",
        })
    return found
