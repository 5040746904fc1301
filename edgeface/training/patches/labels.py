"""What T-CNN learns of a face beside where it is, from a set's annotations: mask, sunglasses and quality, each 0 or 1,
NaN where unknown."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeface.data.annotations import Face, Picture
from edgeface.data.quality import is_high_quality
from edgeface.models.patch_nets import ATTRIBUTES

LABELS = (*ATTRIBUTES, "quality")
MASK, SUNGLASSES, QUALITY = range(3)

# Faces of these were photographed before masks were worn in the street (2017 at the latest), so that a face without a
# mask label has none; of 300 that were looked through one may be veiled.
_BEFORE_MASKS_SETS = frozenset({"landmarks5", "landmarks68", "attributes"})
_BEFORE_MASKS_SOURCES = frozenset({"helen_full", "afw_full", "voc2012_animals", "coco_val2014_200", "ccp_fashion"})
# In this set sunglasses were looked for; of 300 faces without the label 4 wear some, and the rest are what a net needs
# to see beside those that do: the same pictures, with clear glasses, dark faces and shadows.
_SUNGLASSES_SOUGHT_SETS = frozenset({"attributes"})


def labels_of(picture: Picture, set_name: str, *, train: bool) -> NDArray[np.float32]:
    """Labels (n, len(LABELS)) of a picture's faces, in its order.

    With ``train`` also what may be taken for granted or comes from teachers; else what was annotated alone.
    """
    labels = np.full((len(picture.faces), len(LABELS)), np.nan, np.float32)
    for row, face in zip(labels, picture.faces, strict=True):
        row[MASK] = _mask(face, picture, set_name, train)
        row[SUNGLASSES] = _sunglasses(face, set_name, train)
        high = is_high_quality(face, picture, derived=train)
        row[QUALITY] = math.nan if high is None else float(high)
    return labels


def _mask(face: Face, picture: Picture, set_name: str, train: bool) -> float:
    if face.mask is not None:
        # A mask under the nose is neither: it is not trained on, and counted apart.
        return {"worn": 1.0, "none": 0.0, "incorrect": math.nan}[face.mask]
    before = set_name in _BEFORE_MASKS_SETS or picture.source in _BEFORE_MASKS_SOURCES
    return 0.0 if train and before else math.nan


def _sunglasses(face: Face, set_name: str, train: bool) -> float:
    if face.sunglasses is not None:
        return float(face.sunglasses)
    if face.eyeglasses is False:        # the source's "glasses" are dark ones too
        return 0.0
    return 0.0 if train and set_name in _SUNGLASSES_SOUGHT_SETS else math.nan
