"""The raw outputs of two bundles of one model, net by net, on the same inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from edgeface.bundle import Bundle
from edgeface.runtime.engines import Session
from edgeface.runtime.stages.kind import Sight, Trial
from edgeface.runtime.stages.kinds import kind_of

from .parity import Floats, MapParity, MapSums
from .pictures import Image

# (width, height) in px. A graph whose reshapes kept the exporter's sizes fails on all but one of them.
FRAMES_PX = ((640, 480), (320, 256), (640, 640), (96, 64))
FACES = (1, 3, 17)

Sessions = Sequence[Sequence[Session]]


def compare_raw(
    bundle: Bundle, reference: Sessions, candidate: Sessions, pictures: Iterable[tuple[Image, Floats]], size_px: int
) -> list[MapParity]:
    """Every raw output of ``candidate``'s nets over the pictures, against ``reference``'s.

    Both are opened nets in the order of ``bundle``'s stages. A picture comes with the boxes (n, 4) of faces in it, if
    any are known. Each is taken at ``size_px``, the first also in FRAMES_PX; nets on faces run on as many as FACES says
    in turn: pose nets at the strongest positions, nets on crops on the known faces and beside them. Each net of either
    side gets what comes of the picture or of the reference's features, so that it answers for itself alone. Raises
    EngineError, and ParityError when an output has another shape.
    """
    sums: list[dict[str, MapSums]] = [{} for _ in bundle.stages]
    counts = itertools.cycle(FACES)
    for number, (image, boxes) in enumerate(pictures):
        for size in (size_px, *FRAMES_PX) if number == 0 else (size_px,):
            sight = Sight(image, boxes, size, next(counts))
            for stage, by_label, nets, others in zip(bundle.stages, sums, reference, candidate, strict=True):
                kind = kind_of(stage)
                for trial in kind.trials(bundle, stage, (nets, others), sight):
                    found = _both(nets[trial.net], others[trial.net], trial, by_label)
                    if kind.gives_maps:
                        sight.maps = found
    return [each.parity() for by_label in sums for each in by_label.values()]


def _both(reference: Session, candidate: Session, trial: Trial, sums: dict[str, MapSums]) -> dict[str, Floats]:
    """Run both nets, add what they gave to ``sums``, by label, and hand back the reference's outputs."""
    expected_run, actual_run = reference.run(trial.x), candidate.run(trial.z)
    expected = {name: expected_run.output(name) for name in trial.outputs}
    for name, output in expected.items():
        label = trial.outputs[name]
        sums.setdefault(label, MapSums(label)).add(output, actual_run.output(name))
    return expected
