"""The raw outputs of two bundles of one model, net by net, on the same inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Bundle, Level, PoseStage
from edgeface.runtime.detector import map_names, net_input
from edgeface.runtime.engines import RawMap, Session
from edgeface.runtime.roi import gather_patches

from .parity import Floats, MapParity, MapSums
from .pictures import Image

# (width, height) in px. A graph whose reshapes kept the exporter's sizes fails on all but one of them.
FRAMES_PX = ((640, 480), (320, 256), (640, 640), (96, 64))
FACES = (1, 3, 17)

Sessions = Sequence[Sequence[Session]]


def compare_raw(
    bundle: Bundle, reference: Sessions, candidate: Sessions, pictures: Iterable[Image], size_px: int
) -> list[MapParity]:
    """Every raw output of ``candidate``'s nets over the pictures, against ``reference``'s.

    Both are opened nets in the order of ``bundle``'s stages. Each picture is taken at ``size_px``, the first also in
    FRAMES_PX; the pose nets run at the strongest positions, as many as FACES says in turn. A pose net of either side
    gets the reference's features, so that each net answers for itself alone. Raises EngineError, and ParityError when
    an output has another shape.
    """
    dense = bundle.dense
    map_sums = {name: MapSums(name) for name in map_names(dense)}
    pose = [(i, stage) for i, stage in enumerate(bundle.stages) if isinstance(stage, PoseStage)]
    pose_sums = {
        (i, level.stride): {stage.logits: MapSums(f"{stage.logits}{level.stride}")}
        for i, stage in pose
        for level in dense.levels
    }
    counts = itertools.cycle(FACES)
    for number, image in enumerate(pictures):
        for size in (size_px, *FRAMES_PX) if number == 0 else (size_px,):
            x, z = (net_input(net, dense, image, size).x for net in (reference[0][0], candidate[0][0]))
            maps = _both(reference[0][0], candidate[0][0], x, z, map_sums)
            count = next(counts)
            for i, stage in pose:
                for level, reference_net, candidate_net in zip(dense.levels, reference[i], candidate[i], strict=True):
                    patches = strongest_patches(maps, level, stage.patch, count)
                    _both(reference_net, candidate_net, patches, patches, pose_sums[i, level.stride])
    return [output.parity() for sums in (map_sums, *pose_sums.values()) for output in sums.values()]


def strongest_patches(maps: Mapping[str, Floats], level: Level, patch: int, count: int) -> Floats:
    """Feature patches round the ``count`` positions with the highest logits, fewer on a smaller map."""
    assert level.features is not None       # a bundle with a pose stage has them, or no Detector opens it
    score = maps[level.score].max(axis=0)
    best = np.argsort(-score, axis=None, kind="stable")[:count]
    row, column = np.unravel_index(best, score.shape)
    return gather_patches(RawMap(maps[level.features]), row, column, patch)


def _both(
    reference: Session, candidate: Session, x: NDArray[Any], z: NDArray[Any], sums: Mapping[str, MapSums]
) -> dict[str, Floats]:
    """Run both nets, the candidate on ``z``, add what they gave to ``sums``, and hand back the reference's outputs."""
    expected_run, actual_run = reference.run(x), candidate.run(z)
    expected = {name: expected_run.output(name) for name in sums}
    for name, output in expected.items():
        sums[name].add(output, actual_run.output(name))
    return expected
