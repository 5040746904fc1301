"""An untrained TFN whose maps are as lively as a trained one's and that finds some faces, for tests of what follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from edgeface.quantize.calibrated import calibrated_on
from torch import Tensor, nn

from edgeface.int8.modules import set_mode
from edgeface.int8.network import Quantisation
from edgeface.models.checkpoint import Checkpoint, finished, save_checkpoint
from edgeface.models.maskface import SharedHead
from edgeface.models.quantised import quantised
from edgeface.models.region_nets import RegionNet
from edgeface.models.tfn import TFN, tfn
from edgeface.models.tfn_export import DENSE
from lively_maskface import pictures

SMALL: dict[str, Any] = {
    "width": 0.35, "channels": 8, "head_channels": 8, "head_width": 16, "scales": [0.5, 0.7, 1.0, 1.5],
}
_FACE_LOGIT = 0.5


def regions(net: TFN, x: Tensor) -> dict[str, Tensor]:
    """Some joined regions (12, C, S, S) of the features that a network has of pictures, by the name of the group."""
    maps = net.trunk_maps(x)
    found = {}
    for group in net.design.groups:
        side = group.size
        cut = [
            torch.cat([
                scale * nn.functional.interpolate(maps[stride], size=size, mode="bilinear")[..., :side, :side]
                for stride, scale in zip(group.strides, group.scales, strict=True)
            ], 1)
            for size in (side, side + 2, side + 5)
        ]
        found[group.name] = torch.cat(cut)
    return found


def lively_tfn(**options: Any) -> TFN:
    """A seeded net in eval mode: batch norms that fit their inputs, and one anchor in 500 that is a face."""
    torch.manual_seed(0)
    net = tfn(**{**SMALL, **options})
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None      # the running figures become the plain mean of what is seen
            nn.init.constant_(module.bias, 1.0)
    x = pictures()
    (head,) = net.heads
    assert isinstance(head, SharedHead)
    with torch.no_grad():
        net.train()
        net.all_maps(x)
        net.backbone.eval()
        for name, inside in regions(net, x).items():
            net.regions[name](inside)
        net.eval()
        own: list[Any] = list(net.regions.values())
        for conv in (head.score, head.box, *(conv for each in own for conv in each.last_layers())):
            conv.weight.mul_(20)
        logits = torch.cat([maps["score"].flatten() for maps in net.maps(x)])
        assert head.score.bias is not None
        head.score.bias.add_(_FACE_LOGIT - torch.quantile(logits, 0.998))
        for each in own:
            if isinstance(each, RegionNet) and "score" in each.heads:
                score, box = (each.heads[name] for name in ("score", "box"))
                score.bias.fill_(2.0)       # what is proposed stays, and nearly where it is
                box.weight.mul_(0.05)
    return net


def save_lively_tfn(path: Path, **options: Any) -> Path:
    """A checkpoint of it."""
    options = {**SMALL, **options}
    save_checkpoint(path, Checkpoint("tfn", options, lively_tfn(**options).state_dict(), licence="tests only"))
    return path


def save_int8_tfn(path: Path, **options: Any) -> Path:
    """A quantised checkpoint of it, calibrated and not trained."""
    options = {**SMALL, **options}
    quantisation = Quantisation("absmax", trained=False, channel_multiple=1)
    net = quantised(lively_tfn(**options), quantisation).eval()
    assert isinstance(net, TFN)
    set_mode(net, "float")
    x = pictures()
    with torch.no_grad():
        inputs = {DENSE: x, **regions(net, x)}
    calibrated_on(net, [inputs], quantisation.method)
    checkpoint = Checkpoint("tfn", options, net.state_dict(), licence="tests only", quantisation=quantisation)
    save_checkpoint(path, finished(checkpoint, net))
    return path
