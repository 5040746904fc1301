"""What can be counted, and what a region is: for who asks, here, and ``subject``, which runs in the emulated root."""

from __future__ import annotations

import msgspec

EMPTY = "empty"     # a region with nothing in it: what it costs to mark one from Python


class Place(msgspec.Struct, frozen=True):
    """A region: the index of its job, and what of the job it is.

    Jobs on bundles have the stages "preprocessing", "network", the first stage's net, "pose", "regions" and "crops",
    the nets on faces, and "decoding", all that is neither; ``part`` is a kernel's or a layer's name within the stage,
    ``kind`` and ``detail`` say more of a layer: "Convolution", "3x3 / 2, 3 to 24". A stage that was entered several
    times has as many regions.
    """

    job: int
    stage: str
    part: str = ""
    kind: str = ""
    detail: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What a run of jobs leaves: its regions in their order, and how many faces each job that looked for some found."""

    places: list[Place]
    faces: dict[int, int]


class NetJob(msgspec.Struct, frozen=True, tag="net"):
    """A net once, on zeros of ``shape``: a region "network". ``files`` and ``input`` as in ``Engine``."""

    engine: str
    directory: str
    files: list[str]
    input: str
    shape: tuple[int, int, int]
    precision: str = "fp32"


class StagesJob(msgspec.Struct, frozen=True, tag="stages"):
    """A bundle on a picture, an .npy of uint8 (H, W, 3) BGR, at ``size_px``, the longest side or (width, height).

    A region whenever a stage is entered; then, in a run of its own on the same maps, one a call of a C kernel, whose
    ``part`` is the kernel's name."""

    directory: str
    picture: str
    size_px: int | tuple[int, int]
    score: float
    nms_iou: float


class LayersJob(msgspec.Struct, frozen=True, tag="layers"):
    """A stage of an ncnn bundle on ``inputs.stage_pixels`` of a picture, layer by layer, each in two regions.

    The second, "again", asks for the layer's blob once more: that is the first's share in handing it over, which the
    net itself does not do."""

    directory: str
    picture: str
    size_px: int | tuple[int, int]
    stage: int = 0


class CropsJob(msgspec.Struct, frozen=True, tag="crops"):
    """The crop stage ``stage`` of a bundle on ``inputs.face_boxes`` of a picture, ``count`` of them: regions
    "preprocessing", "network" and "decoding"."""

    directory: str
    picture: str
    stage: int
    count: int


class OperatorsJob(msgspec.Struct, frozen=True, tag="operators"):
    """TFLite nets of one operator each, ``NAME.tflite`` in ``directory`` with inputs in ``NAME.npz``: a region each."""

    directory: str


Job = NetJob | StagesJob | LayersJob | CropsJob | OperatorsJob
