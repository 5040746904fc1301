"""An untrained light S3FD whose maps are as lively as a trained one's, for tests of what follows."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from edgeface.models import families
from edgeface.models.s3fd import S3FD, L2Norm
from lively_mos import DEFAULT_SCORE_LOGIT, scenes


def lively_s3fd() -> S3FD:
    """A seeded net in eval mode: batch norms that fit their inputs, L2 norms whose factors differ, and on every level
    one anchor in 200 above the default score."""
    torch.manual_seed(0)
    net = families.get("s3fd_light").build()
    assert isinstance(net, S3FD)
    pixels = [cv2.resize(scene, (256, 128)) for scene in scenes(4)]
    x = torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32) / 128 - 1)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None      # the running figures become the plain mean of what is seen
                nn.init.constant_(module.bias, 1.0)
            if isinstance(module, L2Norm):
                module.scale.mul_(torch.rand_like(module.scale) + 0.5)
        net.train()(x)
        out = net.eval()(x)
        for head, pairs, offsets in zip(net.heads, out.score, out.box, strict=True):
            score, box = head.score, head.box
            assert isinstance(score, nn.Conv2d)
            assert isinstance(box, nn.Conv2d)
            assert score.bias is not None
            box.weight.mul_(1 / offsets.std())      # boxes near their anchors
            logits: Tensor = pairs[:, 1] - pairs[:, 0]
            score.weight.mul_(2 / logits.std())
            high = torch.quantile(logits * 2 / logits.std(), 0.995)
            score.bias[:-1] += high - DEFAULT_SCORE_LOGIT
    return net
