"""What T-CNN learns of a face beside where it is, from a set's annotations: mask, sunglasses and quality, each 0 or 1,
NaN where unknown."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeface.data.annotations import Face, Picture
from edgeface.data.targets import face_box
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

# `wider` is WIDER FACE at 640 instead of 1024 pixels on the longest side.
_SOURCE_PX = {"wider": 1024 / 640}
HIGH_QUALITY_PX, TINY_PX = 80.0, 20.0       # a face's longer side at the source (mhcnn.txt, section 4)
_HEAVY, _CLEAR = 2, 0                       # WIDER FACE's levels of blur and occlusion
_FRONTAL_BIN, _PROFILE_BINS = 3, (1, 5)
_FRONTAL_DEG, _PROFILE_DEG = 25.0, 45.0
# The only other pictures that are sharp throughout; frames of videos and small portraits are of every quality.
_SHARP_SOURCES = frozenset({"helen_train", "afw"})


def labels_of(picture: Picture, set_name: str, *, train: bool) -> NDArray[np.float32]:
    """Labels (n, len(LABELS)) of a picture's faces, in its order.

    With ``train`` also what may be taken for granted or comes from teachers; else what was annotated alone.
    """
    labels = np.full((len(picture.faces), len(LABELS)), np.nan, np.float32)
    for row, face in zip(labels, picture.faces, strict=True):
        row[MASK] = _mask(face, picture, set_name, train)
        row[SUNGLASSES] = _sunglasses(face, set_name, train)
        row[QUALITY] = quality(face, picture, set_name, train=train)
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


def quality(face: Face, picture: Picture, set_name: str, *, train: bool) -> float:
    """1 for a clear, unoccluded, frontal face of over 80 px at the source; 0 for one of heavy blur, under 20 px,
    heavily occluded or turned away; NaN between and where it was not annotated."""
    box = face_box(face)
    if box is None or face.ignore:
        return math.nan
    side_px = float(max(box[2] - box[0], box[3] - box[1])) * _SOURCE_PX.get(set_name, 1.0)
    turned = abs(float(face.pose[1])) if train and face.pose is not None else None
    if face.blur is not None and face.occlusion is not None:
        away = bool(face.atypical_pose) or (turned is not None and turned > _PROFILE_DEG)
        if face.blur == _HEAVY or face.occlusion == _HEAVY or away or side_px < TINY_PX:
            return 0.0
        frontal = turned is None or turned < _FRONTAL_DEG
        clear = face.blur == _CLEAR and face.occlusion == _CLEAR
        return 1.0 if clear and frontal and side_px > HIGH_QUALITY_PX else math.nan
    if not train:
        return math.nan
    if face.yaw_bin in _PROFILE_BINS:
        return 0.0
    if picture.source in _SHARP_SOURCES and turned is not None and side_px > HIGH_QUALITY_PX:
        return 1.0 if turned < _FRONTAL_DEG else 0.0 if turned > _PROFILE_DEG else math.nan
    return math.nan
