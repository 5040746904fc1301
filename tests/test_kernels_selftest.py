"""The kernels' self-test: C equals the reference to the last bit, on this machine."""

from __future__ import annotations

import numpy as np
import pytest

from edgeface.errors import InstallError, UnknownNameError
from edgeface.runtime.kernels import library, selftest


@pytest.mark.parametrize("name", selftest.cases())
def test_c_is_the_reference_to_the_last_bit(name: str) -> None:
    if library() is None:
        with pytest.raises(InstallError, match="the C kernels are needed here"):
            selftest.run(name)
        return
    ours, reference = selftest.run(name), selftest.run(name, use_c=False)
    assert ours.keys() == reference.keys()
    for key, array in ours.items():
        expected = reference[key]
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape), key
        assert array.tobytes() == expected.tobytes(), f"{key}: {np.sum(array != expected)} values differ"
    assert sum(array.size for array in ours.values()) > 50


def test_an_unknown_case_is_named() -> None:
    with pytest.raises(UnknownNameError, match="keep_anchors"):
        selftest.run("keep_anchor")
