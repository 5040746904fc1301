"""MaskFace on MobileNetV2 (maskface.txt)."""

from __future__ import annotations

from edgeface.models.family import families
from edgeface.models.maskface import maskface
from edgeface.models.maskface_export import MaskFaceFamily
from edgeface.models.starting import load_published

families("maskface")(MaskFaceFamily(maskface, load_published))
