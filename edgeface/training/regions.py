"""Regions of a network's features, cut as the board cuts them: for training on them, and for finding scales."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeface.bundle import Regions
from edgeface.runtime.engines import RawMap
from edgeface.runtime.gather.regions import levels_of, widened
from edgeface.runtime.roi import roi_align

Floats = NDArray[np.float32]


def region_features(
    maps: Sequence[Sequence[Tensor]], strides: Sequence[int], boxes: Floats, gather: Regions
) -> list[Tensor]:
    """Regions of faces ``boxes`` (P, 4), x1 y1 x2 y2 in pixels of the network's input.

    ``maps`` has of each level, finest first, with its ``strides``, one or several maps (1, C, h, w). Of each of a
    level's places comes a tensor (P, C, S, S), of zeros for faces of levels without such a map.
    """
    level = levels_of(boxes, gather.finest_px, len(maps))
    regions = widened(boxes, gather.margin)
    channels = [next(each[i].shape[1] for each in maps if len(each) > i) for i in range(max(map(len, maps)))]
    found = [np.zeros((len(boxes), c, gather.size, gather.size), np.float32) for c in channels]
    for number in np.unique(level).tolist():
        here = np.flatnonzero(level == number)
        for own, features in zip(found, maps[number], strict=False):
            raw = RawMap(features[0].detach().float().cpu().numpy())
            own[here] = roi_align(raw, regions[here], gather.size, 1 / strides[number], gather.sampling)
    return [torch.from_numpy(own) for own in found]
