"""Every net of every bundle on the board, against the same engine on this machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from edgeface.devices.client import Client
from edgeface.devices.machine import Machine
from numpy.typing import NDArray

import edgeface
from device_subjects import SIZE_PX, TIMEOUT_S, Device, Image, Subject
from edgeface.bundle import Bundle, FaceStage, Points
from edgeface.runtime.loading import open_sessions

# An emulated net takes a second or two, and more where other work keeps this machine busy.
pytestmark = pytest.mark.timeout(900)

Arrays = dict[str, NDArray[Any]]

_FLOAT = 1e-4
# Processors with float16 arithmetic use it for an fp16 bundle.
_HALF = 0.1
_PICTURES = 4
_PATCHES = 3


def test_the_nets_of_the_whole_picture(device: Device, subject: Subject, pictures: list[Image]) -> None:
    few = pictures[:: max(1, len(pictures) // _PICTURES)][:_PICTURES]

    def run(client: Client) -> list[Arrays]:
        loaded = subject.load(client)
        found = [client.raw(loaded, picture, timeout_s=TIMEOUT_S) for picture in few]
        client.unload(loaded)
        return found

    there = device.ask(f"raw {subject.name}", run)
    detector = edgeface.load(subject.directory, threads=1, size=SIZE_PX)
    machine = device.ask("machine", lambda client: client.machine())
    for i, picture in enumerate(few):
        _compare(subject.bundle, machine, subject.bundle.dense.files, there[i], detector.raw(picture))


def test_the_nets_of_a_face(device: Device, subject: Subject, pictures: list[Image]) -> None:
    stage = subject.bundle.stages[1]
    assert isinstance(stage, FaceStage)
    gather = stage.gather
    assert isinstance(gather, Points)
    maps = edgeface.load(subject.directory, threads=1, size=SIZE_PX).raw(pictures[0])
    inputs = [
        np.ascontiguousarray(maps[name][:, : gather.patch, : gather.patch * _PATCHES]) for name in gather.maps
    ]

    def run(client: Client) -> list[Arrays]:
        loaded = subject.load(client)
        found = [client.infer(loaded, x, stage=1, net=net, timeout_s=TIMEOUT_S) for net, x in enumerate(inputs)]
        client.unload(loaded)
        return found

    there = device.ask(f"pose {subject.name}", run)
    machine = device.ask("machine", lambda client: client.machine())
    sessions = open_sessions(subject.directory, subject.bundle, 1)[1]
    for net, (session, x) in enumerate(zip(sessions, inputs, strict=True)):
        run_here = session.run(x)
        here = {name: run_here.output(name) for name in session.outputs}
        _compare(subject.bundle, machine, stage.files[net], there[net], here)


def _compare(bundle: Bundle, machine: Machine, files: list[str], there: Arrays, here: Arrays) -> None:
    assert there.keys() == here.keys()
    for name, wanted in here.items():
        off = float(np.abs(there[name] - wanted).max())
        assert off <= _tolerance(bundle, machine, files, name), f"{name}: off by {off:.2g}"


def _tolerance(bundle: Bundle, machine: Machine, files: list[str], name: str) -> float:
    """How far an output may be off."""
    if bundle.precision == "int8":
        # A level of the tensor. ncnn's is the same everywhere: no layer requantises, and depthwise steps are exact.
        return 1.001 * bundle.scales[files[0]][name] if bundle.engine == "tflite" else 0.0
    half = any("asimdhp" in cluster.features for cluster in machine.clusters)
    return _HALF if bundle.precision == "fp16" and half else _FLOAT
