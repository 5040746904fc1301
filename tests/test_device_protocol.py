"""Frames: what goes in comes out, and nothing else is taken for one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import numpy as np
import pytest
from edgeface.devices.protocol import (
    MAGIC,
    MAX_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    PREFIX,
    Arrays,
    FrameError,
    Hello,
    Reply,
    Request,
    describe,
    pack,
    unpack,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

_DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32",
           "float64", ">f4", ">i8"]


def _bytes(request: Request, arrays: Arrays | None = None) -> bytes:
    return b"".join(pack(request, arrays))


def _reader(content: bytes) -> Callable[[int], bytes]:
    stream = io.BytesIO(content)

    def read_exactly(count: int) -> bytes:
        got = stream.read(count)
        if len(got) < count:
            raise EOFError
        return got

    return read_exactly


def _frame(header: object, payload: bytes = b"", announced: int | None = None) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return PREFIX.pack(MAGIC, len(content), len(payload) if announced is None else announced) + content + payload


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.sampled_from(_DTYPES).flatmap(
            lambda dtype: arrays_of.arrays(np.dtype(dtype), arrays_of.array_shapes(min_dims=0, min_side=0, max_side=5))
        ),
        max_size=4,
    )
)
def test_arrays_come_out_as_they_went_in(arrays: dict[str, np.ndarray]) -> None:
    request = Request(7, "detect", {"number": 1}, describe(arrays))
    got, out = unpack(_reader(_bytes(request, arrays)), Request)
    assert got == request
    assert list(out) == list(arrays)
    for name, array in arrays.items():
        assert out[name].shape == array.shape
        assert out[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(out[name], array)
        assert out[name].flags.writeable


def test_arrays_that_are_no_block_of_memory() -> None:
    turned = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[::2]
    _, out = unpack(_reader(_bytes(Request(1, "x", {}, describe({"a": turned})), {"a": turned})), Request)
    np.testing.assert_array_equal(out["a"], turned)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_an_error(content: bytes) -> None:
    with pytest.raises((FrameError, EOFError)):
        unpack(_reader(content), Request)


@given(st.integers(0, 400), st.integers(0, 7))
def test_a_frame_with_a_flipped_bit_is_never_read_past_its_end(place: int, bit: int) -> None:
    arrays = {"a": np.arange(6, dtype=np.int16).reshape(2, 3)}
    content = bytearray(_bytes(Request(1, "detect", {"number": 1}, describe(arrays)), arrays))
    content[place % len(content)] ^= 1 << bit
    try:
        _, out = unpack(_reader(bytes(content)), Request)
    except (FrameError, EOFError):
        return
    # What is left is a changed value, name or shape of the same size, which nothing here could know.
    assert sum(array.nbytes for array in out.values()) == 12


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"Welcome to robot1!\n", "it begins with b'Welcome to "),
        (_frame(b"{"), "a header that is no Request"),
        (_frame(b"\xff\xfe"), "a header that is no Request"),
        (_frame({"id": 1}), "missing required field `operation`"),
        (_frame({"id": 1, "operation": "x", "shell": "reboot"}), "unknown field `shell`"),
        (_frame(b"[" * 100_000), "a header that is no Request"),
        (_frame({"id": 1, "operation": "x", "arrays": [{"name": "a", "dtype": "object", "shape": [1]}]}), "object"),
        (_frame({"id": 1, "operation": "x", "arrays": [{"name": "a", "dtype": "int8", "shape": [-1]}]}), "shape"),
        (_frame({"id": 1, "operation": "x", "arrays": [{"name": "a", "dtype": "int8", "shape": [1] * 9}]}), "shape"),
        (
            _frame({"id": 1, "operation": "x", "arrays": [{"name": "a", "dtype": "int8", "shape": [4]}]}, b"123"),
            "its arrays need 4 bytes, and 3 are announced",
        ),
        (
            _frame({"id": 1, "operation": "x", "arrays": [{"name": "a", "dtype": "int8", "shape": [1 << 28] * 8}]}),
            "and 0 are announced",
        ),
        (_frame({"id": 1, "operation": "x"}, b"123"), "its arrays need 0 bytes, and 3 are announced"),
        (
            _frame({"id": 1, "operation": "x", "arrays": [{"name": "a", "dtype": "int8", "shape": [1]}] * 2}, b"12"),
            "two arrays of one name",
        ),
    ],
)
def test_what_is_no_frame(content: bytes, text: str) -> None:
    with pytest.raises(FrameError) as error:
        unpack(_reader(content), Request)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("header_bytes", "payload_bytes", "text"),
    [
        (MAX_HEADER_BYTES + 1, 0, "a header of 1048577 bytes is more than the 1048576"),
        (2, MAX_PAYLOAD_BYTES + 1, "a payload of 268435457 bytes is more than"),
        (0xFFFFFFFF, 0xFFFFFFFF, "a header of 4294967295 bytes"),
    ],
)
def test_nothing_beyond_the_limits_is_read(header_bytes: int, payload_bytes: int, text: str) -> None:
    asked = []

    def read_exactly(count: int) -> bytes:
        asked.append(count)
        return PREFIX.pack(MAGIC, header_bytes, payload_bytes)

    with pytest.raises(FrameError, match=text):
        unpack(read_exactly, Request)
    assert asked == [PREFIX.size]


def test_what_the_other_side_would_refuse_is_not_sent() -> None:
    with pytest.raises(FrameError, match="more than the 1048576"):
        pack(Request(1, "x", {"a": "b" * MAX_HEADER_BYTES}))
    large = np.broadcast_to(np.uint8(0), (MAX_PAYLOAD_BYTES + 1,))
    with pytest.raises(FrameError, match=r"shape|payload"):
        pack(Reply(1, None, None, describe({"a": large})), {"a": large})
    with pytest.raises(FrameError, match="cannot be sent"):
        describe({"a": np.array(["text"])})


def test_a_newer_worker_can_still_say_what_it_is() -> None:
    content = _frame({"protocol": 2, "edgeface": "9.0", "colour": "blue"})
    hello, _ = unpack(_reader(content), Hello)
    assert (hello.protocol, hello.edgeface) == (2, "9.0")
