"""What this machine and a worker on a board say to each other: frames of a JSON header and the bytes of arrays.

A frame is ``EFW1``, the header's length and the payload's, each an unsigned 32-bit integer, little-endian; then the
header, UTF-8 JSON; then the arrays one after the other, C order, little-endian, as the header's ``arrays`` lists them.
Every length is checked against a limit before anything of it is read, and nothing in a frame is ever executed.

The worker speaks first, with ``Hello``; from then on each ``Request`` gets one ``Reply`` with its ``id``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

PROTOCOL = 1
MAGIC = b"EFW1"
PREFIX = struct.Struct("<4sII")
MAX_HEADER_BYTES = 1 << 20
# A picture of 8192 x 8192 pixels is 192 MiB.
MAX_PAYLOAD_BYTES = 1 << 28

Arrays = Mapping[str, NDArray[Any]]
ReadExactly = Callable[[int], bytes | bytearray]

_Side = Annotated[int, Meta(ge=0, le=MAX_PAYLOAD_BYTES)]
_DType = Literal[
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"
]


class FrameError(ValueError):
    """Bytes that are no frame, in words; whoever reads them knows from whom they came."""


class ArrayInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One array of a frame's payload."""

    name: str
    dtype: _DType
    shape: Annotated[list[_Side], Meta(max_length=8)]

    @property
    def size_bytes(self) -> int:
        """Its share of the payload."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Hello(msgspec.Struct, frozen=True):
    """What a worker is. Unknown fields are let pass, so that versions can be compared before anything else.

    ``kernels_abi`` is that of the kernel library which this version calls, ``kernels`` says whether it is used;
    ``engines`` maps each engine to the version of its package, None where it is not installed.
    """

    protocol: int
    edgeface: str = "unknown"
    kernels_abi: int = 0
    kernels: str = ""
    python: str = ""
    architecture: str = ""
    engines: dict[str, str | None] = {}


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``operation`` with its ``options``, and the arrays that follow."""

    id: int
    operation: str
    options: dict[str, Any] = {}
    arrays: list[ArrayInfo] = []


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An error on the board: its class's name, and its line."""

    kind: str
    text: str


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to the request of that ``id``: a ``result`` with the arrays that follow, or an ``error``."""

    id: int
    result: Any = None
    error: Failure | None = None
    arrays: list[ArrayInfo] = []


Header = TypeVar("Header", Hello, Request, Reply)


def describe(arrays: Arrays) -> list[ArrayInfo]:
    """The ``arrays`` of a header. Raises FrameError for a dtype that no frame carries."""
    try:
        return msgspec.convert(
            [{"name": name, "dtype": a.dtype.name, "shape": list(a.shape)} for name, a in arrays.items()],
            list[ArrayInfo],
        )
    except msgspec.ValidationError as error:
        raise FrameError(f"an array cannot be sent: {error}") from None


def pack(header: Hello | Request | Reply, arrays: Arrays | None = None) -> list[memoryview]:
    """A frame in pieces, to be written in this order; ``arrays`` are those that the header lists.

    Raises FrameError for one that is larger than the other side would take.
    """
    content = msgspec.json.encode(header)
    pieces: list[memoryview] = []
    for array in (arrays or {}).values():
        plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        # Not cast("B"): a memoryview of an array without elements cannot be cast.
        pieces.append(plain.reshape(-1).view(np.uint8).data)
    payload_bytes = sum(piece.nbytes for piece in pieces)
    _check_lengths(len(content), payload_bytes)
    return [memoryview(PREFIX.pack(MAGIC, len(content), payload_bytes)), memoryview(content), *pieces]


def unpack(read_exactly: ReadExactly, kind: type[Header]) -> tuple[Header, dict[str, NDArray[Any]]]:
    """The next frame, whose header must be a ``kind``; its arrays are the caller's own.

    ``read_exactly(n)`` gives n bytes or raises. Raises FrameError for bytes that are not such a frame, without having
    read, or made room for, more than the limits.
    """
    prefix = bytes(read_exactly(PREFIX.size))
    magic, header_bytes, payload_bytes = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise FrameError(f"it begins with {prefix!r}")
    _check_lengths(header_bytes, payload_bytes)
    content = read_exactly(header_bytes)
    try:
        header = msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"a header that is no {kind.__name__}: {error}") from None
    infos: list[ArrayInfo] = [] if isinstance(header, Hello) else header.arrays
    if sum(info.size_bytes for info in infos) != payload_bytes:
        raise FrameError(f"its arrays need {sum(i.size_bytes for i in infos)} bytes, and {payload_bytes} are announced")
    arrays = {}
    for info in infos:
        raw = bytearray(read_exactly(info.size_bytes)) if info.size_bytes else bytearray()
        little = np.frombuffer(raw, np.dtype(info.dtype).newbyteorder("<"))
        arrays[info.name] = little.astype(info.dtype, copy=False).reshape(info.shape)
    if len(arrays) != len(infos):
        raise FrameError("two arrays of one name")
    return header, arrays


def _check_lengths(header_bytes: int, payload_bytes: int) -> None:
    for what, got, most in (
        ("header", header_bytes, MAX_HEADER_BYTES), ("payload", payload_bytes, MAX_PAYLOAD_BYTES)
    ):
        if got > most:
            raise FrameError(f"a {what} of {got} bytes is more than the {most} that are allowed")
