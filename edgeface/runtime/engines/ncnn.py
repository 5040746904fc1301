"""ncnn behind one safe adapter: the only file that touches ncnn.Mat.

The Python binding checks nothing: a Mat borrows its array, an unknown blob or a missing input ends the process, and a
return code is the only error. So the files are checked before ncnn reads them, only true inputs and outputs are named,
every input is contiguous float32 and lives as long as its Run, and every return code is looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import EngineError, MissingExtraError
from edgeface.runtime.engines.ncnn_files import check_files
from edgeface.runtime.engines.registry import Options, RawMap, Takes, engine
from edgeface.runtime.forks import with_openmp

_ALIGNMENT = 16     # bytes: where ncnn expects every channel of a Mat to begin


class NcnnRun:
    """One extractor; outputs are computed when they are asked for."""

    def __init__(self, session: NcnnSession, extractor: Any, held: tuple[Any, ...]) -> None:
        self._session = session
        self._extractor = extractor
        self._held = held       # the Mat borrows the array; the extractor may still read it, and refers to the net

    def output(self, name: str) -> NDArray[np.float32]:
        return _planes(np.array(self._extract(name), np.float32, order="C"))

    def raw(self, name: str) -> RawMap:
        mat = self._extract(name)
        # The array refers to the Mat, which counts who uses its memory. Memory of an allocator could go with the net.
        values = np.asarray(mat) if mat.allocator is None else np.array(mat)
        return RawMap(_planes(values if values.dtype == np.float32 else values.astype(np.float32)))

    def compute(self, name: str) -> None:
        """Compute an output and leave it where it is. Raises EngineError."""
        self._extract(name)

    def _extract(self, name: str) -> Any:
        if name not in self._session.outputs:
            raise EngineError(
                f"{self._session.param}: has no output {name!r}, only {', '.join(sorted(self._session.outputs))}"
            )
        code, mat = with_openmp(lambda: self._extractor.extract(name))
        if code != 0 or mat.empty():
            raise EngineError(f"{self._session.param}: ncnn failed on output {name!r} (code {code}): convert it again")
        return mat


def _planes(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values.reshape((1,) * (3 - values.ndim) + values.shape)


class NcnnSession:
    """A loaded ncnn net with one input. ``keeps_all``: every blob can be asked for, not only true outputs.

    ``load`` gives the net with so many threads, as it was first loaded with ``threads``.
    """

    takes: Takes = "planes"

    def __init__(
        self, load: Callable[[int], Any], threads: int, param: Path, input_name: str, *, keeps_all: bool = False
    ) -> None:
        net = load(threads)
        inputs: list[str] = net.input_names()
        if inputs != [input_name]:
            raise EngineError(
                f"{param}: its inputs are {', '.join(inputs) or 'none'}, not {input_name}: convert it again"
            )
        # Only blobs that nothing consumes: asking for another one that light mode has freed ends the process.
        names = (blob.name for blob in net.blobs()) if keeps_all else net.output_names()
        self.outputs: frozenset[str] = frozenset(names)
        self.param = param
        self._net = net
        self._load = load
        self._input = input_name
        self._is_light = not keeps_all

    def set_threads(self, threads: int) -> None:
        """Load the net anew: ncnn packs weights for the threads that it is loaded with. Where the files are gone, it
        keeps the one that it has."""
        with suppress(EngineError):
            self._net = self._load(threads)

    def run(self, x: NDArray[np.float32]) -> NcnnRun:
        if x.dtype != np.float32 or x.ndim != 3 or not x.flags.c_contiguous or x.size == 0:
            raise EngineError(f"{self.param}: an input must be contiguous float32 (C, H, W), not {x.dtype} {x.shape}")
        import ncnn

        mat = ncnn.Mat(x)
        if x.ctypes.data % _ALIGNMENT or x[0].nbytes % _ALIGNMENT:
            mat = mat.clone()
        net = self._net
        extractor = net.create_extractor()
        extractor.set_light_mode(self._is_light)
        code = extractor.input(self._input, mat)
        if code != 0:
            raise EngineError(f"{self.param}: ncnn refused an input of shape {x.shape} (code {code})")
        return NcnnRun(self, extractor, (x, mat, net))


@engine("ncnn")
def open_ncnn(
    directory: Path, files: Sequence[str], input_name: str, options: Options
) -> NcnnSession:
    """Load a text .param and its .bin, in this order in ``files``; errors as in ``Engine``."""
    return _open(directory, files, input_name, options, keeps_all=False)


def open_ncnn_traced(
    directory: Path, files: Sequence[str], input_name: str, options: Options
) -> NcnnSession:
    """As ``open_ncnn``, slower, for looking into the net: every blob can be asked for, int8 ones as their integers."""
    return _open(directory, files, input_name, options, keeps_all=True)


def _open(
    directory: Path, files: Sequence[str], input_name: str, options: Options, *, keeps_all: bool
) -> NcnnSession:
    if len(files) != 2:
        raise EngineError(f"{directory}: an ncnn net is a .param and a .bin, not {len(files)} files: convert it again")
    param, weights = (directory / name for name in files)

    def load(threads: int) -> Any:
        check_files(param, weights)
        return _loaded(param, weights, replace(options, threads=threads), keeps_all)

    return NcnnSession(load, options.threads, param, input_name, keeps_all=keeps_all)


def _loaded(param: Path, weights: Path, options: Options, keeps_all: bool) -> Any:
    # OpenMP reads this when ncnn is first loaded: how long a thread spins before it sleeps. Left alone, threads that
    # wait for a busy core made the network up to 40 times slower; without any spinning two threads are slower than one.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        import ncnn
    except ImportError as error:
        raise MissingExtraError(f'the ncnn engine needs ncnn ({error}): pip install "edgeface"') from None
    net = ncnn.Net()
    net.opt.num_threads = options.threads
    net.opt.use_vulkan_compute = False
    net.opt.lightmode = not keeps_all
    half = options.precision == "fp16"
    net.opt.use_fp16_packed = half
    net.opt.use_fp16_storage = half
    net.opt.use_fp16_arithmetic = half
    net.opt.use_bf16_storage = False
    # The files say what is int8. Left out, ncnn would read their int8 weights as float32, past their end.
    net.opt.use_int8_inference = True
    # Packed int8 kernels round otherwise on each processor, and x86's depthwise one is not exact. Without them int8 is
    # the same to the last bit on x86, on ARM and in torch, for 9 % of the time on x86 (and an estimated 1 % on an A72).
    # "int8-fast" has them.
    net.opt.use_packing_layout = options.precision != "int8"
    for path, load in ((param, net.load_param), (weights, net.load_model)):
        code = with_openmp(partial(load, str(path)))
        if code != 0:
            raise EngineError(f"{path}: ncnn cannot load it (code {code}): copy the bundle again")
    return net
