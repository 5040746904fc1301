"""An ncnn pair, a text .param and its .bin, as an ONNX graph for one size; and the pair itself, run by ncnn.

Shapes are those that ncnn has on a picture of that size, so a layer that says none, as a channel shuffle, gets them
from there. A blob of three axes (c, h, w) is (1, c, h, w), one of two (1, h, w), one of one (1, w): an axis of ncnn is
the next one of ONNX.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgeface.errors import ConversionError, EngineError
from edgeface.regular_files import read_regular
from edgeface.runtime.engines.ncnn import NcnnSession, open_ncnn_traced
from edgeface.runtime.engines.ncnn_files import INT8_TERM, WEIGHTED, Layer, parse_param, read_parts
from edgeface.runtime.engines.registry import Options

from .pair_layers import LAYERS, PairGraph, floats

Floats = NDArray[np.float32]
Size = tuple[int, int]

OPSET = 13
_MULTIPLE = 32
_MOST_BYTES = 1 << 30


class Pair:
    """The pair beside ``param``, with one picture as its input. Raises ConversionError for what is none."""

    def __init__(self, param: Path, size: Size) -> None:
        self.path, self._weights = param, param.with_suffix(".bin")
        self.layers = self._parsed()
        self.input = self._only_input()
        self._session = self._opened()
        consumed = {name for layer in self.layers for name in layer.consumes}
        self.outputs = [name for layer in self.layers for name in layer.produces if name not in consumed]
        given = self._entry.integer(0), self._entry.integer(1)
        self.size: Size = given if all(given) else self._fitting(size)
        self.is_free = not all(given) and not any(map(_counted, self.layers))

    def run(self, x: Floats) -> dict[str, Floats]:
        """What ncnn gives for ``x``, float32 (1, 3, H, W): its outputs as ONNX has them. Raises ConversionError."""
        try:
            run = self._session.run(np.ascontiguousarray(x[0]))
            ranks = self._ranks()
            return {name: _as_onnx(run.output(name), ranks[name]) for name in self.outputs}
        except EngineError as error:
            raise ConversionError(f"{self.path}: {error}") from None

    def to_onnx(self) -> onnx.ModelProto:
        """The graph; raises ConversionError for a layer that is not written here."""
        for layer in self.layers:
            if layer.kind not in LAYERS:
                raise ConversionError(
                    f"{self.path}: layer {layer.name} is {layer.kind}, which is not imported from a pair: give the "
                    "ONNX file that the pair was made from"
                )
            if layer.kind in WEIGHTED and layer.integer(INT8_TERM):
                raise ConversionError(f"{self.path}: layer {layer.name} is int8: give the float pair")
        graph = PairGraph(self.path, self._shapes())
        try:
            parts = {layer.name: arrays for layer, arrays in read_parts(self.layers, self._content())}
        except ValueError as error:
            raise ConversionError(f"{self._weights}: does not fit {self.path.name} ({error})") from None
        for layer in self.layers:
            LAYERS[layer.kind](graph, layer, parts[layer.name])
        width, height = self.size
        entry = helper.make_tensor_value_info(self.input, onnx.TensorProto.FLOAT, [1, 3, height, width])
        given = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in self.outputs]
        made = helper.make_graph(graph.nodes, self.path.stem, [entry], given, graph.constants)
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)

    def _parsed(self) -> list[Layer]:
        try:
            return parse_param(read_regular(self.path, _MOST_BYTES).decode("ascii"))
        except (OSError, UnicodeDecodeError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConversionError(f"{self.path}: no text .param of ncnn that can be read ({reason})") from None

    def _content(self) -> bytes:
        try:
            return read_regular(self._weights, _MOST_BYTES)
        except OSError as error:
            raise ConversionError(f"{self._weights}: {error.strerror}: a pair needs it beside the .param") from None

    def _only_input(self) -> str:
        entries = [layer for layer in self.layers if layer.kind == "Input"]
        if len(entries) != 1 or entries[0].integer(2, 3) not in (0, 3):
            raise ConversionError(f"{self.path}: has {len(entries)} inputs: a detector to import has one, a picture")
        (self._entry,) = entries
        return self._entry.produces[0]

    def _opened(self) -> NcnnSession:
        self._content()
        try:
            # Traced, which keeps every blob: ncnn's light mode ends the process at a net that begins in place.
            return open_ncnn_traced(self.path.parent, [self.path.name, self._weights.name], self.input, Options())
        except EngineError as error:
            raise ConversionError(str(error)) from None

    def _fitting(self, size: Size) -> Size:
        """``size``, or where the pair reshapes to a number of rows that has another area, one of that area.

        Convolutions do not say the sides, and nothing depends on them: what is nearest to a square will do.
        """
        first = next((i for i, layer in enumerate(self.layers) if _counted(layer)), None)
        if first is None:
            return size
        reshape = self.layers[first]
        values = math.prod(self._shapes_at(size, first)[reshape.consumes[0]])
        area = math.prod(_sides(reshape)) * size[0] * size[1] / values
        for height in range(int(area**0.5) // _MULTIPLE * _MULTIPLE, 0, -_MULTIPLE):
            if area % height == 0 and area / height % _MULTIPLE == 0:
                return int(area / height), height
        raise ConversionError(
            f"{self.path}: layer {reshape.name} is for pictures of {area:g} pixels, which are no sides of multiples of "
            f"{_MULTIPLE}: make the pair again for any size, or give the ONNX file"
        )

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every blob, as ONNX has it."""
        return self._shapes_at(self.size, len(self.layers))

    def _shapes_at(self, size: Size, count: int) -> dict[str, tuple[int, ...]]:
        """Those of what the first ``count`` layers give, one after the other: ncnn does not see whether a reshape fits,
        and ends the process."""
        ranks, shapes = self._ranks(), dict[str, tuple[int, ...]]()
        try:
            run = self._session.run(np.zeros((3, size[1], size[0]), np.float32))
            for layer in self.layers[:count]:
                # ncnn reads a Slice's parts without looking whether they are there.
                if layer.kind == "Slice" and len(floats(layer, 0)) != len(layer.produces):
                    raise ConversionError(
                        f"{self.path}: layer {layer.name}, Slice, does not say its parts: make the pair again, or give "
                        "the ONNX file"
                    )
                if layer.kind == "Reshape":
                    self._require_fit(layer, math.prod(shapes[layer.consumes[0]]))
                shapes |= {name: _as_onnx(run.output(name), ranks[name]).shape for name in layer.produces}
        except EngineError as error:
            raise ConversionError(f"{self.path}: {error}") from None
        return shapes

    def _require_fit(self, layer: Layer, values: int) -> None:
        sides = _sides(layer)
        said = math.prod(side for side in sides if side > 0)
        is_sensible = min(sides) >= -1 and sides.count(-1) <= 1 and 0 not in sides
        if not is_sensible or values % said or (-1 not in sides and said != values):
            raise ConversionError(
                f"{self.path}: layer {layer.name} makes {' x '.join(map(str, sides))} of {values} values, which does "
                "not fit: make the pair again for any size, or give the ONNX file"
            )

    def _ranks(self) -> dict[str, int]:
        """How many axes each blob has in ncnn."""
        ranks: dict[str, int] = {}
        for layer in self.layers:
            rank = max((ranks[name] for name in layer.consumes), default=3)
            if layer.kind in ("InnerProduct", "Flatten"):
                rank = 1
            elif layer.kind == "Reshape":
                rank = 1 + (1 in layer.params) + (2 in layer.params)
            elif layer.kind == "Pooling" and layer.integer(4):
                rank = 1
            ranks |= dict.fromkeys(layer.produces, rank)
        return ranks


def _sides(reshape: Layer) -> list[int]:
    """What a Reshape makes, from the last axis on; -1 is what is left."""
    return [reshape.integer(key) for key in (0, 1, 2) if key in reshape.params]


def _counted(layer: Layer) -> bool:
    """Whether it is a Reshape for a picture of one area."""
    return layer.kind == "Reshape" and min(_sides(layer), default=1) > 0


def _as_onnx(planes: Floats, rank: int) -> Floats:
    """A blob of ``rank`` axes, which comes as three."""
    return planes.reshape(1, *planes.shape[3 - rank:])
