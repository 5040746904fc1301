"""The operation of a worker that times one of ncnn's benchmark networks: what estimates for its board are fitted to."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from edgeface.atomic import refused
from edgeface.errors import EngineError
from edgeface.runtime.engines import Options, engine

from .estimate.networks import network
from .estimate.networks.builder import BENCHMARK_PRECISION, INPUT, SEED
from .operations import OperationOptions, State, operation, read
from .protocol import Arrays

WARM_UP_RUNS = 3


class TimeNetwork(OperationOptions, frozen=True):
    """The network by ncnn's name for it, and how often it runs after the warm-up."""

    name: str
    threads: Annotated[int, Meta(ge=1)]
    runs: Annotated[int, Meta(ge=1)]


@operation("time_network")
def time_network(_state: State, options: dict[str, Any], _arrays: Arrays) -> tuple[Any, Arrays]:
    """``ms`` (runs,) float64 of the network with random weights on zeros, by ncnn with benchncnn's options, as ncnn's
    published tables have them; every run in order."""
    wanted = read(options, TimeNetwork)
    built = network.get(wanted.name)()
    try:
        with tempfile.TemporaryDirectory(prefix="edgeface-network-") as scratch:
            files = [path.name for path in built.write(Path(scratch), wanted.name, seed=SEED)]
            chosen = Options(wanted.threads, BENCHMARK_PRECISION)
            session = engine.get("ncnn")(Path(scratch), files, INPUT, chosen)
    except OSError as error:
        raise refused(tempfile.gettempdir(), error) from None
    x, taken = np.zeros(built.input_shape, np.float32), []
    for _ in range(WARM_UP_RUNS + wanted.runs):
        started = time.perf_counter()
        run = session.run(x)
        for name in session.outputs:
            if not np.isfinite(run.output(name)).all():
                raise EngineError(f"{wanted.name}: ncnn gives values that are no numbers here")
        taken.append(1000 * (time.perf_counter() - started))
    return None, {"ms": np.array(taken[WARM_UP_RUNS:], np.float64)}
