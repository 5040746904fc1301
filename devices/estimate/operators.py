"""A TFLite net taken apart into nets of one operator each, or of the few that are computed as one.

XNNPACK, which runs nets, tells nobody what each operator costs it, but it runs an operator alone with the same code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import EngineError, MissingExtraError
from edgeface.runtime.engines.tflite_writer import Network, Quantisation, Tensor

NOTHING = "nothing"
_NO_TENSOR = -1
_WEIGHTS = "DEQUANTIZE"
_PADDED = ("CONV_2D", "DEPTHWISE_CONV_2D")


@dataclass(frozen=True)
class Operator:
    """``name`` is that of the tensor it makes, ``kind`` TFLite's ("CONV_2D"), ``file`` its net's without a suffix."""

    name: str
    kind: str
    file: str


def write_operators(path: Path, x: NDArray[Any], directory: Path) -> list[Operator]:
    """Write each operator of the net in ``path``, a convolution with its padding, into ``directory``.

    Each becomes ``FILE.tflite`` and ``FILE.npz``, its inputs in their order, when the net's one input is ``x``, (1, H,
    W, C). NOTHING is a net that does as good as nothing. The files' names sort as the operators run. Raises
    EngineError, MissingExtraError and OSError.
    """
    schema, values = _schema(), _values(path, x)
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    (graph,) = model.subgraphs
    kinds = {code: kind for kind, code in vars(schema.BuiltinOperator).items() if not kind.startswith("_")}

    def kind_of(operator: Any) -> tuple[str, int]:
        code = model.operatorCodes[operator.opcodeIndex]
        return kinds[code.builtinCode], code.version

    def is_constant(number: int) -> bool:
        return model.buffers[graph.tensors[number].buffer].data is not None

    operators = []
    for number, group in enumerate(_groups(graph, lambda operator: kind_of(operator)[0], is_constant)):
        network = Network()
        tensors: dict[int, Tensor] = {}
        for operator in group:
            if _NO_TENSOR in operator.inputs:
                raise EngineError(f"{path}: {kind_of(operator)[0]} leaves an input out and cannot be costed alone")
            for i in map(int, operator.inputs):
                tensors[i] = tensors.get(i) or _tensor(network, graph, model, i, values[i])
            made = {int(i): _tensor(network, graph, model, i, values[i], is_made=True) for i in operator.outputs}
            tensors |= made
            network.add(kind_of(operator)[0], [tensors[i] for i in operator.inputs], list(made.values()),
                        operator.builtinOptions, kind_of(operator)[1])
        inner = {int(i) for operator in group for i in operator.outputs}
        given = {t: values[i] for i, t in tensors.items() if t.data is None and i not in inner}
        name = graph.tensors[group[-1].outputs[0]].name.decode()
        kind = " + ".join(kind for kind, _ in map(kind_of, group) if kind != _WEIGHTS)
        operators.append(Operator(name, kind, f"{number:04}"))
        _write(directory, operators[-1].file, network, given, list(made.values()))
    network = Network()
    x_in, x_out = (network.tensor(name, (1, 1, 1, 1), np.float32) for name in ("in", "out"))
    network.add("RELU", [x_in], [x_out])
    _write(directory, NOTHING, network, {x_in: np.zeros(x_in.shape, np.float32)}, [x_out])
    return operators


def _groups(
    graph: Any, kind_of: Callable[[Any], str], is_constant: Callable[[int], bool]
) -> Iterator[list[Any]]:
    """The operators, a convolution with the padding that is made for it alone, which XNNPACK computes with it, and what
    reads float16 weights with what makes them float32, which XNNPACK does once, when it is made."""
    readers = Counter(int(i) for operator in graph.operators for i in operator.inputs)
    readers.update(map(int, graph.outputs))
    pending: dict[int, Any] = {}
    weights: dict[int, Any] = {}
    for operator in graph.operators:
        kind, first, made = kind_of(operator), int(operator.inputs[0]), int(operator.outputs[0])
        if kind == _WEIGHTS and is_constant(first):
            weights[made] = operator
            continue
        if kind == "PAD" and readers[made] == 1:
            pending[made] = operator
            continue
        whole = [*(weights[int(i)] for i in operator.inputs if int(i) in weights), operator]
        if first in pending:
            padding = pending.pop(first)
            yield from [[padding, *whole]] if kind in _PADDED else [[padding], whole]
        else:
            yield whole


def _tensor(
    network: Network, graph: Any, model: Any, number: int, values: NDArray[Any], *, is_made: bool = False
) -> Tensor:
    """Tensor ``number`` of the whole net in one of one operator; ``values`` is what it holds there."""
    tensor = graph.tensors[number]
    name, quantisation, scales = tensor.name.decode(), tensor.quantization, None
    if quantisation is not None and quantisation.scale is not None and len(quantisation.scale):
        scales = Quantisation(np.asarray(quantisation.scale, np.float32), quantisation.quantizedDimension)
    # What is computed from a shape alone, as where a slice ends, is a constant once the size is known.
    if not is_made and (model.buffers[tensor.buffer].data is not None or values.dtype == np.int32):
        return network.constant(name, values, scales)
    return network.tensor(name, values.shape, values.dtype.type, scales)


def _write(
    directory: Path, file: str, network: Network, given: Mapping[Tensor, NDArray[Any]], outputs: Sequence[Tensor]
) -> None:
    (directory / f"{file}.tflite").write_bytes(network.to_bytes(list(given), outputs, "one operator"))
    np.savez(directory / f"{file}.npz", *given.values())


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingExtraError(
            f'TFLite nets are taken apart by ai-edge-litert ({error}): pip install "edgeface[tflite]"'
        ) from None
    return schema_py_generated


def _values(path: Path, x: NDArray[Any]) -> dict[int, NDArray[Any]]:
    """What every tensor of the net holds after a run on ``x``."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_path=str(path), experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    (given,) = interpreter.get_input_details()
    try:
        interpreter.resize_tensor_input(given["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        return {
            detail["index"]: interpreter.get_tensor(detail["index"]) for detail in interpreter.get_tensor_details()
        }
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"{path}: TFLite failed: {' '.join(str(error).split())}") from None
