"""The worker on the board: what it says that it is, errors that come back, and instructions that are not there."""

from __future__ import annotations

import numpy as np
import pytest
from edgeface.devices.client import Client
from edgeface.devices.replies import Timed
from numpy.typing import NDArray

import edgeface
from device_subjects import SHIPPED, SIZE_PX, TIMEOUT_S, Device, folder_there
from edgeface.errors import BundleHashError, DeviceLostError, UnknownModelError
from edgeface.runtime import catalog
from edgeface.runtime.benchmark import synthetic_scene
from edgeface.runtime.kernels import status

# The word of /proc/cpuinfo for a feature, and an instruction that needs it, as LLVM's assembler encodes it.
_NEWER = {
    "asimddp": "20 94 82 4e",       # sdot v0.4s, v1.16b, v2.16b: armv8.2-a
    "asimdhp": "00 14 40 4e",       # fadd v0.8h, v0.8h, v0.8h: armv8.2-a
    "atomics": "02 00 21 b8",       # ldadd w1, w2, [x0]: armv8.1-a
    "i8mm": "20 a4 82 4e",          # smmla v0.4s, v1.16b, v2.16b: armv8.6-a
}
_OLD = "00 84 a0 4e"                # add v0.4s, v0.4s, v0.4s
_RETURN = "c0 03 5f d6"
# A worker with one operation more: it runs machine code, which no worker that ships does.
_EXECUTING = """
import ctypes, mmap, sys
from edgeface.devices import operations, worker
@operations.operation("execute")
def execute(state, options, arrays):
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(arrays["code"].tobytes())
    place = (ctypes.c_int64 * 1)()      # what the instruction may write to
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    entry(ctypes.addressof(place))
    return None, {}
sys.exit(worker.main())
"""


def test_it_is_what_the_board_is(device: Device) -> None:
    client, board = device.client, device.devices.board
    assert client.hello.edgeface == edgeface.__version__
    assert client.hello.engines["ncnn"] is not None
    machine = device.ask("machine", lambda each: each.machine())
    assert [(c.core, c.cpus, c.isa) for c in machine.clusters] == sorted(
        ((c.core, c.cpus, c.isa) for c in board.clusters), key=lambda cluster: cluster[1]
    )
    assert client.hello.architecture == ("aarch64" if board.emulated_cpus else machine.architecture)


def test_the_c_kernels_are_used(device: Device) -> None:
    if device.link == "local" and not status().used:
        pytest.skip(status().text)
    assert device.client.hello.kernels.startswith("C kernels from"), device.client.hello.kernels


def test_an_error_there_is_the_same_error_here(device: Device) -> None:
    with pytest.raises(UnknownModelError, match=r"no model 'mos_x'.*Did you mean 'mos_s'"):
        device.ask("unknown model", lambda client: client.load("mos_x", timeout_s=TIMEOUT_S))


def test_a_damaged_bundle_is_refused_there(device: Device, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("damaged") / "bundle"

    def run(client: Client) -> None:
        there = folder_there(client, "damaged")
        client.link.put(folder, there, timeout_s=TIMEOUT_S)
        client.load(there, timeout_s=TIMEOUT_S)

    folder.mkdir()
    for path in catalog.find(SHIPPED[0]).iterdir():
        content = bytearray(path.read_bytes())
        if path.suffix == ".bin":
            content[len(content) // 2] ^= 1
        (folder / path.name).write_bytes(content)
    with pytest.raises(BundleHashError, match=r"\.bin: sha256"):
        device.ask("damaged bundle", run)


@pytest.mark.parametrize("feature", _NEWER)
def test_a_newer_instruction_ends_the_worker_and_is_named(device: Device, feature: str) -> None:
    if device.link != "emulated":
        pytest.skip("on a board a program that dies is no test of the board")
    if any(feature in cluster.features for cluster in device.devices.board.clusters):
        pytest.skip(f"this board has {feature}")
    link = device.client.link
    with Client(link, arguments=["-c", _EXECUTING], start_timeout_s=TIMEOUT_S) as client:
        # So that it is the instruction, and nothing else of this, that it dies of.
        client.request("execute", {}, {"code": _code(_OLD)}, timeout_s=TIMEOUT_S)
        with pytest.raises(DeviceLostError, match=f"met an instruction that {link.core} does not have"):
            client.request("execute", {}, {"code": _code(_NEWER[feature])}, timeout_s=TIMEOUT_S)


def _code(instruction: str) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex(instruction + _RETURN), np.uint8)


def test_latency_with_nothing_left_out_and_how_warm_it_was(device: Device) -> None:
    if device.link != "ssh":
        pytest.skip("on a board alone: emulated time says nothing, and edgeface bench times this machine")
    rounds = 30

    def run(client: Client) -> Timed:
        loaded = client.load(SHIPPED[0], threads=client.board.threads, size_px=SIZE_PX, timeout_s=TIMEOUT_S)
        return client.time(
            [loaded], [synthetic_scene()], threads=client.board.threads, rounds=rounds, warm_up_rounds=5,
            timeout_s=TIMEOUT_S,
        )

    timed = device.ask("latency", run)
    assert timed.samples.shape == (1, rounds, 4)
    assert (timed.samples > 0).all()
    np.testing.assert_allclose(timed.samples[..., :3].sum(-1), timed.samples[..., 3], rtol=1e-6)
    assert timed.after.clocks or timed.after.zones, "the board shows neither clocks nor temperatures"
