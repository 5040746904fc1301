"""What the board finds in real pictures: the same faces as this machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from edgeface.devices.client import Client
from numpy.typing import NDArray

import edgeface
from device_subjects import CASCADES, SHIPPED, SIZE_PX, TIMEOUT_S, Device, Image, load_there
from edgeface.faces import Faces
from edgeface.matching import match
from edgeface.runtime import catalog

# Fifty pictures, emulated, where other work may keep this machine busy.
pytestmark = pytest.mark.timeout(1200)

# How far the scores of one face may be apart, and how little its boxes may overlap, a face of 12 px among them. Float32
# differs by rounding, TFLite's int8 by a level at most, and ncnn's not at all.
_EXACT = (0.0, 1.0)
_TOLERANCE = {"mos_s-fp16-ncnn": (1e-3, 0.99), "mos_s-int8-tflite": (0.02, 0.95)}
# The processors of one board agree to the last bit, which a few pictures show; the others they share, each its part at
# the same time. The bundle in float, which differs by rounding alone and takes longest, sees every second picture, and
# cascades the few.
_FEW = 10
_STEPS = {"mos_s-fp16-ncnn": 2, **dict.fromkeys(CASCADES, 10), "maskface-int8-ncnn": 25, "tfn-int8-ncnn": 25}


@pytest.mark.parametrize("name", [*SHIPPED, *CASCADES])
def test_the_same_faces(device: Device, pictures: list[Image], name: str) -> None:
    score, iou = _TOLERANCE.get(name, _EXACT)
    detector = edgeface.load(name, threads=1, size=SIZE_PX)
    threshold = detector.score
    wrong = []
    for i, there in _found(device, pictures, name).items():
        here = detector(pictures[i])
        pairs = match(here.boxes, there.boxes, iou)
        unlike = [a for a, b, _ in pairs if abs(float(here.scores[a] - there.scores[b])) > score]
        alone = set(range(len(here))) - {a for a, _, _ in pairs}, set(range(len(there))) - {b for _, b, _ in pairs}
        # Of a face so near to the threshold the other side may just not have it.
        missing = [a for a in alone[0] if here.scores[a] > threshold + score]
        extra = [b for b in alone[1] if there.scores[b] > threshold + score]
        if unlike or missing or extra:
            wrong.append(f"picture {i}: {len(missing)} missing, {len(extra)} extra, {len(unlike)} of another score")
    assert not wrong, wrong


@pytest.mark.parametrize("name", [*SHIPPED, *CASCADES])
def test_all_processors_of_the_board_find_the_same_to_the_last_bit(
    device: Device, pictures: list[Image], name: str
) -> None:
    first = Device(device.devices.names[0], device.devices)
    expected, found = _found(first, pictures, name), _found(device, pictures, name)
    few, _ = _parts(len(pictures), name)
    assert few
    for i in few:
        for one, other in zip(_arrays(expected[i]), _arrays(found[i]), strict=True):
            np.testing.assert_array_equal(one, other, err_msg=f"picture {i}")


def _parts(count: int, name: str) -> tuple[range, list[int]]:
    """The pictures of ``count`` that all processors see, and those that one of them sees."""
    step = _STEPS.get(name, 1)
    few = range(0, count, step if name in CASCADES else step * max(1, count // _FEW))
    return few, [i for i in range(0, count, step) if i not in few]


def _found(device: Device, pictures: Sequence[Image], name: str) -> dict[int, Faces]:
    """By the picture's index, those of the device's part."""
    few, others = _parts(len(pictures), name)
    clients = [device.devices.clients[each] for each in device.devices.names]

    def run(client: Client) -> dict[int, Faces]:
        loaded = load_there(client, catalog.find(name))
        mine = [*few, *others[clients.index(client) :: len(clients)]]
        found = {i: client.detect(loaded, pictures[i], timeout_s=TIMEOUT_S) for i in mine}
        client.unload(loaded)
        return found

    answer: dict[int, Faces] = device.ask(f"faces {name}", run)
    return answer


def _arrays(faces: Faces) -> list[NDArray[np.float32]]:
    return [*faces.arrays().values()]
