"""A TFLite network in memory, and its bytes by the flatbuffer schema that the litert wheel ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SCHEMA_VERSION = 3
_IDENTIFIER = b"TFL3"
# The schema asks for it, and XNNPACK reads weights in vectors; the generated Python code does not align them.
_BUFFER_ALIGNMENT = 16
# Operator codes over this do not fit the byte in which old readers look for them.
_LAST_OLD_CODE = 127
_ANY = -1


def made(kind: str, **fields: Any) -> Any:
    """An object of the schema's class ``kind`` with these fields; the constructors of older wheels take none."""
    from ai_edge_litert import schema_py_generated as schema

    packed = getattr(schema, kind)()
    for name, value in fields.items():
        if not hasattr(packed, name):
            raise AttributeError(f"{kind} has no field {name}")
        setattr(packed, name, value)
    return packed


@dataclass(frozen=True)
class Quantisation:
    """real value = scale * integer, zero point 0; ``scale`` (1,) float32, or (channels of dimension ``axis``,)."""

    scale: NDArray[np.float32]
    axis: int = 0

    @classmethod
    def per_tensor(cls, scale: float | np.float32) -> Quantisation:
        """One scale for the whole tensor."""
        return cls(np.array([scale], np.float32))


@dataclass(eq=False)
class Tensor:
    """One tensor of the network; ``data`` is a constant's value, of ``shape`` and ``dtype``.

    The sizes of the dimensions in ``free`` are only the first ones: the interpreter may be asked for others.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    quantisation: Quantisation | None = None
    data: NDArray[Any] | None = None
    free: frozenset[int] = frozenset()

    @property
    def scale(self) -> np.float32 | None:
        """The one scale of an int8 activation; None for anything else."""
        if self.dtype != np.int8 or self.quantisation is None or len(self.quantisation.scale) != 1:
            return None
        scale: np.float32 = self.quantisation.scale[0]
        return scale


@dataclass(frozen=True, eq=False)
class Operator:
    """``kind``: a name in the schema's BuiltinOperator. ``options``: an instance of its options class, or None."""

    kind: str
    version: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    options: Any


class Network:
    """Tensors and operators in the order in which they run."""

    def __init__(self) -> None:
        self.operators: list[Operator] = []
        self._names: set[str] = set()
        self._settings: dict[tuple[bytes, tuple[int, ...]], Tensor] = {}

    def tensor(
        self, name: str, shape: Sequence[int], dtype: type[np.generic], quantisation: Quantisation | None = None
    ) -> Tensor:
        """An activation; a name that is taken gets a number."""
        return Tensor(self._free_name(name), tuple(shape), np.dtype(dtype), quantisation)

    def constant(self, name: str, data: NDArray[Any], quantisation: Quantisation | None = None) -> Tensor:
        """A constant; a name that is taken gets a number."""
        return Tensor(self._free_name(name), data.shape, data.dtype, quantisation, data)

    def setting(self, data: NDArray[np.int32]) -> Tensor:
        """The constant int32 tensor of these values, which operators share: there are hundreds of begins and ends."""
        key = data.tobytes(), data.shape
        if key not in self._settings:
            self._settings[key] = self.constant("setting", data)
        return self._settings[key]

    def add(
        self, kind: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], options: Any = None, version: int = 1
    ) -> None:
        """Append an operator."""
        self.operators.append(Operator(kind, version, tuple(inputs), tuple(outputs), options))

    def rename(self, tensor: Tensor, name: str) -> None:
        """Give a tensor exactly this name, which must be free."""
        if name != tensor.name and name in self._names:
            raise ValueError(f"two tensors are called {name}")
        self._names.add(name)
        tensor.name = name

    def _free_name(self, name: str) -> str:
        free, number = name, 1
        while free in self._names:
            number += 1
            free = f"{name};{number}"
        self._names.add(free)
        return free

    def to_bytes(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], description: str) -> bytes:
        """The network as the content of a .tflite file; tensors that only dead operators use are left out."""
        import flatbuffers

        builder = flatbuffers.Builder(1 << 20)
        model = _model(self._living(outputs), inputs, outputs, description)
        builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
        return bytes(builder.Output())

    def _living(self, outputs: Sequence[Tensor]) -> list[Operator]:
        wanted, living = set(outputs), []
        for operator in reversed(self.operators):
            if wanted.intersection(operator.outputs):
                wanted.update(operator.inputs)
                living.append(operator)
        return living[::-1]


def _model(
    operators: Sequence[Operator], inputs: Sequence[Tensor], outputs: Sequence[Tensor], description: str
) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    tensors = list(dict.fromkeys([*inputs, *(t for op in operators for t in (*op.inputs, *op.outputs)), *outputs]))
    number = {tensor: i for i, tensor in enumerate(tensors)}
    codes = list(dict.fromkeys((op.kind, op.version) for op in operators))
    buffers: list[Any] = [schema.BufferT()]        # number 0 is the empty one of all activations
    packed = []
    zeros: dict[int, Any] = {}
    for tensor in tensors:
        if tensor.data is not None:
            buffers.append(_Buffer(schema, tensor.data))
        packed.append(_tensor(schema, tensor, 0 if tensor.data is None else len(buffers) - 1, zeros))
    graph = made(
        "SubGraphT", tensors=packed, inputs=_numbers(number, inputs), outputs=_numbers(number, outputs), name="main",
        operators=[_operator(schema, op, codes.index((op.kind, op.version)), number) for op in operators],
    )
    signature = made(
        "SignatureDefT", signatureKey="serving_default",
        inputs=[made("TensorMapT", name=t.name, tensorIndex=number[t]) for t in inputs],
        outputs=[made("TensorMapT", name=t.name, tensorIndex=number[t]) for t in outputs],
    )
    return made(
        "ModelT", version=_SCHEMA_VERSION, operatorCodes=[_code(schema, *code) for code in codes], subgraphs=[graph],
        description=description, buffers=buffers, signatureDefs=[signature],
    )


def _numbers(number: dict[Tensor, int], tensors: Sequence[Tensor]) -> NDArray[np.int32]:
    return np.array([number[t] for t in tensors], np.int32)


def _code(schema: Any, kind: str, version: int) -> Any:
    code = getattr(schema.BuiltinOperator, kind)
    old = min(code, _LAST_OLD_CODE)
    return made("OperatorCodeT", deprecatedBuiltinCode=old, version=version, builtinCode=code)


def _operator(schema: Any, operator: Operator, code: int, number: dict[Tensor, int]) -> Any:
    inputs, outputs = (_numbers(number, tensors) for tensors in (operator.inputs, operator.outputs))
    packed = made("OperatorT", opcodeIndex=code, inputs=inputs, outputs=outputs)
    if operator.options is not None:
        kind = type(operator.options).__name__.removesuffix("T")
        packed.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        packed.builtinOptions = operator.options
    return packed


def _tensor(schema: Any, tensor: Tensor, buffer: int, zeros: dict[int, Any]) -> Any:
    packed = made(
        "TensorT", shape=np.array(tensor.shape, np.int32), buffer=buffer, name=tensor.name, hasRank=True,
        type=getattr(schema.TensorType, tensor.dtype.name.upper()),
    )
    if tensor.free:
        sizes = [_ANY if i in tensor.free else n for i, n in enumerate(tensor.shape)]
        packed.shapeSignature = np.array(sizes, np.int32)
    if tensor.quantisation is not None:
        packed.quantization = _Scales(schema, tensor.quantisation, zeros)
    return packed


class _Buffer:
    """A constant's bytes, beginning at a multiple of ``_BUFFER_ALIGNMENT`` in the file; packed as the schema's own."""

    def __init__(self, schema: Any, data: NDArray[Any]) -> None:
        self._schema, self._raw = schema, np.ascontiguousarray(data).tobytes()

    def Pack(self, builder: Any) -> Any:  # noqa: N802  (the generated code's name)
        builder.Prep(_BUFFER_ALIGNMENT, len(self._raw))
        data = builder.CreateByteVector(self._raw)
        self._schema.BufferStart(builder)
        self._schema.BufferAddData(builder, data)
        return self._schema.BufferEnd(builder)


class _Scales:
    """A tensor's scales. There must be as many zero points, 8 bytes each: vectors of as many zeros are one in the file,
    whose places ``zeros`` keeps by their length."""

    def __init__(self, schema: Any, quantisation: Quantisation, zeros: dict[int, Any]) -> None:
        self._schema, self._quantisation, self._zeros = schema, quantisation, zeros

    def Pack(self, builder: Any) -> Any:  # noqa: N802
        schema, count = self._schema, len(self._quantisation.scale)
        if count not in self._zeros:
            self._zeros[count] = builder.CreateNumpyVector(np.zeros(count, np.int64))
        scale = builder.CreateNumpyVector(self._quantisation.scale)
        schema.QuantizationParametersStart(builder)
        schema.QuantizationParametersAddScale(builder, scale)
        schema.QuantizationParametersAddZeroPoint(builder, self._zeros[count])
        schema.QuantizationParametersAddQuantizedDimension(builder, self._quantisation.axis)
        return schema.QuantizationParametersEnd(builder)
