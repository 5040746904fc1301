"""Post-training quantisation: a float checkpoint, calibrated on pictures, as a quantised network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from edgeface.errors import CheckpointError
from edgeface.models.checkpoint import Checkpoint
from edgeface.models.mos_export import run_everything
from edgeface.models.mos_folded import CHANNEL_MULTIPLE, FoldedMOS

from .calibration import Seen, calibrate, method, observe
from .exact import make_exact
from .modules import set_mode
from .network import Quantisation, keep_in_float, quantised
from .pictures import Progress, calibration_batches

PICTURES = 64
SMALLEST_PX = 64     # the least that every part of the network takes


@dataclass(frozen=True)
class Calibrated:
    """A quantised network in the mode "all", how it was made, and what its points held in float."""

    net: FoldedMOS
    quantisation: Quantisation
    seen: dict[str, Seen]

    def keeping(self, patterns: Sequence[str]) -> Calibrated:
        """The same network with these layers, and no others, in float; raises OptionError for one that is not there."""
        kept = keep_in_float(self.net, patterns)
        return replace(self, quantisation=replace(self.quantisation, keep_float=kept))


def calibrated(
    checkpoint: Checkpoint,
    data: Path,
    how: str,
    keep_float: Sequence[str] = (),
    pictures: int = PICTURES,
    progress: Progress = lambda items, _label, _total: items,
) -> Calibrated:
    """Fold, quantise and calibrate a float checkpoint by the method ``how`` on ``pictures`` training pictures.

    Raises UnknownCalibrationError, OptionError for a name in ``keep_float``, CheckpointError for a checkpoint that is
    quantised already, ConversionError for a network that cannot be, and DataError for pictures that cannot be used.
    """
    method.get(how)     # before minutes of work
    if checkpoint.quantisation is not None:
        raise CheckpointError("the checkpoint is quantised already: give the float one that it was made from")
    quantisation = Quantisation(how, trained=False, channel_multiple=CHANNEL_MULTIPLE)
    net = quantised(checkpoint.build(), quantisation)
    assert isinstance(net, FoldedMOS)
    kept = keep_in_float(net, keep_float)
    batches = calibration_batches(data, pictures, progress)
    seen = observe(net.eval(), batches, partial(run_everything, net))
    calibrate(net, seen, how)
    set_mode(net, "all")
    return Calibrated(net, replace(quantisation, keep_float=kept), seen)


def finished(checkpoint: Checkpoint, net: nn.Module) -> Checkpoint:
    """The checkpoint with the state of ``net``, a quantised network whose scales are final, its depthwise layers made
    exact (``exact.make_exact``). Raises ConversionError for a layer that cannot be."""
    assert isinstance(net, FoldedMOS)     # what a quantised network is, see network.deployed
    net.eval()
    make_exact(net, partial(run_everything, net, torch.zeros(1, 3, SMALLEST_PX, SMALLEST_PX)))
    return replace(checkpoint, state={name: tensor.detach().clone() for name, tensor in net.state_dict().items()})
