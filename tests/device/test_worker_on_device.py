"""The worker on the board: what it says that it is, errors that come back, and instructions that are not there."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from edgeface.devices.boards import Board
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
# A worker that also runs machine code, which no worker that ships does: in itself, or in a fork, of which it tells how
# it ended, by 0 or the signal.
_EXECUTING = """
import ctypes, mmap, os, sys
from edgeface.devices import operations, worker
def run(code):
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    place = (ctypes.c_int64 * 1)()      # what the instruction may write to
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    entry(ctypes.addressof(place))
@operations.operation("execute")
def execute(state, options, arrays):
    run(arrays["code"].tobytes())
    return None, {}
@operations.operation("execute in a fork")
def execute_in_a_fork(state, options, arrays):
    child = os.fork()
    if child == 0:
        run(arrays["code"].tobytes())
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), {}
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


def _met(client: Client) -> tuple[dict[str, int], DeviceLostError | None]:
    """How a fork of one more worker on the link of ``client`` ends by each instruction, and how the worker itself is
    lost by the first that is newer than its processor."""
    missing = [feature for feature in _NEWER if not _has(client.board, feature)]
    lost = None
    with Client(client.link, arguments=["-c", _EXECUTING], start_timeout_s=TIMEOUT_S) as other:
        ends = {}
        for name, instruction in {"old": _OLD, **_NEWER}.items():
            ends[name], _ = other.request("execute in a fork", {}, {"code": _code(instruction)}, timeout_s=TIMEOUT_S)
        if missing:
            # So that it is the instruction, and nothing else of this, that it dies of.
            other.request("execute", {}, {"code": _code(_OLD)}, timeout_s=TIMEOUT_S)
            try:
                other.request("execute", {}, {"code": _code(_NEWER[missing[0]])}, timeout_s=TIMEOUT_S)
            except DeviceLostError as error:
                lost = error
    return ends, lost


def _has(board: Board, feature: str) -> bool:
    return any(feature in cluster.features for cluster in board.clusters)


def test_instructions_that_the_processor_has_not_end_a_process(device: Device) -> None:
    if device.link != "emulated":
        pytest.skip("on a board a program that dies is no test of the board")
    ends, lost = device.ask("instructions", _met)
    missing = [feature for feature in _NEWER if not _has(device.devices.board, feature)]
    assert ends["old"] == 0
    assert {name: ends[name] for name in missing} == dict.fromkeys(missing, -signal.SIGILL)
    if missing:
        assert f"met an instruction that {device.client.link.core} does not have" in str(lost)


def _code(instruction: str) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex(instruction + _RETURN), np.uint8)


def test_latency_with_nothing_left_out_and_how_warm_it_was(device: Device) -> None:
    if device.link != "ssh":
        pytest.skip("on a board alone: emulated time says nothing, and edgeface bench times this machine")
    rounds = 30

    def run(client: Client) -> Timed:
        loaded = client.load("mos_s-int8-ncnn", threads=client.board.threads, size_px=SIZE_PX, timeout_s=TIMEOUT_S)
        return client.time(
            [loaded], [synthetic_scene()], threads=client.board.threads, rounds=rounds, warm_up_rounds=5,
            timeout_s=TIMEOUT_S,
        )

    timed = device.ask("latency", run)
    assert timed.samples.shape == (1, rounds, 4)
    assert (timed.samples > 0).all()
    np.testing.assert_allclose(timed.samples[..., :3].sum(-1), timed.samples[..., 3], rtol=1e-6)
    assert timed.after.clocks or timed.after.zones, "the board shows neither clocks nor temperatures"
