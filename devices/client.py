"""The worker on a board, as this machine uses it: requests with deadlines, and a line that says how it was lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import edgeface
from edgeface import errors
from edgeface.board_health import Health
from edgeface.errors import (
    DeviceError,
    DeviceLostError,
    DeviceUnreachableError,
    DeviceVersionError,
    EdgefaceError,
)
from edgeface.faces import Faces
from edgeface.frames import Frame
from edgeface.runtime.kernels.library import ABI

from .boards import Board
from .channel import Channel, EndedError, LateError
from .links.registry import Link
from .machine import Machine
from .protocol import PROTOCOL, Arrays, FrameError, Hello, Reply, Request, describe, pack, unpack
from .replies import (
    Counted,
    LoadedBundle,
    ReplyError,
    Room,
    Serving,
    Timed,
    converted,
    faces_counted,
    faces_of,
    loaded_bundle,
    maps_of,
    runs_of,
    samples_of,
)

WORKER = ("-m", "edgeface.devices.worker")
START_TIMEOUT_S = 60.0
TIMEOUT_S = 60.0
_GRACE_S = 3.0
# ResNet-18 takes a second a run on a slow core, and its weights some to write.
_NETWORK_TIMEOUT_S = 300.0
# A shell gives the end by a signal so.
_SHELL_SIGNAL = 128
_NO_MODULE = "No module named"
# What a worker says last is enough for a message; more would hide it.
_SHOWN_LINES = 4

Wanted = TypeVar("Wanted")


class Client:
    """One worker at the end of ``link``, until ``close`` or the end of a ``with`` block.

    Every method takes the seconds that it may last. An error of edgeface over there is raised here as the same class
    with its line, which then begins with the board; any other as DeviceError. DeviceLostError is raised when the worker
    dies, stays silent or speaks something else; it is then killed, and the client can be used no more.

    Starting raises DeviceUnreachableError when no worker starts, DeviceVersionError when it is of another version,
    and what ``link.python`` raises. ``arguments`` are those of the Python there.
    """

    def __init__(
        self, link: Link, *, arguments: Sequence[str] = WORKER, start_timeout_s: float = START_TIMEOUT_S
    ) -> None:
        self.link = link
        self.where = f"{link.board.name} ({link.describe()})"
        self._last = 0
        command = link.python(arguments)
        try:
            self._channel: Channel | None = Channel(command)
        except OSError as error:
            raise DeviceUnreachableError(
                f"{self.where}: {command.argv[0]}: {error.strerror}: install it, or mend the board's description"
            ) from None
        try:
            self.hello = self._greet(start_timeout_s)
            self._check(self.hello)
            if link.affinity:
                self.request("pin", {"cpus": list(link.affinity)}, timeout_s=start_timeout_s)
        except BaseException:
            self._abandon()
            raise

    @property
    def board(self) -> Board:
        """What is known of the board."""
        return self.link.board

    def load(
        self,
        bundle: str,
        *,
        threads: int | None = None,
        size_px: int | tuple[int, int] | None = None,
        score: float | None = None,
        nms_iou: float | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> LoadedBundle:
        """Open a bundle there: a shipped one's name, or a directory of the board; its files' hashes are checked.

        ``threads`` None: the board's processors, at most 4. The rest is the bundle's own where it is None.
        """
        options = {"bundle": bundle, "threads": threads, "size_px": size_px, "score": score, "nms_iou": nms_iou}
        result, _ = self.request("load", options, timeout_s=timeout_s)
        return self._checked(lambda: loaded_bundle(result))

    def unload(self, loaded: LoadedBundle, *, timeout_s: float = TIMEOUT_S) -> None:
        """Let go of it."""
        self.request("unload", {"number": loaded.number}, timeout_s=timeout_s)

    def detect(
        self, loaded: LoadedBundle, picture: Frame | NDArray[np.uint8], *, timeout_s: float = TIMEOUT_S
    ) -> Faces:
        """The faces in a Frame, or in uint8 (H, W, 3) BGR."""
        _, found = self._with_picture("detect", loaded, picture, timeout_s)
        return self._checked(lambda: faces_of(found, loaded.bundle))

    def raw(
        self, loaded: LoadedBundle, picture: Frame | NDArray[np.uint8], *, timeout_s: float = TIMEOUT_S
    ) -> dict[str, NDArray[Any]]:
        """Every map of the dense stage by name, float32 (C, H, W); the picture as for ``detect``."""
        maps = self._with_picture("raw", loaded, picture, timeout_s)[1]
        return self._checked(lambda: maps_of(maps))

    def infer(
        self,
        loaded: LoadedBundle,
        x: NDArray[Any],
        *,
        stage: int = 0,
        net: int = 0,
        outputs: Sequence[str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> dict[str, NDArray[Any]]:
        """What net ``net`` of a stage makes of ``x``, as ``Session.run`` takes it: all outputs, or those named."""
        options = {
            "number": loaded.number, "stage": stage, "net": net,
            "outputs": None if outputs is None else list(outputs),
        }
        maps = self.request("infer", options, {"x": x}, timeout_s=timeout_s)[1]
        return self._checked(lambda: maps_of(maps, outputs))

    def kernels(self, name: str, *, timeout_s: float = TIMEOUT_S) -> dict[str, NDArray[Any]]:
        """What the kernels there compute in the self-test ``name``."""
        return self.request("kernels", {"name": name}, timeout_s=timeout_s)[1]

    def time(
        self,
        bundles: Sequence[LoadedBundle],
        pictures: Sequence[NDArray[np.uint8]],
        *,
        threads: int,
        rounds: int,
        warm_up_rounds: int,
        timeout_s: float,
    ) -> Timed:
        """Time bundles side by side on pictures, uint8 (H, W, 3) BGR, as ``benchmark.interleave`` does; nothing that
        was measured is left out. ``threads`` are those that the bundles were loaded with."""
        before = self.health()
        options = {
            "numbers": [loaded.number for loaded in bundles], "threads": threads, "rounds": rounds,
            "warm_up_rounds": warm_up_rounds,
        }
        arrays = {f"picture{i}": picture for i, picture in enumerate(pictures)}
        result, out = self.request("time", options, arrays, timeout_s=timeout_s)
        after = self.health()

        def timed() -> Timed:
            counted = converted(result, Counted)
            faces = faces_counted(counted, len(bundles))
            return Timed(samples_of(out, len(bundles), rounds), faces, counted.load_1min, before, after)

        return self._checked(timed)

    def time_network(self, name: str, *, threads: int, runs: int) -> NDArray[np.float64]:
        """What each of ``runs`` of a benchmark network takes there, ms (runs,)."""
        options = {"name": name, "threads": threads, "runs": runs}
        _, out = self.request("time_network", options, timeout_s=_NETWORK_TIMEOUT_S)
        return self._checked(lambda: runs_of(out, runs))

    def receive(self, name: str, directory: str | None = None) -> Room:
        """Make room there for a bundle of that name, which will lie in ``directory``, by default among the others."""
        result, _ = self.request("receive", {"name": name, "directory": directory})
        return self._checked(lambda: converted(result, Room))

    def keep(self, room: Room) -> None:
        """Put a bundle, whose files have been copied, into its place."""
        self.request("keep", {"directory": room.directory})

    def health(self, *, timeout_s: float = TIMEOUT_S) -> Health:
        """The board's temperatures, clocks and throttling now. An emulated board has those of this machine."""
        options = {"zones": self.board.thermal_zones, "sources": self.board.throttling}
        result, _ = self.request("health", options, timeout_s=timeout_s)
        return self._checked(lambda: converted(result, Health))

    def machine(self, *, timeout_s: float = TIMEOUT_S) -> Machine:
        """What the board says that it is."""
        result, _ = self.request("machine", timeout_s=timeout_s)
        return self._checked(lambda: converted(result, Machine))

    def serving(self, *, timeout_s: float = TIMEOUT_S) -> Serving:
        """Which board the worker takes its machine for, and what the models' names mean there."""
        result, _ = self.request("serving", timeout_s=timeout_s)
        return self._checked(lambda: converted(result, Serving))

    def request(
        self,
        operation: str,
        options: Mapping[str, Any] | None = None,
        arrays: Arrays | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> tuple[Any, dict[str, NDArray[Any]]]:
        """Any operation of ``edgeface.devices.operations``: its result, and its arrays, the caller's own."""
        if self._channel is None:
            raise DeviceLostError(f"{self.where}: its worker has ended: start another")
        self._last += 1
        deadline = time.monotonic() + timeout_s
        try:
            listed = describe(arrays or {})
            pieces = pack(Request(self._last, operation, dict(options or {}), listed), arrays)
        except FrameError as error:
            raise DeviceError(f"{self.where}: {operation}: {error}: send less at a time") from None
        try:
            self._channel.write(pieces, deadline)
            reply, out = unpack(partial(self._channel.read_exactly, deadline=deadline), Reply)
        except LateError:
            raise self._lost(f"did not answer {operation!r} within {timeout_s:g} s and was ended", 0.0) from None
        except EndedError:
            raise self._died(operation) from None
        except FrameError as error:
            raise self._garbled(str(error)) from None
        except BaseException:
            # An answer that comes later would be taken for that of the next request.
            self._abandon()
            raise
        if reply.id != self._last:
            raise self._garbled(f"answer {reply.id} to request {self._last}")
        if reply.error is not None:
            raise self._error(reply.error.kind, reply.error.text)
        return reply.result, out

    def close(self) -> None:
        """End the worker; it is killed when it does not end by itself within seconds. A second time does nothing."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.end(_GRACE_S)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._abandon()

    def _with_picture(
        self, operation: str, loaded: LoadedBundle, picture: Frame | NDArray[np.uint8], timeout_s: float
    ) -> tuple[Any, dict[str, NDArray[Any]]]:
        frame = picture if isinstance(picture, Frame) else Frame(picture)
        options = {"number": loaded.number, "format": frame.format}
        return self.request(operation, options, {"pixels": frame.pixels}, timeout_s=timeout_s)

    def _checked(self, read: Callable[[], Wanted]) -> Wanted:
        """What ``read`` makes of a reply; one that is not what was asked for ends the worker."""
        try:
            return read()
        except ReplyError as error:
            raise self._garbled(str(error)) from None

    def _greet(self, timeout_s: float) -> Hello:
        assert self._channel is not None
        deadline = time.monotonic() + timeout_s
        try:
            return unpack(partial(self._channel.read_exactly, deadline=deadline), Hello)[0]
        except LateError:
            raise DeviceUnreachableError(
                str(self._lost(f"did not start within {timeout_s:g} s and was ended", 0.0))
            ) from None
        except EndedError:
            raise self._not_started() from None
        except FrameError as error:
            self._abandon()
            raise DeviceUnreachableError(
                f"{self.where}: something else than a worker answers ({error}): "
                "does a shell's start file print something, or is the python another program?"
            ) from None

    def _check(self, hello: Hello) -> None:
        """One line that names both versions, where they differ."""
        for what, there, here in (
            ("protocol", hello.protocol, PROTOCOL),
            ("edgeface", hello.edgeface, edgeface.__version__),
            ("kernel interface", hello.kernels_abi, ABI),
        ):
            if there != here:
                raise DeviceVersionError(
                    f"{self.where}: {what} {there} there and {here} here: edgeface devices setup {self.board.name}"
                )

    def _error(self, kind: str, text: str) -> EdgefaceError:
        known = getattr(errors, kind, None)
        error = known if isinstance(known, type) and issubclass(known, EdgefaceError) else DeviceError
        return error(f"{self.where}: {text}")

    def _not_started(self) -> EdgefaceError:
        code, lines = self._ended(_GRACE_S)
        reason = self.link.failure(code, "\n".join(lines))
        if reason is not None:
            return reason
        said = " | ".join(lines[-_SHOWN_LINES:]) or "no reason was given"
        if any(_NO_MODULE in line for line in lines):
            return DeviceUnreachableError(
                f"{self.where}: its python has no edgeface ({lines[-1]}): edgeface devices setup {self.board.name}"
            )
        return DeviceUnreachableError(f"{self.where}: no worker starts, it {self._how(code)}: {said}")

    def _died(self, operation: str) -> EdgefaceError:
        code, lines = self._ended(_GRACE_S)
        reason = self.link.failure(code, "\n".join(lines))
        if reason is not None:
            return reason
        said = " | ".join(lines[-_SHOWN_LINES:]) or "it said nothing"
        return DeviceLostError(f"{self.where}: its worker {self._how(code)} during {operation!r}: {said}")

    def _garbled(self, what: str) -> DeviceLostError:
        return self._lost(f"sent what is not the protocol, {what}, and was ended", 0.0)

    def _lost(self, what: str, grace_s: float) -> DeviceLostError:
        _, lines = self._ended(grace_s)
        said = " | ".join(lines[-_SHOWN_LINES:]) or "it said nothing"
        return DeviceLostError(f"{self.where}: its worker {what}: {said}")

    def _how(self, code: int) -> str:
        """How the process ended, in words."""
        number = -code if code < 0 else code - _SHELL_SIGNAL
        if code == 0:
            return "ended by itself"
        if number == signal.SIGILL:
            return f"met an instruction that {self.link.core} does not have (SIGILL)"
        if number == signal.SIGKILL:
            return "was killed (SIGKILL), as when memory runs out"
        try:
            return f"died of {signal.Signals(number).name}"
        except ValueError:
            return f"ended with exit code {code}"

    def _ended(self, grace_s: float) -> tuple[int, list[str]]:
        """End it; its exit code and its last lines."""
        channel, self._channel = self._channel, None
        assert channel is not None
        code = channel.end(grace_s)
        return code, channel.last_lines()

    def _abandon(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.end(0.0)
