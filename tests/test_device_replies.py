"""Replies of a board with one thing wrong in them: each is refused in words, whichever field it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from edgeface.devices import boards, machine
from edgeface.devices.client import Client
from edgeface.devices.links import open_link
from edgeface.devices.replies import (
    Counted,
    LoadedBundle,
    ReplyError,
    Room,
    converted,
    faces_counted,
    faces_of,
    loaded_bundle,
    maps_of,
    samples_of,
)

from edgeface import weights
from edgeface.board_health import Clock, Health, Throttle, Zone
from edgeface.bundle import read_bundle
from edgeface.errors import DeviceLostError

WRONG = (None, True, -1, 3, 2.5, 1e300, 10**30, "", "text", [], [[]], [None], {}, {"a": 1})
BUNDLE = read_bundle(weights.directory() / "mos_s-int8-ncnn", verify=False)
HEALTH = Health([Zone("cpu", 40.0)], [Clock([0], 600, 1800, 1800)], [Throttle("cpufreq", "it is capped")])
RESULTS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "load": ({"number": 1, "threads": 2, "bundle": msgspec.to_builtins(BUNDLE)}, loaded_bundle),
    "health": (msgspec.to_builtins(HEALTH), lambda result: converted(result, Health)),
    "machine": (msgspec.to_builtins(machine.machine()), lambda result: converted(result, machine.Machine).for_board()),
    "receive": ({"incoming": "/a/b", "directory": "/a", "replaces": False}, lambda result: converted(result, Room)),
    "time": (
        {"faces": [3], "load_1min": 0.5}, lambda result: faces_counted(converted(result, Counted), 1)
    ),
}


def spots(node: Any) -> Iterator[tuple[Any, Any]]:
    """Where a value stands in a document: its container and its key there."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from spots(node[key])


@pytest.mark.parametrize("name", RESULTS)
def test_any_field_of_any_wrong_type_is_refused_or_harmless(name: str) -> None:
    result, read = RESULTS[name]
    read(result)
    refused = 0
    for container, key in list(spots(result)):
        right = container[key]
        for wrong in WRONG:
            container[key] = wrong
            try:
                read(result)
            except ReplyError:
                refused += 1
        container[key] = right
    read(result)
    assert refused > len(WRONG)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", RESULTS)
def test_another_thing_than_a_reply_is_refused(name: str, wrong: Any) -> None:
    with pytest.raises(ReplyError):
        RESULTS[name][1](wrong)


FOUND = {
    "boxes": np.zeros((2, 4), np.float32), "scores": np.zeros(2, np.float32),
    "landmarks": np.zeros((2, 5, 2), np.float32), "pose": np.zeros((2, 3), np.float32),
}


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("changed", [
    np.zeros((2, 4), np.int64), np.zeros((2, 4), np.bool_), np.zeros((2, 4), np.float64), np.float32(1).reshape(()),
    np.zeros((0,), np.float32), np.zeros((3, 4), np.float32), np.zeros((2, 1, 1, 1), np.float32),
], ids=["int64", "bool", "float64", "scalar", "none", "three", "four-axes"])
def test_arrays_that_are_no_faces_are_refused(name: str, changed: Any) -> None:
    assert len(faces_of(FOUND, BUNDLE)) == 2
    with pytest.raises(ReplyError):
        faces_of({**FOUND, name: changed}, BUNDLE)
    if name in ("boxes", "scores"):
        with pytest.raises(ReplyError):
            faces_of({other: array for other, array in FOUND.items() if other != name}, BUNDLE)


def test_classes_that_the_bundle_does_not_have_are_refused() -> None:
    with pytest.raises(ReplyError, match="age"):
        faces_of({**FOUND, "class.age": np.zeros((2, 3), np.float32)}, BUNDLE)


@pytest.mark.parametrize("changed", [np.zeros((1, 2, 3), np.int8), np.zeros((2, 3), np.float32)])
def test_arrays_that_are_no_maps_are_refused(changed: Any) -> None:
    good = {"score": np.zeros((1, 2, 3), np.float32)}
    assert maps_of(good, ["score"]) is good
    with pytest.raises(ReplyError):
        maps_of({"score": changed})
    with pytest.raises(ReplyError, match="score instead of box"):
        maps_of(good, ["box"])


def test_times_that_are_none_are_refused() -> None:
    good = np.ones((2, 3, 4))
    assert samples_of({"samples": good}, 2, 3) is good
    for wrong in (good.astype(np.float32), good[:1], good - 2, good * np.nan, good[..., 0]):
        with pytest.raises(ReplyError):
            samples_of({"samples": wrong}, 2, 3)
    with pytest.raises(ReplyError):
        samples_of({}, 2, 3)
    with pytest.raises(ReplyError, match="1 bundles instead of 2"):
        faces_counted(Counted([1], 0.0), 2)


LIAR = """
import sys
from edgeface.devices import network_times, operations, receiving, worker
class Lies:
    def get(self, name):
        return lambda state, options, arrays: ({"number": "one", "faces": {}}, {})
operations.operation = Lies()
sys.exit(worker.main())
"""


@pytest.mark.parametrize("ask", [
    lambda client: client.load("mos_s"),
    lambda client: client.detect(LoadedBundle(1, 1, BUNDLE), np.zeros((8, 8, 3), np.uint8)),
    lambda client: client.infer(LoadedBundle(1, 1, BUNDLE), np.zeros((3, 8, 8), np.float32), outputs=["score"]),
    lambda client: client.health(),
    lambda client: client.machine(),
    lambda client: client.serving(),
    lambda client: client.receive("mos_s"),
], ids=["load", "detect", "infer", "health", "machine", "serving", "receive"])
def test_a_worker_that_answers_something_else_is_ended_and_named(ask: Callable[[Client], Any]) -> None:
    with Client(open_link(boards.find("host")), arguments=["-c", LIAR]) as client:
        with pytest.raises(DeviceLostError, match="sent what is not the protocol"):
            ask(client)
        with pytest.raises(DeviceLostError, match="its worker has ended"):
            client.machine()
