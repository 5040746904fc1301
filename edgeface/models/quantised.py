"""From a float network to the deployed one with fake quantisation, and to the weights that a checkpoint keeps."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from edgeface.int8.exact import make_exact
from edgeface.int8.modules import convolutions, set_mode
from edgeface.int8.network import Quantisation, keep_in_float
from edgeface.int8.whole_weights import rounded
from edgeface.models.family import family_of


def quantised(net: nn.Module, quantisation: Quantisation) -> nn.Module:
    """``Family.deployed`` with fake quantisation on (mode "all"), its scales still to be loaded or calibrated.

    Raises ConversionError for a network that cannot be quantised, and OptionError for a name in ``keep_float`` that no
    convolution has.
    """
    folded = family_of(net).deployed(net, quantisation.channel_multiple)
    keep_in_float(folded, quantisation.keep_float)
    set_mode(folded, "all")
    return folded


def exact_state(net: nn.Module) -> dict[str, Tensor]:
    """The state of a quantised network whose scales are final, its depthwise layers made exact (``make_exact``), and
    the weights of int8 layers rounded, which changes nothing that they compute.

    Raises ConversionError for a layer that cannot be.
    """
    family = family_of(net)
    make_exact(net.eval(), partial(family.run, net, family.example()))
    with torch.no_grad():
        for _, conv in convolutions(net):
            if conv.int8:
                conv.weight.copy_(rounded(conv.weight))
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
