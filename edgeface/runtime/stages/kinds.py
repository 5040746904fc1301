"""Which kind a stage of a bundle is: the one place that decides it, by the schema's type."""

from __future__ import annotations

from edgeface.bundle import Crops, DenseStage, FaceStage, Joined, Points, PyramidStage, Regions, Stage
from edgeface.runtime.gather.crops import CropsKind
from edgeface.runtime.gather.joined import JoinedKind
from edgeface.runtime.gather.points import PointsKind
from edgeface.runtime.gather.regions import RegionsKind
from edgeface.runtime.stages.dense import DenseKind
from edgeface.runtime.stages.kind import StageKind
from edgeface.runtime.stages.pyramid import PyramidKind

_KINDS: dict[type, StageKind] = {
    DenseStage: DenseKind(), PyramidStage: PyramidKind(), Crops: CropsKind(), Points: PointsKind(),
    Regions: RegionsKind(), Joined: JoinedKind(),
}


def kind_of(stage: Stage) -> StageKind:
    """The kind of a stage; of a stage per face, that of how it gathers."""
    return _KINDS[type(stage.gather if isinstance(stage, FaceStage) else stage)]
