"""TFN on MobileNetV2 (tfn.txt)."""

from __future__ import annotations

from edgeface.models.family import families
from edgeface.models.starting import load_published
from edgeface.models.tfn import tfn
from edgeface.models.tfn_export import TFNFamily

families("tfn")(TFNFamily(tfn, load_published))
