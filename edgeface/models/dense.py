"""A dense detector of parts: a backbone, a neck over its maps, a context module a level, and a head a level.

The same class is trained and deployed: ``deploy`` puts the deployed form of each part in its place, and the parts then
pass signals where they passed tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from edgeface.int8.modules import Point, Signal
from edgeface.models.deploy import deploy
from edgeface.models.pixels import PIXEL_SCALE


@dataclass(frozen=True)
class DenseOutput:
    """Raw maps of a dense stage, one tensor a level, finest first; A anchors a position.

    ``score`` (N, 2A, H, W) background and face logits, anchor-major; ``box`` (N, 4A, H, W); ``landmarks``
    (N, 10A, H, W), none where no head gives them; ``features`` (N, C, H, W), what heads on kept anchors gather from.
    """

    score: list[Tensor]
    box: list[Tensor]
    landmarks: list[Tensor]
    features: list[Tensor]


@dataclass(frozen=True)
class Parts:
    """What a ``Dense`` is made of. ``data``, of a deployed one alone, takes the picture: a point, where it has int8."""

    backbone: nn.Module
    neck: nn.Module
    context: Sequence[nn.Module]
    heads: Sequence[nn.Module]
    data: nn.Module | None = None


class Dense(nn.Module):
    """``backbone`` gives maps, finest first, ``neck`` takes them and gives as many, ``context`` has a module a level,
    each (N, C, H, W) -> the same shape, and ``heads`` one that gives the maps of its tasks by name, or one for all."""

    # What checkpoints call it.
    neck_name: ClassVar[str] = "neck"

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        if parts.data is not None:
            self.data = parts.data
        self.is_deployed = parts.data is not None
        self.backbone = parts.backbone
        self.add_module(self.neck_name, parts.neck)
        self.context = nn.ModuleList(parts.context)
        self.heads = nn.ModuleList(parts.heads)

    @property
    def level_heads(self) -> list[Any]:
        """The head of each level."""
        heads: list[Any] = list(self.heads)     # torch types a module's attributes as tensors and modules
        return heads if len(heads) == len(self.context) else heads * len(self.context)

    def maps(self, x: Tensor) -> list[dict[str, Tensor]]:
        """(N, 3, H, W) normalised BGR -> each level's maps by the name of the task, and its "features" (N, C, h, w)."""
        return [
            {**maps, "features": features.value if isinstance(features, Signal) else features}
            for features, maps in self.level_maps(self.backbone(self.data(x) if self.is_deployed else x))
        ]

    def level_maps(self, levels: Sequence[Any]) -> list[tuple[Any, dict[str, Tensor]]]:
        """The backbone's maps -> each level's features, as its context module gives them, and its tasks' maps."""
        levels = self.get_submodule(self.neck_name)(levels)
        found = [context(level) for context, level in zip(self.context, levels, strict=True)]
        return [(features, head(features)) for features, head in zip(found, self.level_heads, strict=True)]

    def forward(self, x: Tensor) -> DenseOutput:
        """(N, 3, H, W) normalised BGR -> DenseOutput; of a deployed network the background's logits are 0."""
        return self.output(self.maps(x))

    def output(self, found: Sequence[dict[str, Tensor]]) -> DenseOutput:
        """The maps of every level as one."""
        score = [head.score_pairs(maps["score"]) for head, maps in zip(self.level_heads, found, strict=True)]
        box, landmarks, features = (
            [maps[name] for maps in found if name in maps] for name in ("box", "landmarks", "features")
        )
        return DenseOutput(score, box, landmarks, features)

    def deployed_parts(self, multiple: int) -> Parts:
        """The deployed form of every part, with copies of its weights; raises ConversionError for one without."""
        backbone = deploy(self.backbone, multiple)
        layouts: Any = backbone.layouts
        return Parts(
            backbone, deploy(self.get_submodule(self.neck_name), layouts=layouts),
            [deploy(block) for block in self.context], [deploy(head) for head in self.heads],
            Point(PIXEL_SCALE, fixed=True),     # pixels less their mean: whole numbers already
        )
