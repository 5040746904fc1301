"""A float checkpoint as an engine: what conversions are held against, and how a checkpoint detects before one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import SCHEMA, Bundle, Defaults
from edgeface.errors import EngineError, MissingExtraError
from edgeface.runtime.engines.eager import EagerRun
from edgeface.runtime.engines.registry import Options, Takes, engine

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgeface.models.mos_export import Graph
    from edgeface.runtime.detector import Detector

# On every second dev picture of wider: precision .77 and recall .63 on the medium subset; at 0.5 they are .58 and .68.
_DEFAULTS = Defaults(size_px=640, score=0.7, nms_iou=0.4)


class TorchSession:
    """One export graph of a checkpoint on ``options.device``, computing in float32."""

    takes: Takes = "planes"

    def __init__(self, graph: Graph, where: str, options: Options) -> None:
        self.outputs: frozenset[str] = frozenset(graph.outputs)
        self.where = where
        self._graph = graph
        self._module = graph.module.to(options.device)
        self._threads = options.threads
        self._device = options.device

    def run(self, x: NDArray[np.float32]) -> EagerRun:
        return EagerRun(self, x)

    def compute(self, x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Every output, (C, H, W) by name; raises EngineError with torch's reason."""
        import torch

        before = torch.get_num_threads()
        try:
            torch.set_num_threads(self._threads)    # of the whole process, so it is put back
            with torch.inference_mode():
                outputs = self._module(torch.from_numpy(x)[None].to(self._device))
        except RuntimeError as error:
            raise EngineError(f"{self.where}: torch failed: {str(error).splitlines()[0]}") from None
        finally:
            torch.set_num_threads(before)
        maps: Sequence[torch.Tensor] = outputs if isinstance(outputs, tuple) else (outputs,)
        return {name: m[0].cpu().numpy() for name, m in zip(self._graph.outputs, maps, strict=True)}


def checkpoint_bundle(path: Path) -> Bundle:
    """The bundle that a checkpoint is to the runtime: engine "torch", each net's files the .pt and a graph's name.

    Raises CheckpointError, ConversionError for a network without export graphs, and MissingExtraError without torch.
    """
    _require_torch(path)
    from edgeface.models.checkpoint import load
    from edgeface.models.mos_export import stages

    checkpoint = load(path)
    return Bundle(
        schema=SCHEMA, name=path.stem, model=checkpoint.model, precision="fp32", engine="torch",
        stages=stages(lambda stem: [path.name, stem]), defaults=_DEFAULTS, files=[], licence=checkpoint.licence,
        metrics=checkpoint.metrics, made=checkpoint.made, verified=True,
    )


def network_detector(
    net: nn.Module, *, size_px: int, score: float, nms_iou: float, threads: int = 0, device: str = "cpu"
) -> Detector:
    """A detector on a network that is still in memory, for looking at it while it trains.

    ``threads`` 0 leaves torch's number. The network is put into eval mode and shares its weights with the detector.
    Raises ConversionError for a network without export graphs.
    """
    import torch

    from edgeface.models.mos_export import graphs, stages
    from edgeface.runtime.detector import Detector

    bundle = Bundle(
        schema=SCHEMA, name="network in memory", model="", precision="fp32", engine="torch",
        stages=stages(lambda stem: [stem]), defaults=_DEFAULTS, files=[], licence="", metrics={}, made={},
        verified=True,
    )
    options = Options(threads or torch.get_num_threads(), device=device)
    dense, *pose = (TorchSession(graph, graph.stem, options) for graph in graphs(net))
    return Detector(bundle, [[dense], pose], size_px=size_px, score=score, nms_iou=nms_iou)


@engine("torch")
def open_torch(
    directory: Path, files: Sequence[str], input_name: str, options: Options
) -> TorchSession:
    """Open graph ``files[1]`` of checkpoint ``files[0]``; errors as in ``Engine``, and CheckpointError."""
    if len(files) != 2:
        raise EngineError(f"{directory}: a torch net is a checkpoint and a graph's name, not {len(files)} files")
    path = (directory / files[0]).resolve()
    _require_torch(path)
    stamp = path.stat() if path.is_file() else None
    graphs = {g.stem: g for g in _graphs(path, stamp.st_mtime_ns if stamp else 0, stamp.st_size if stamp else 0)}
    if files[1] not in graphs or graphs[files[1]].input != input_name:
        raise EngineError(f"{path}: has no graph {files[1]!r} with an input {input_name!r}, only {', '.join(graphs)}")
    return TorchSession(graphs[files[1]], f"{path}: {files[1]}", options)


@lru_cache(maxsize=1)
def _graphs(path: Path, _mtime_ns: int, _size_bytes: int) -> list[Graph]:
    # A pipeline opens one session a graph, and each would read and build the same checkpoint again.
    from edgeface.models.checkpoint import load
    from edgeface.models.mos_export import graphs

    return graphs(load(path).build())


def _require_torch(path: Path) -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(f'{path}: a checkpoint needs torch ({error}): pip install "edgeface[train]"') from None
