"""The kernels as they were built for the board, against the NumPy references computed here."""

from __future__ import annotations

import numpy as np
import pytest
from edgeface.devices.client import Client

from device_subjects import TIMEOUT_S, Device
from edgeface.runtime.kernels import selftest, status


@pytest.mark.parametrize("name", selftest.cases())
def test_kernels_are_equal_to_the_last_bit(device: Device, name: str) -> None:
    if device.link == "local" and not status().used:
        pytest.skip(status().text)

    def run(client: Client) -> selftest.Arrays:
        return client.kernels(name, timeout_s=TIMEOUT_S)

    there = device.ask(f"kernels {name}", run)
    here = selftest.run(name, use_c=False)
    assert there.keys() == here.keys()
    for key, wanted in here.items():
        assert there[key].dtype == wanted.dtype, key
        np.testing.assert_array_equal(there[key].view(np.uint8), wanted.view(np.uint8), err_msg=key)
