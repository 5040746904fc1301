"""MTCNN, and T-CNN of MHCNN."""

from __future__ import annotations

from edgeface.models.family import families
from edgeface.models.patch_export import MTCNNFamily, TCNNFamily
from edgeface.models.patch_nets import mtcnn, tcnn

families("mtcnn")(MTCNNFamily(mtcnn))
families("tcnn")(TCNNFamily(tcnn))
