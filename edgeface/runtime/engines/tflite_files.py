"""A .tflite file read with every offset checked, before the interpreter, which trusts much of it, sees it.

Only what names, sizes and joins tensors is read: the flatbuffer's tables and vectors, by the field numbers of TFLite's
schema. tflite-runtime brings neither the schema nor flatbuffers, so this is a reader of its own.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import EngineError

_IDENTIFIER = b"TFL3"
_OPTIONAL = -1      # an operator's input that is left out
# Field numbers in TFLite's schema.fbs.
_MODEL_CODES, _MODEL_SUBGRAPHS, _MODEL_BUFFERS = 1, 2, 4
_GRAPH_TENSORS, _GRAPH_INPUTS, _GRAPH_OUTPUTS, _GRAPH_OPERATORS = 0, 1, 2, 3
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_NAME, _TENSOR_QUANTISATION, _TENSOR_SIGNATURE = 0, 1, 2, 3, 4, 7
_QUANTISATION_SCALE, _QUANTISATION_ZERO = 2, 3
_OPERATOR_CODE, _OPERATOR_INPUTS, _OPERATOR_OUTPUTS, _OPERATOR_OPTIONS = 0, 1, 2, 4
_BUFFER_DATA = 0
_DTYPES: dict[int, type[np.generic]] = {
    0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 6: np.bool_, 7: np.int16, 9: np.int8,
}


@dataclass(frozen=True)
class TfliteTensor:
    """An input or output; ``shape`` has -1 where the size is free; ``scale`` is that of an int8 one, zero point 0."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    scale: float | None


@dataclass(frozen=True)
class TfliteNet:
    """What a file says of itself."""

    inputs: list[TfliteTensor]
    outputs: list[TfliteTensor]


class _Table:
    """A table of the flatbuffer; everything that is read must lie inside of it. Raises ValueError and struct.error."""

    def __init__(self, content: bytes, position: int) -> None:
        self._content, self._position = content, position
        vtable = position - self._number("<i", position)
        self._fields = self._array("<u2", vtable + 4, (self._number("<H", vtable) - 4) // 2)
        if position + self._number("<H", vtable + 2) > len(content):
            raise ValueError("a table ends behind the file")

    def _number(self, kind: str, position: int) -> int:
        if position < 0:
            raise ValueError("an offset points before the file")
        (value,) = struct.unpack_from(kind, self._content, position)
        return int(value)

    def _array(self, dtype: str, position: int, count: int) -> NDArray[Any]:
        if position < 0 or count < 0 or position + count * np.dtype(dtype).itemsize > len(self._content):
            raise ValueError("a vector ends behind the file")
        return np.frombuffer(self._content, dtype, count, position)

    def _field(self, number: int) -> int | None:
        offset = int(self._fields[number]) if number < len(self._fields) else 0
        return self._position + offset if offset else None

    def _target(self, number: int) -> int | None:
        field = self._field(number)
        return None if field is None else field + self._number("<I", field)

    def integer(self, number: int, kind: str) -> int:
        """A scalar field, 0 where it is left out."""
        field = self._field(number)
        return 0 if field is None else self._number(kind, field)

    def vector(self, number: int, dtype: str) -> NDArray[Any]:
        """A vector of numbers, empty where it is left out."""
        start = self._target(number)
        return np.empty(0, dtype) if start is None else self._array(dtype, start + 4, self._number("<I", start))

    def text(self, number: int) -> str:
        """A string, empty where it is left out."""
        return self.vector(number, "u1").tobytes().decode()

    def table(self, number: int) -> _Table | None:
        """A table, None where it is left out."""
        start = self._target(number)
        return None if start is None else _Table(self._content, start)

    def tables(self, number: int) -> list[_Table]:
        """A vector of tables, empty where it is left out."""
        start = self._target(number)
        if start is None:
            return []
        offsets = self._array("<u4", start + 4, self._number("<I", start))
        return [_Table(self._content, start + 4 + 4 * i + int(offset)) for i, offset in enumerate(offsets)]


def check_tflite(content: bytes, path: Path) -> TfliteNet:
    """Check the tables of a .tflite file and that they agree; raises EngineError with the file's name."""
    if content[4:8] != _IDENTIFIER:
        raise EngineError(f"{path}: not a .tflite file: copy the bundle again")
    try:
        model = _Table(content, struct.unpack_from("<I", content)[0])
        graphs = model.tables(_MODEL_SUBGRAPHS)
        if len(graphs) != 1:
            raise ValueError(f"{len(graphs)} subgraphs, not one")
        sizes = [len(buffer.vector(_BUFFER_DATA, "u1")) for buffer in model.tables(_MODEL_BUFFERS)]
        return _checked(graphs[0], sizes, len(model.tables(_MODEL_CODES)))
    except (ValueError, struct.error, OverflowError, MemoryError) as error:
        raise EngineError(f"{path}: damaged or not for this edgeface ({error}): copy the bundle again") from None


def _checked(graph: _Table, buffer_sizes: list[int], codes: int) -> TfliteNet:
    tensors = []
    constant = set()
    for i, table in enumerate(graph.tables(_GRAPH_TENSORS)):
        tensor = _tensor(table)
        buffer = table.integer(_TENSOR_BUFFER, "<I")
        if buffer >= len(buffer_sizes):
            raise ValueError(f"tensor {tensor.name} has no buffer")
        shape = table.vector(_TENSOR_SHAPE, "<i4")
        needed = math.prod(int(n) for n in shape) * tensor.dtype.itemsize
        if (shape < 0).any() or buffer_sizes[buffer] not in (0, needed):
            raise ValueError(f"tensor {tensor.name} has {buffer_sizes[buffer]} bytes for shape {tuple(shape.tolist())}")
        if buffer_sizes[buffer]:
            constant.add(i)
        tensors.append(tensor)
    inputs, outputs = (_numbers(graph, field, len(tensors)) for field in (_GRAPH_INPUTS, _GRAPH_OUTPUTS))
    made = {*inputs, *constant}
    for operator in graph.tables(_GRAPH_OPERATORS):
        operator.table(_OPERATOR_OPTIONS)
        if operator.integer(_OPERATOR_CODE, "<I") >= codes:
            raise ValueError("an operator has no code")
        reads = [n for n in _numbers(operator, _OPERATOR_INPUTS, len(tensors), optional=True) if n != _OPTIONAL]
        writes = _numbers(operator, _OPERATOR_OUTPUTS, len(tensors))
        if not made.issuperset(reads) or not made.isdisjoint(writes):
            raise ValueError("an operator reads a tensor before it is made, or makes one again")
        made.update(writes)
    if not made.issuperset(outputs):
        raise ValueError("an output is never made")
    return TfliteNet([tensors[i] for i in inputs], [tensors[i] for i in outputs])


def _numbers(table: _Table, field: int, tensors: int, *, optional: bool = False) -> list[int]:
    numbers: list[int] = table.vector(field, "<i4").tolist()
    if any(not (_OPTIONAL if optional else 0) <= n < tensors for n in numbers):
        raise ValueError("a tensor's number is out of range")
    return numbers


def _tensor(table: _Table) -> TfliteTensor:
    name, kind = table.text(_TENSOR_NAME), table.integer(_TENSOR_TYPE, "<b")
    if kind not in _DTYPES:
        raise ValueError(f"tensor {name} is of the unknown type {kind}")
    shape, signature = table.vector(_TENSOR_SHAPE, "<i4"), table.vector(_TENSOR_SIGNATURE, "<i4")
    if len(signature) not in (0, len(shape)):
        raise ValueError(f"tensor {name} has two shapes")
    quantisation, scale = table.table(_TENSOR_QUANTISATION), None
    if quantisation is not None:
        scales = quantisation.vector(_QUANTISATION_SCALE, "<f4")
        zeros = quantisation.vector(_QUANTISATION_ZERO, "<i8")
        if not (np.isfinite(scales) & (scales > 0)).all() or len(zeros) != len(scales) or zeros.any():
            raise ValueError(f"tensor {name} has a scale that is not positive, or a zero point")
        scale = float(scales[0]) if len(scales) == 1 else None
    dtype: np.dtype[np.generic] = np.dtype(_DTYPES[kind])
    return TfliteTensor(name, tuple((signature if len(signature) else shape).tolist()), dtype, scale)
