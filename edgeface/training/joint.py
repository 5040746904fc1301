"""TFN's joint stage (tfn.txt, section IV.C, stage 1): the trunk learns at each step from the dense stage's losses on
scenes and from the nets' losses on regions of single faces."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.data.detection import Batch
from edgeface.data.pixels import ProgressBar
from edgeface.errors import OptionError
from edgeface.models.pixels import PIXEL_MEAN, PIXEL_SCALE
from edgeface.models.tfn import OUTPUTS, TFN, Group, Task
from edgeface.models.tfn_export import SAMPLING
from edgeface.training.config import Loss
from edgeface.training.crop_batches import HardProbe
from edgeface.training.freezing import ALL
from edgeface.training.joint_samples import PICTURE, REGION, Joint
from edgeface.training.maskface_objective import MaskFaceObjective
from edgeface.training.objective import Losses
from edgeface.training.probes import LookCost
from edgeface.training.region_heads import looked_at
from edgeface.training.region_losses import region_losses
from edgeface.training.region_samples import LabelledFaces, RegionCutter
from edgeface.training.roi import aligned_regions

# The tasks whose nets are part of the stage.
_TASKS: tuple[Task, ...] = ("landmarks", "attributes")
# The label that a task cannot do without, by which its faces are told; of the attributes any.
_NEEDED = {"landmarks": ("points",), "attributes": ("age", "gender", "ethnicity")}


class JointObjective(MaskFaceObjective):
    """The dense stage's losses and, times ``joint.weight``, those of the nets for ``tasks`` on regions.

    The detection net's own are left out: what it looks at are proposals, which are only worth learning from when the
    dense stage no longer changes. Raises OptionError as ``MaskFaceObjective``, and where one net is for others too.
    """

    def __init__(self, net: TFN, loss: Loss, small_face_px: float, tasks: Sequence[Task], joint: Joint) -> None:
        super().__init__(net, loss, small_face_px)
        self.joint, self._groups = joint, groups_of(net, tasks)
        names = [name for task in tasks for name in OUTPUTS[task]]
        if net.design.landmarks == "heatmaps":
            names = ["heatmaps" if name == "landmarks" else name for name in names]
        self.tasks = (*MaskFaceObjective.tasks, *names)

    def weights(self) -> dict[str, float]:
        return {**dict.fromkeys(self.tasks, self.joint.weight), **super().weights()}

    def forward(self, batch: Batch) -> Losses:
        """As ``Objective``, of a batch of ``JointSet.collate``, whose canvases of faces come last."""
        net, images, known = self.net, batch.images, batch.known
        assert isinstance(net, TFN)
        trunk = net.trunk((images.float() - PIXEL_MEAN) * PIXEL_SCALE)
        scenes = len(images) - len(torch.unique(known[PICTURE]))
        zero = images.new_zeros((), dtype=torch.float32)
        dense = Losses(zero, {}, {"small_boxes": zero, "boxes": zero})
        if scenes:
            out = net.output(net.proposing_maps({stride: features[:scenes] for stride, features in trunk.items()}))
            dense = self.of_output(out, batch.first(scenes))
        with torch.autocast(images.device.type, enabled=False):
            of_regions = self._of_regions(net, trunk, known)
        total = dense.total
        for loss in of_regions.values():
            total = total + self.joint.weight * loss
        regions = {name: loss.detach() for name, loss in of_regions.items()}
        return Losses(total, dict.fromkeys(self.tasks, zero) | dense.tasks | regions, dense.feedback)

    def _of_regions(self, net: TFN, trunk: Mapping[int, Tensor], known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for group in self._groups:
            rows = torch.nonzero(_is_known(known, group)).flatten()
            if len(rows) < 2:       # a batch norm of one value has nothing to go by
                continue
            picture, boxes = known[PICTURE][rows], known[REGION][rows]
            joined = torch.cat([
                scale * aligned_regions(trunk[stride], picture, boxes, group.size, stride, SAMPLING)
                for stride, scale in zip(group.strides, group.scales, strict=True)
            ], 1)
            labels = {name: values[rows] for name, values in known.items()}
            losses |= region_losses(net.regions[group.name](joined), labels)
        return losses


def trained_patterns(net: TFN, joint: Joint) -> tuple[str, ...]:
    """What of ``net`` the stage trains, as ``Trained`` has it; raises OptionError for ``joint.frozen`` that the trunk
    has not."""
    if unknown := set(joint.frozen) - {name for name, _ in net.backbone.named_modules()}:
        raise OptionError(f"joint.frozen: the trunk {net.design.trunk} has no {', '.join(sorted(unknown))}")
    frozen = [f"backbone.{name}" for name in joint.frozen]
    return (*ALL, *(f"!{name}" for name in frozen), *(f"!{name}.*" for name in frozen))


def tasks_of(net: TFN, joint: Joint) -> list[Task]:
    """The tasks of ``net`` that faces are drawn for; raises OptionError where there are none."""
    possible = [task for task in _TASKS if task in net.design.tasks]
    if not possible:
        raise OptionError(f"the network has no net for {' or '.join(_TASKS)}: leave joint out of parts")
    tasks = [task for task in possible if joint.tasks.get(task, 0.0) > 0]
    if not tasks:
        raise OptionError(f"joint.tasks must give {' or '.join(possible)} a share above 0")
    return tasks


def groups_of(net: TFN, tasks: Sequence[Task]) -> list[Group]:
    """The groups whose nets are for ``tasks``; raises OptionError for one that is for others too."""
    groups = [group for group in net.design.groups if set(group.tasks) & set(tasks)]
    for group in groups:
        if not set(group.tasks) <= set(tasks):
            raise OptionError(
                f"the net for {', '.join(group.tasks)} cannot learn from {', '.join(tasks)} alone: give each a share "
                "in joint.tasks, or leave joint out of parts"
            )
    return groups


def _is_known(known: Mapping[str, Tensor], group: Group) -> Tensor:
    """Which faces (N,) bool a group's net learns from."""
    labels = [known[name][:, None] for task in group.tasks for name in _NEEDED[task]]
    return torch.stack([label.flatten(1).isfinite().all(1) for label in labels]).any(0)


@dataclass(frozen=True)
class DevFaces:
    """Faces that the net of ``group`` is looked at on, about ``count`` of them."""

    group: Group
    faces: LabelledFaces
    count: int


class JointProbe:
    """What ``probe`` says of the dense stage, with figures of the nets on regions of dev faces."""

    def __init__(self, probe: HardProbe, faces: Sequence[DevFaces], progress: ProgressBar) -> None:
        self._probe, self._faces, self._progress = probe, faces, progress

    def foreseen(self, net: nn.Module, most_dev_s: float) -> LookCost:
        """As ``Probe``, of the dense stage's figures."""
        return self._probe.foreseen(net, most_dev_s)

    def dev(self, net: nn.Module) -> dict[str, float]:
        """As ``Probe``; ``choose`` is the dense stage's."""
        figures = self._probe.dev(net)
        # Regions are cut on the CPU, as the board cuts them; the averaged weights stay where they are trained.
        own = copy.deepcopy(net).cpu()
        assert isinstance(own, TFN)
        for each in self._faces:
            samples = RegionCutter(own, each.group).plain(each.faces, each.count, self._progress)
            figures |= looked_at(own.regions[each.group.name], samples)[1]
        return figures

    def hard(self, net: nn.Module, hard: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
        """As ``Probe``."""
        return self._probe.hard(net, hard)
