"""What the tests of a board run there, and with what."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from edgeface.devices.client import Client
from edgeface.devices.replies import LoadedBundle
from numpy.typing import NDArray

from device_option import Devices, Job
from edgeface import weights
from edgeface.bundle import Bundle
from edgeface.runtime import catalog

SIZE_PX = 320
TIMEOUT_S = 240.0
PICTURES = 50
SHIPPED = [entry.name for entry in catalog.shipped() if entry.name.startswith("mos_s-")]
# Whose nets per face run on whatever the nets before them found.
CASCADES = ["mhcnn-int8-ncnn", "mtcnn-int8-ncnn", "maskface-int8-ncnn", "tfn-int8-ncnn"]
FP32 = "mos_s-fp32-ncnn"
_WIDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "wider"

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Device:
    """One worker of the board."""

    name: str
    devices: Devices

    @property
    def client(self) -> Client:
        """For what it knows; requests go through ``ask``, which keeps them apart."""
        return self.devices.clients[self.name]

    @property
    def link(self) -> str:
        return self.devices.board.link

    def ask(self, key: str, job: Job) -> Any:
        """What ``job`` gives here; one ``key`` is asked once, and of all workers at the same time."""
        return self.devices.ask(self.name, key, job)


@dataclass(frozen=True)
class Subject:
    """A bundle, and where it lies here."""

    name: str
    directory: Path
    bundle: Bundle

    def load(self, client: Client, **options: Any) -> LoadedBundle:
        """Loaded on the board."""
        return load_there(client, self.directory, **options)


def load_there(client: Client, directory: Path, **options: Any) -> LoadedBundle:
    """A bundle loaded on the board; one that edgeface for a board comes without is copied there first."""
    there = directory.name
    if not weights.is_in_wheels(there):
        there = folder_there(client, directory.name)
        client.link.put(directory, there, timeout_s=TIMEOUT_S)
    return client.load(there, threads=1, size_px=SIZE_PX, timeout_s=TIMEOUT_S, **options)


def folder_there(client: Client, name: str) -> str:
    """A folder on the board for that worker alone: emulated processors and pytest's processes share the folders of this
    machine."""
    core, process = client.link.core.replace(" ", "-"), os.environ.get("PYTEST_XDIST_WORKER", "alone")
    return f"~/.cache/edgeface/tests/{core}-{process}-{name}"


def dev_pictures() -> list[Image]:
    """50 of the dev part beside the repository, spread evenly, BGR; without it, a dozen of the astronaut."""
    annotations = _WIDER / "annotations.jsonl"
    if not annotations.is_file():
        return astronauts()
    lines = [json.loads(line) for line in annotations.read_text().splitlines()]
    dev = [line["image"] for line in lines if line["split"] == "dev"]
    return [cv2.imread(str(_WIDER / dev[i * len(dev) // PICTURES])) for i in range(PICTURES)]


def astronauts() -> list[Image]:
    """A dozen views of scikit-image's astronaut, BGR: of several sizes and shapes, mirrored, darker."""
    from skimage.data import astronaut

    whole = np.ascontiguousarray(astronaut()[:, :, ::-1])
    views = [whole, whole[:256, 100:356], whole[20:220, 60:400], cv2.resize(whole, (900, 700))]
    variants = [(v, v[:, ::-1], (v * np.float32(0.6)).astype(np.uint8)) for v in views]
    return [np.ascontiguousarray(each) for three in variants for each in three]
