"""Whether a face is of high or of low quality, from what a data set says of it (mhcnn.txt, section 4)."""

from __future__ import annotations

from edgeface.data.annotations import Face, Picture
from edgeface.data.targets import face_box

HIGH_QUALITY_PX, TINY_PX = 80.0, 20.0       # a face's longer side at the source
_HEAVY, _CLEAR = 2, 0                       # WIDER FACE's levels of blur and occlusion
_PROFILE_BINS = (1, 5)
_FRONTAL_DEG, _PROFILE_DEG = 25.0, 45.0
# The only other pictures that are sharp throughout; frames of videos and small portraits are of every quality.
_SHARP_SOURCES = frozenset({"helen_train", "afw"})


def is_high_quality(face: Face, picture: Picture, *, derived: bool) -> bool | None:
    """True for a clear, unoccluded, frontal face of over 80 px at the source; False for one of heavy blur, under 20 px,
    heavily occluded or turned away; None between, and where it is not known.

    With ``derived`` also by head poses, which teachers and fits to landmarks gave, and by the kind of the source; else
    by what was annotated alone.
    """
    box = face_box(face)
    if box is None or face.ignore:
        return None
    side_px = float(max(box[2] - box[0], box[3] - box[1])) * picture.source_scale
    turned = abs(float(face.pose[1])) if derived and face.pose is not None else None
    if face.blur is not None and face.occlusion is not None:
        away = bool(face.atypical_pose) or (turned is not None and turned > _PROFILE_DEG)
        if face.blur == _HEAVY or face.occlusion == _HEAVY or away or side_px < TINY_PX:
            return False
        frontal = turned is None or turned < _FRONTAL_DEG
        clear = face.blur == _CLEAR and face.occlusion == _CLEAR
        return True if clear and frontal and side_px > HIGH_QUALITY_PX else None
    if not derived:
        return None
    if face.yaw_bin in _PROFILE_BINS:
        return False
    if picture.source in _SHARP_SOURCES and turned is not None and side_px > HIGH_QUALITY_PX:
        return True if turned < _FRONTAL_DEG else False if turned > _PROFILE_DEG else None
    return None
