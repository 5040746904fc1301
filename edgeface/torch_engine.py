"""A checkpoint as an engine: what conversions are held against, and how a checkpoint detects before one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import SCHEMA, Bundle, file_sets
from edgeface.errors import EngineError, MissingExtraError, OptionError
from edgeface.regular_files import real_path
from edgeface.runtime.detector import Detector
from edgeface.runtime.engines.eager import EagerRun
from edgeface.runtime.engines.registry import Options, Takes, engine, file_reader
from edgeface.runtime.forks import with_openmp

if TYPE_CHECKING:
    from torch import nn

    from edgeface.models.family import Graph

# Where a quantised checkpoint rounds: at every tensor, as TFLite does, or at what its int8 layers read, as ncnn does.
Points = Literal["inputs", "all"]


class TorchSession:
    """One export graph of a checkpoint on ``options.device``, computing in float32. Raises OptionError when torch has
    no such device."""

    takes: Takes = "planes"

    def __init__(self, graph: Graph, where: str, options: Options) -> None:
        _require_device(options.device)
        self.outputs: frozenset[str] = frozenset(graph.outputs)
        self.where = where
        self.graph = graph
        self._module = graph.module.to(options.device)
        self._threads = options.threads
        self._device = options.device

    def set_threads(self, threads: int) -> None:
        self._threads = threads

    def run(self, x: NDArray[np.float32]) -> EagerRun:
        return EagerRun(self, x)

    def compute(self, x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Every output, (C, H, W) by name; raises EngineError with torch's reason."""
        return self.compute_batch([x])[0]

    def compute_batch(self, inputs: Sequence[NDArray[np.float32]]) -> list[dict[str, NDArray[np.float32]]]:
        """Every output by name for each of ``inputs``, (C, H, W) float32 of one shape, computed together.

        The results are those of ``compute`` but for rounding. Raises EngineError with torch's reason.
        """
        return with_openmp(lambda: self._computed(inputs))

    def _computed(self, inputs: Sequence[NDArray[np.float32]]) -> list[dict[str, NDArray[np.float32]]]:
        import torch

        before = torch.get_num_threads()
        try:
            torch.set_num_threads(self._threads)    # of the whole process, so it is put back
            # TF32, which GPUs round convolutions to by default, has 10 bits: it would hide what a comparison looks for.
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                outputs = self._module(torch.from_numpy(np.stack(inputs)).to(self._device))
                maps = outputs if isinstance(outputs, tuple) else (outputs,)
                arrays = [m.cpu().numpy() for m in maps]
        except RuntimeError as error:
            raise EngineError(f"{self.where}: torch failed: {str(error).splitlines()[0]}") from None
        finally:
            torch.set_num_threads(before)
        return [
            {name: np.ascontiguousarray(m[i]) for name, m in zip(self.graph.outputs, arrays, strict=True)}
            for i in range(len(inputs))
        ]

    def run_batch(self, inputs: Sequence[NDArray[np.float32]]) -> list[EagerRun]:
        """A run for each of ``inputs``, (C, H, W) float32 of one shape, computed together; raises EngineError."""
        return [EagerRun(self, x, outputs) for x, outputs in zip(inputs, self.compute_batch(inputs), strict=True)]


def checkpoint_bundle(path: Path, points: Points = "all") -> Bundle:
    """The bundle that a checkpoint is to the runtime: engine "torch", each net's files the .pt and a graph's name.

    A quantised checkpoint has the precision "int8", computes in float32 with fake quantisation, and rounds at
    ``points``. Raises CheckpointError, ConversionError for a network without export graphs, and MissingExtraError
    without torch.
    """
    _require_torch(path)
    from edgeface.models.checkpoint import load_checkpoint
    from edgeface.models.family import families, thresholds_of

    checkpoint = load_checkpoint(path)
    family = families.get(checkpoint.model)
    int8 = checkpoint.quantisation is not None
    stages = family.stages(
        lambda stem: [path.name, stem, *([points] if int8 else [])], checkpoint.options,
        thresholds_of(checkpoint.metrics),
    )
    return Bundle(
        schema=SCHEMA, name=path.stem, model=checkpoint.model, precision="int8" if int8 else "fp32", engine="torch",
        stages=stages, defaults=family.defaults, files=[],
        licence=checkpoint.licence, metrics=checkpoint.metrics, made=checkpoint.made, verified=True,
    )


file_reader("torch")(checkpoint_bundle)


def network_detector(
    net: nn.Module, *, size_px: int, score: float, nms_iou: float, threads: int = 0, device: str = "cpu"
) -> Detector:
    """A detector on a network that is still in memory, for looking at it while it trains.

    It has the stages that training is looked at by (``Family.looked_at``). ``threads`` 0 leaves torch's number. The
    network is put into eval mode and shares its weights with the detector. Raises ConversionError for a network without
    export graphs.
    """
    import torch

    from edgeface.models.family import family_of

    family = family_of(net)
    options = Options(threads or torch.get_num_threads(), device=device)
    sessions = {graph.stem: TorchSession(graph, graph.stem, options) for graph in family.graphs(net)}
    stages = family.stages(lambda stem: [stem], family.options_of(net), {})[: family.looked_at]
    bundle = Bundle(
        schema=SCHEMA, name="network in memory", model="", precision="fp32", engine="torch",
        stages=stages, defaults=family.defaults, files=[], licence="", metrics={}, made={}, verified=True,
    )
    opened = [[sessions[stem] for (stem,) in file_sets(stage)] for stage in stages]
    return Detector(bundle, opened, size_px=size_px, score=score, nms_iou=nms_iou)


@engine("torch")
def open_torch(
    directory: Path, files: Sequence[str], input_name: str, options: Options
) -> TorchSession:
    """Open graph ``files[1]`` of checkpoint ``files[0]``, quantised at the points ``files[2]`` where there is one.

    Raises as ``Engine`` does, CheckpointError, and OptionError when torch has no device ``options.device``.
    """
    if len(files) not in (2, 3):
        raise EngineError(f"{directory}: a torch net is a checkpoint and a graph's name, not {len(files)} files")
    path = real_path(directory / files[0])
    _require_torch(path)
    stamp = path.stat() if path.is_file() else None
    version = (stamp.st_mtime_ns, stamp.st_size) if stamp else (0, 0)
    points = _points(files[2]) if len(files) == 3 else None
    graphs = {g.stem: g for g in with_openmp(lambda: _graphs(path, version, points, options.device))}
    if files[1] not in graphs or graphs[files[1]].input != input_name:
        raise EngineError(f"{path}: has no graph {files[1]!r} with an input {input_name!r}, only {', '.join(graphs)}")
    return TorchSession(graphs[files[1]], f"{path}: {files[1]}", options)


def _points(name: str) -> Points:
    for points in get_args(Points):
        if points == name:
            return cast(Points, points)
    raise EngineError(f"a quantised checkpoint cannot round at {name!r}, only at {' or '.join(get_args(Points))}")


@lru_cache(maxsize=1)
def _graphs(path: Path, _version: tuple[int, int], points: Points | None, _device: str) -> list[Graph]:
    # A pipeline opens one session a graph, and each would read and build the same checkpoint again. Sessions on two
    # devices must not share a network, since a network is on one of them.
    from edgeface.int8.modules import set_mode
    from edgeface.models.checkpoint import load_checkpoint
    from edgeface.models.family import graphs

    net = load_checkpoint(path).build()
    if points is not None:
        set_mode(net, points)
    return graphs(net)


def _require_device(device: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:     # torch asserts that it was built with CUDA
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise OptionError(f"torch cannot use the device {device!r} ({reason}): choose another, or cpu") from None


def _require_torch(path: Path) -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(f'{path}: a checkpoint needs torch ({error}): pip install "edgeface[train]"') from None
