"""A small ncnn net in float, its files, and its outputs by NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edgeface.runtime.engines import Options, Session, engine

Floats = NDArray[np.float32]

PARAM = """7767517
5 7
Input            data   0 1 data
Convolution      conv   1 1 data f 0=4 1=3 11=3 4=1 14=1 5=1 6=108
Split            split  1 3 f f0 f1 features
Convolution      head   1 1 f0 score 0=2 1=1 5=1 6=8
Convolution      boxes  1 1 f1 box 0=8 1=1 5=0 6=32
"""

_RNG = np.random.default_rng(0)
CONV = _RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
CONV_BIAS = _RNG.standard_normal(4).astype(np.float32)
SCORE = _RNG.standard_normal((2, 4)).astype(np.float32)
SCORE_BIAS = _RNG.standard_normal(2).astype(np.float32)
BOX = _RNG.standard_normal((8, 4)).astype(np.float32)


def weight_bytes(dtype: type[np.floating] = np.float32) -> bytes:
    tag = np.uint32(0 if dtype is np.float32 else 0x01306B47).tobytes()
    parts = [(CONV, CONV_BIAS), (SCORE, SCORE_BIAS), (BOX, np.empty(0, np.float32))]
    return b"".join(tag + weights.astype(dtype).tobytes() + bias.tobytes() for weights, bias in parts)


def expected(x: Floats) -> dict[str, Floats]:
    windows = sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1))), (3, 3), axis=(1, 2))
    features = np.einsum("chwij,ocij->ohw", windows, CONV) + CONV_BIAS[:, None, None]
    return {
        "features": features,
        "score": np.einsum("chw,oc->ohw", features, SCORE) + SCORE_BIAS[:, None, None],
        "box": np.einsum("chw,oc->ohw", features, BOX),
    }


def write_net(directory: Path, param: str = PARAM, weights: bytes | None = None) -> None:
    (directory / "net.param").write_text(param)
    (directory / "net.bin").write_bytes(weight_bytes() if weights is None else weights)


def open_net(
    directory: Path, input_name: str = "data", precision: str = "fp32"
) -> Session:
    return engine.get("ncnn")(directory, ["net.param", "net.bin"], input_name, Options(1, precision))


def picture(*shape: int) -> Floats:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)
