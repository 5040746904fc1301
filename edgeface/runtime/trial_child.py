"""What ``trial`` runs in a child: every net of a bundle on small inputs, then the detector on a small picture."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Bundle, Stage
from edgeface.errors import BundleError, EdgefaceError
from edgeface.frames import as_frame
from edgeface.runtime.clock import Clock
from edgeface.runtime.detector import Detector
from edgeface.runtime.engines import Session
from edgeface.runtime.loading import open_untried
from edgeface.runtime.stages.kind import Shape
from edgeface.runtime.stages.kinds import kind_of
from edgeface.runtime.stages.stage import Found, Scene

MEMORY_BYTES = 800 << 20
PROCESSOR_S = 5
_STARTS = 10
# A net is run at half its bundle's own size and at that as well, where that is foreseen to take no longer: the whole
# trial has to stay under a second of a desktop's processor, of which Python and the engine take most.
_ALWAYS, _MOST_S = 2, 0.15
# Of a stage per face: runs of the sizes that crops come in, and no more.
_CANDIDATES, _BOXES = 21, 5


def main(directory: str) -> None:
    """Try the bundle in ``directory``, described on standard input as in bundle.json.

    The last line on standard output is [null, null], or an error's name and text.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    # A slow board needs seconds to come so far, and as many times more for the rest.
    limit_s = math.ceil(time.process_time() + max(PROCESSOR_S, _STARTS * time.process_time()))
    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 1))
    name: str | None = None
    text: str | None = None
    try:
        try_bundle(Path(directory), msgspec.json.decode(sys.stdin.buffer.read(), type=Bundle))
    except EdgefaceError as error:
        name, text = type(error).__name__, str(error)
    except MemoryError:
        name, text = "EngineError", f"{directory}: its nets take more memory than there may be: do not use this bundle"
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        name, text = "EngineError", f"{directory}: its nets cannot be run ({reason}): convert the checkpoint again"
    sys.stdout.write("\n" + json.dumps([name, text]) + "\n")
    sys.stdout.flush()


def try_bundle(directory: Path, bundle: Bundle) -> None:
    """Open and run every net; raises EdgefaceError and whatever an engine raises, or ends by a signal."""
    sessions = open_untried(directory, bundle, 1)
    channels: dict[str, int] = {}
    for stage, opened in zip(bundle.stages, sessions, strict=True):
        kind = kind_of(stage)
        for net, session in enumerate(opened):
            maps = _run_all(session, kind.input_shapes(stage, net, bundle.defaults.size_px, channels))
            if kind.gives_maps:
                channels |= {name: values.shape[0] for name, values in maps.items()}
    try:
        _detect(bundle, sessions)
    except BundleError:
        raise       # maps of a wrong shape here may take all memory for a larger picture
    except Exception:
        return      # of the noise alone, or said in the user's process as well: only a signal matters


def _run_all(session: Session, shapes: Sequence[Shape]) -> dict[str, NDArray[np.float32]]:
    """Run a net on the first two shapes, and on further ones where that is foreseen not to take long; its last maps."""
    maps: dict[str, NDArray[np.float32]] = {}
    taken_s = area = 0.0
    for number, shape in enumerate(shapes):
        if number < _ALWAYS or taken_s * math.prod(shape) < _MOST_S * area:
            began_s = time.process_time()
            maps = _run(session, shape)
            taken_s, area = time.process_time() - began_s, math.prod(shape)
    return maps


def _run(session: Session, shape: Shape) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    x: NDArray[Any]
    if session.takes == "pixels":
        x = rng.integers(-128, 128, (*shape[1:], shape[0]), np.int8)
    else:
        x = rng.uniform(-1, 1, shape).astype(np.float32)
    run = session.run(x)
    return {name: run.output(name) for name in sorted(session.outputs)}


def _detect(bundle: Bundle, sessions: Sequence[Sequence[Session]]) -> None:
    """Everything is let through, so that every decoder has something to decode."""
    stages = [_letting_through(stage) for stage in bundle.stages]
    bundle = msgspec.structs.replace(bundle, stages=stages)
    picture = np.random.default_rng(0).integers(0, 256, (96, 64, 3), np.uint8)
    if bundle.is_refinement:
        _refine(bundle, sessions, picture)
        return
    size_px = 2 * getattr(stages[0], "multiple", 48)
    Detector(bundle, sessions, size_px=size_px, score=0.0, nms_iou=bundle.defaults.nms_iou)(picture)


def _letting_through(stage: Stage) -> Stage:
    """The stage without a threshold of its own, of few candidates."""
    kind = kind_of(stage)
    stage = kind.with_threshold(stage, 0.0) or stage
    return kind.with_limit(stage, _CANDIDATES) or stage


def _refine(bundle: Bundle, sessions: Sequence[Sequence[Session]], picture: NDArray[np.uint8]) -> None:
    """Its stages on boxes such as a detector finds."""
    corners = np.array([(x, y) for y in (8, 40) for x in (4, 24, 44)], np.float32)[:_BOXES]
    found = Found(np.concatenate((corners, corners + 16), axis=1), np.ones(len(corners), np.float32))
    scene = Scene(as_frame(picture), Clock(), bundle.defaults.size_px, 0.0, bundle.defaults.nms_iou)
    for number, (stage, nets) in enumerate(zip(bundle.stages, sessions, strict=True)):
        found = kind_of(stage).opened(bundle, number, nets)(scene, found)
    found.faces(bundle.attributes, bundle.classes)
