"""TFLite by ai-edge-litert, or by its predecessor tflite-runtime: (1, H, W, C) nets in float32 or int8."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle.schema import MAX_FILE_BYTES
from edgeface.errors import EngineError, MissingExtraError
from edgeface.regular_files import read_regular
from edgeface.runtime.engines.registry import Options, RawMap, Takes, engine
from edgeface.runtime.engines.tflite_files import TfliteNet, TfliteTensor, check_tflite

PIXEL_STEP = 1 / 128
_COLOURS = 3
_Q_MAX = 127
# To allocate for another input size takes a tenth of a float run and a third of an int8 one. A picture's two
# orientations and a square are kept; each holds its own activations and packed weights.
_KEPT_SIZES = 3
_FREE = -1        # in a shape
_RANK = 4


class TfliteRun:
    """All outputs of one input, computed together on first use; each becomes float32 where ``output`` asks for it."""

    def __init__(self, session: TfliteSession, x: NDArray[Any]) -> None:
        self._session = session
        self._x = x
        self._outputs: dict[str, NDArray[Any]] | None = None

    def output(self, name: str) -> NDArray[np.float32]:
        return self.raw(name).real()

    def raw(self, name: str) -> RawMap:
        session = self._session
        if name not in session.outputs:
            known = ", ".join(sorted(session.outputs))
            raise EngineError(f"{session.where}: has no output {name!r}, only {known}")
        if self._outputs is None:
            self._outputs = session.compute(self._x)
        return RawMap(self._outputs[name].transpose(2, 0, 1), session.scales[name])


class TfliteSession:
    """A loaded net with one input; its interpreters are used by one thread at a time.

    ``make`` gives an interpreter of the file with so many threads. Raises EngineError when that cannot run it.
    """

    def __init__(self, net: TfliteNet, where: str, make: Callable[[int], Any], threads: int) -> None:
        (self._input,) = net.inputs
        self.scales: dict[str, float | None] = {tensor.name: tensor.scale for tensor in net.outputs}
        self.outputs: frozenset[str] = frozenset(self.scales)
        self.takes: Takes = "pixels" if _is_pixels(self._input) else "planes"
        self.where = where
        self._make_with = make
        self._threads = threads
        self._lock = threading.Lock()
        self._ready: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        # The first one shows that the file can run, and is there for the first input.
        self._spare = [self._allocated(self._make, None)]
        self._index: dict[str, int] = {o["name"]: o["index"] for o in self._spare[0].get_output_details()}
        if self._index.keys() != self.outputs:
            raise EngineError(f"{where}: its outputs have other names in the interpreter: convert it again")

    def set_threads(self, threads: int) -> None:
        """New interpreters from the next run on, since one keeps its threads: about the time of a picture."""
        with self._lock:
            self._threads = threads
            self._spare.clear()
            self._ready.clear()

    def _make(self) -> Any:
        return self._make_with(self._threads)

    def run(self, x: NDArray[Any]) -> TfliteRun:
        wanted, layout = (np.int8, "(H, W, 3)") if self.takes == "pixels" else (np.float32, "(C, H, W)")
        if x.dtype != wanted or x.ndim != 3 or x.size == 0 or not x.flags.c_contiguous:
            raise EngineError(
                f"{self.where}: an input must be contiguous {wanted.__name__} {layout}, not {x.dtype} {x.shape}"
            )
        return TfliteRun(self, x)

    def compute(self, x: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Every output by name as the net gives it, (H, W, C); raises EngineError with TFLite's reason."""
        values = self._entered(x)[None]
        if any(n not in (_FREE, got) for n, got in zip(self._input.shape, values.shape, strict=True)):
            sides = " x ".join("any" if n == _FREE else str(n) for n in self._input.shape[1:])
            raise EngineError(f"{self.where}: takes height x width x channels {sides}, not {values.shape[1:]}")
        with self._lock:
            interpreter = self._interpreter(values.shape)
            try:
                interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
                interpreter.invoke()
                return {name: interpreter.get_tensor(index)[0] for name, index in self._index.items()}
            except (RuntimeError, ValueError) as error:
                raise EngineError(f"{self.where}: TFLite failed: {_one_line(error)}") from None

    def _entered(self, x: NDArray[Any]) -> NDArray[Any]:
        """The input as the net takes it, (H, W, C)."""
        if self.takes == "pixels":
            return x
        pixels = np.ascontiguousarray(x.transpose(1, 2, 0))
        if self._input.scale is None:
            return pixels
        levels = np.rint(pixels * (np.float32(1) / np.float32(self._input.scale)))      # as edgeface.int8 rounds
        clipped: NDArray[np.int8] = np.clip(levels, -_Q_MAX - 1, _Q_MAX).astype(np.int8)
        return clipped

    def _interpreter(self, shape: tuple[int, ...]) -> Any:
        """One that is allocated for that input shape; the one that was not used for longest gives way."""
        if shape not in self._ready:
            if self._spare:
                make: Callable[[], Any] = self._spare.pop
            elif len(self._ready) < _KEPT_SIZES:
                make = self._make
            else:
                _, oldest = self._ready.popitem(last=False)
                make = lambda: oldest  # noqa: E731
            self._ready[shape] = self._allocated(make, shape)
        self._ready.move_to_end(shape)
        return self._ready[shape]

    def _allocated(self, make: Callable[[], Any], shape: tuple[int, ...] | None) -> Any:
        """An interpreter with memory for that input shape, or for the file's own."""
        try:
            interpreter = make()
            if shape is not None:
                interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], shape)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            wanted = "it" if shape is None else f"an input {shape}"
            raise EngineError(f"{self.where}: TFLite cannot run {wanted}: {_one_line(error)}") from None
        return interpreter


def _is_pixels(tensor: TfliteTensor) -> bool:
    return (
        tensor.scale is not None and tensor.shape[-1] == _COLOURS
        and math.isclose(tensor.scale, PIXEL_STEP, rel_tol=1e-5)
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def interpreter_class() -> Any:
    """TFLite's Interpreter, of whichever package is there; raises MissingExtraError."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError:
            raise MissingExtraError(
                f'the tflite engine needs ai-edge-litert ({error}): pip install "edgeface[tflite]"'
            ) from None
    return Interpreter


@engine("tflite")
def open_tflite(
    directory: Path, files: Sequence[str], input_name: str, options: Options
) -> TfliteSession:
    """Load the one .tflite file in ``files``; errors as in ``Engine``. The file itself fixes the precision."""
    if len(files) != 1:
        raise EngineError(f"{directory}: a TFLite net is one file, not {len(files)}: convert it again")
    path = directory / files[0]
    try:
        content = read_regular(path, MAX_FILE_BYTES)
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror}: copy the bundle again") from None
    net = check_tflite(content, path)
    names = [tensor.name for tensor in net.inputs]
    if names != [input_name]:
        raise EngineError(f"{path}: its inputs are {', '.join(names) or 'none'}, not {input_name}: convert it again")
    for tensor in (*net.inputs, *net.outputs):
        whole = tensor.dtype == np.int8 and tensor.scale is not None
        if len(tensor.shape) != _RANK or not (whole or tensor.dtype == np.float32):
            raise EngineError(
                f"{path}: {tensor.name} is no float32 map (1, H, W, C), nor an int8 one with a scale: convert it again"
            )
    make = interpreter_class()
    return TfliteSession(
        net, str(path), lambda threads: make(model_content=content, num_threads=threads), options.threads
    )
