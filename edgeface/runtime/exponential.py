"""exp and the logistic function in float32, the same on every processor: one specification and its NumPy reference.

The exponentials of C libraries and of NumPy differ in the last bit from processor to processor. This one is made of
float32 additions, subtractions and multiplications, each rounded, and of integer work on exponents:

1. x is brought into -104..89; beyond, the result is 0 or infinite anyway.
2. n = x / ln 2 rounded to an integer, by adding and taking away 1.5 * 2^23; r = x - n ln 2, with ln 2 in two parts.
3. exp(r) = 1 + r + r^2 p(r), with a polynomial p of degree 5 (that of the Cephes library's expf), by Horner's rule.
4. The result is exp(r) * 2^n1 * 2^n2 with n1 = floor(n / 2) and n2 = n - n1.

It is within one unit in the last place. ``kernels/ef_exp.h`` is the same in C.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_LEAST, _MOST = np.float32(-104), np.float32(89)
_SHIFT = np.float32(12582912.0)
_PER_LN2 = np.float32(1.44269502)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194442e-4)
_POLYNOMIAL = [
    np.float32(c)
    for c in (1.98756912e-4, 1.39819994e-3, 8.33345205e-3, 4.16657962e-2, 1.66666657e-1, 5.00000012e-1)
]
_BIAS, _EXPONENT_AT = 127, 23


def exp(x: Floats) -> Floats:
    """e to the power of each of float32 ``x``, float32 of its shape; no warning where that is 0 or infinite."""
    # The limits second: a NaN then stays one, as in C.
    x = np.minimum(np.maximum(x, _LEAST), _MOST)
    moved = np.asarray(x * _PER_LN2 + _SHIFT)
    n = moved - _SHIFT
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = np.full_like(r, _POLYNOMIAL[0])
    for coefficient in _POLYNOMIAL[1:]:
        p = p * r + coefficient
    p = ((p * r) * r + r) + np.float32(1)
    whole = moved.view(np.int32) - _SHIFT.view(np.int32)
    half = whole >> 1
    with np.errstate(over="ignore", under="ignore"):
        result: Floats = (p * _power_of_two(half)) * _power_of_two(whole - half)
    return result


def sigmoid_reference(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)) of float32 ``x``, without overflow at either end: what ``logistic.sigmoid`` gives."""
    small = exp(-np.abs(logits))
    one = np.float32(1)
    result: Floats = np.where(logits >= 0, one / (one + small), small / (one + small))
    return result


def _power_of_two(n: NDArray[np.int32]) -> Floats:
    return np.asarray((n + _BIAS) << _EXPONENT_AT).view(np.float32)
