"""Post-training quantisation: a float checkpoint, calibrated on pictures, as a quantised network."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from edgeface.errors import CheckpointError
from edgeface.int8.clipping import Seen, method
from edgeface.int8.modules import set_mode
from edgeface.int8.network import Quantisation, keep_in_float
from edgeface.models.checkpoint import Checkpoint
from edgeface.models.family import Inputs, families, family_of
from edgeface.models.quantised import quantised
from edgeface.wording import counted

from .calibration import Passes, calibrate, observe
from .equalising import equalise
from .inputs import calibration_inputs

PICTURES = 64
# With fewer pictures scales cut off what others have.
_FEW = 20

_log = logging.getLogger("edgeface.quantize")


@dataclass(frozen=True)
class Calibrated:
    """A quantised network in the mode "all", how it was made, what its points held in float, and on how many
    pictures."""

    net: nn.Module
    quantisation: Quantisation
    seen: dict[str, Seen]
    pictures: int

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
    progress: Passes = lambda items, _label, _total: items,
) -> Calibrated:
    """Fold, quantise and calibrate a float checkpoint by the method ``how`` on ``pictures`` training pictures, its
    channels equalised before.

    What its parts see of these, ``calibration_inputs`` says: whole pictures, or the windows that earlier nets pass.
    The log warns of fewer than 20 pictures, once they have been calibrated on.

    Raises UnknownCalibrationError, OptionError for a name in ``keep_float``, CheckpointError for a checkpoint that is
    quantised already, ConversionError for a network that cannot be, and DataError for pictures that cannot be used.
    """
    method.get(how)     # before minutes of work
    if checkpoint.quantisation is not None:
        raise CheckpointError("the checkpoint is quantised already: give the float one that it was made from")
    family = families.get(checkpoint.model)
    quantisation = Quantisation(how, trained=False, channel_multiple=family.channel_multiple)
    net = quantised(checkpoint.build(), quantisation)
    kept = keep_in_float(net, keep_float)
    set_mode(net.eval(), "float")
    inputs = calibration_inputs(net, data, pictures, progress)
    equalise(net, inputs, partial(family_of(net).run, net))
    seen = calibrated_on(net, inputs, how, progress)
    # Not before, so that an error is the one line that is said.
    if len(inputs) < _FEW:
        _log.warning(
            "scales from %s may cut off what others have: give --data %d and more, and --pictures as many",
            counted(len(inputs), "picture"), _FEW,
        )
    # Where there are fewer than were asked for, all were taken.
    return Calibrated(net, replace(quantisation, keep_float=kept), seen, min(pictures, len(inputs)))


def calibrated_on(
    net: nn.Module, inputs: Sequence[Inputs], how: str, progress: Passes = lambda items, _label, _total: items
) -> dict[str, Seen]:
    """Give every point of ``net``, a network from ``quantised``, a scale by the method ``how`` from what it holds on
    ``inputs``, and put the net into the mode "all"; what the points held. Errors as in ``observe`` and ``calibrate``.
    """
    seen = observe(net.eval(), inputs, partial(family_of(net).run, net), progress)
    calibrate(net, seen, how)
    set_mode(net, "all")
    return seen
