"""What the parts of a deployed network see on training pictures, by its type: what its scales are found on."""

from __future__ import annotations

from functools import singledispatch
from pathlib import Path

from torch import nn

from edgeface.errors import ConversionError
from edgeface.models.family import Inputs
from edgeface.models.maskface import MaskFace
from edgeface.models.mos import MOS
from edgeface.models.patch_export import TCNN_MARGIN
from edgeface.models.patch_nets import MTCNN, PatchNet
from edgeface.models.tfn import TFN

from .patches import cascade_inputs, face_inputs
from .pictures import Progress, calibration_batches
from .regions import picture_and_joined_inputs, picture_and_region_inputs


@singledispatch
def calibration_inputs(net: nn.Module, data: Path, pictures: int, progress: Progress) -> list[Inputs]:
    """What the parts of ``net``, a deployed network in float, see on about ``pictures`` training pictures of ``data``.

    Raises DataError, and ConversionError for a network of a type that nothing is known of.
    """
    raise ConversionError(f"a {type(net).__name__} has nothing that its scales are found on: see calibration_inputs")


@calibration_inputs.register
def _whole_pictures(net: MOS, data: Path, pictures: int, progress: Progress) -> list[Inputs]:
    return [{"dense": batch} for batch in calibration_batches(data, pictures, progress)]


@calibration_inputs.register
def _pictures_and_regions(net: MaskFace, data: Path, pictures: int, progress: Progress) -> list[Inputs]:
    return picture_and_region_inputs(net, data, pictures, progress)


@calibration_inputs.register
def _pictures_and_joined_regions(net: TFN, data: Path, pictures: int, progress: Progress) -> list[Inputs]:
    return picture_and_joined_inputs(net, data, pictures, progress)


@calibration_inputs.register
def _passed_windows(net: MTCNN, data: Path, pictures: int, progress: Progress) -> list[Inputs]:
    return cascade_inputs(net.nets(), data, pictures, progress)


@calibration_inputs.register
def _windows_about_faces(net: PatchNet, data: Path, pictures: int, progress: Progress) -> list[Inputs]:
    return face_inputs("tcnn", net.architecture.size_px, TCNN_MARGIN, data, pictures, progress)
