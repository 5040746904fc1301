"""The V4L2 source on a kernel's own /dev/video0, in a machine that is emulated whole (``cross/try_v4l2.py``)."""

from __future__ import annotations

import shutil

import pytest
from click.testing import CliRunner

import try_v4l2
from camera_trials import TRIALS
from device_subjects import Device

# A machine, its kernel and all its trials, beside other processors.
_TIMEOUT_S = 1800


@pytest.mark.timeout(_TIMEOUT_S)
def test_the_camera_of_a_real_kernel_holds_every_trial(device: Device) -> None:
    board = device.devices.board
    if (device.link, board.name, device.client.link.core) != ("emulated", "rk3399", board.fastest.core):
        pytest.skip("the machine is an emulated rk3399's, once")
    if shutil.which("qemu-system-aarch64") is None:
        pytest.skip("no emulator of whole machines: sudo apt-get install qemu-system-arm")
    result = CliRunner().invoke(try_v4l2.command, [])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == f"all {len(TRIALS)} trials hold"
