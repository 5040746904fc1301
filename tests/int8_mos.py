"""The lively MOS quantised: calibrated on the scenes that it was made lively on, for tests of what follows."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from edgeface.quantize.calibration import calibrate, observe

from edgeface.int8.network import Quantisation
from edgeface.models.checkpoint import Checkpoint, finished, save_checkpoint
from edgeface.models.mos_export import run_everything
from edgeface.models.quantised import quantised
from lively_mos import lively_mos, scenes


def save_int8_mos(path: Path, channels: int = 64) -> Path:
    """A quantised checkpoint of ``lively_mos``, calibrated and not trained."""
    quantisation = Quantisation("absmax", trained=False)
    net = quantised(lively_mos(channels=channels), quantisation).eval()
    assert net.is_deployed
    pixels = np.stack([cv2.resize(scene, (192, 160)) for scene in scenes(4)]).astype(np.float32)
    batch = torch.from_numpy(pixels.transpose(0, 3, 1, 2) / 128 - 1)
    calibrate(net, observe(net, [batch], partial(run_everything, net)), quantisation.method)
    options = {"width": "0.5x", "channels": channels}
    checkpoint = Checkpoint("mos_s", options, net.state_dict(), licence="tests only", quantisation=quantisation)
    save_checkpoint(path, finished(checkpoint, net))
    return path
