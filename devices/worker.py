"""``python -m edgeface.devices.worker``: the process on a board that does what its standard input asks for.

It speaks ``edgeface.devices.protocol`` on standard input and output, and ends when its input does. What is printed to
standard output by anything else goes to standard error instead.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import traceback
from importlib import metadata
from typing import BinaryIO

from edgeface.errors import EdgefaceError
from edgeface.runtime.kernels import status
from edgeface.runtime.kernels.library import ABI

from .protocol import PROTOCOL, Arrays, Failure, FrameError, Hello, ReadExactly, Reply, Request, describe, pack, unpack

# Ends of the process that say what went wrong.
GARBLED, GONE = 65, 74
_PACKAGES = {"ncnn": ("ncnn",), "tflite": ("ai-edge-litert", "tflite-runtime"), "onnx": ("onnxruntime",)}
_STDOUT, _STDERR = 1, 2


def main() -> int:
    """Serve until the input ends or asks for it; the exit code."""
    incoming, outgoing = _take_streams()
    # Ctrl-C is for whoever started the worker; the end of the input tells.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def read_exactly(count: int) -> bytes:
        content = incoming.read(count)
        if len(content) < count:
            raise EOFError
        return content

    try:
        _send(outgoing, hello())
        return _serve(read_exactly, outgoing)
    except EOFError:
        return 0
    except FrameError as error:
        print(f"edgeface worker: what came in is not the protocol: {error}", file=sys.stderr)  # noqa: T201
        return GARBLED
    except BrokenPipeError:
        return GONE


def hello() -> Hello:
    """What this process is."""
    return Hello(
        protocol=PROTOCOL,
        edgeface=metadata.version("edgeface"),
        kernels_abi=ABI,
        kernels=status().text,
        python=platform.python_version(),
        architecture=platform.machine(),
        engines={name: _version(packages) for name, packages in _PACKAGES.items()},
    )


def _version(packages: tuple[str, ...]) -> str | None:
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def _take_streams() -> tuple[BinaryIO, BinaryIO]:
    """The protocol's two streams, out of reach of everything that reads standard input or prints."""
    incoming = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    sys.stdout.flush()
    outgoing = os.fdopen(os.dup(_STDOUT), "wb")
    os.dup2(_STDERR, _STDOUT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.close(nothing)
    return incoming, outgoing


def _serve(read_exactly: ReadExactly, outgoing: BinaryIO) -> int:
    # Imported after the handshake: a library that cannot be loaded is then an answer with a line.
    from . import network_times, receiving  # noqa: F401  (register their operations)
    from .operations import SHUTDOWN, State, operation

    state = State()
    with state.at_end:
        while True:
            request, arrays = unpack(read_exactly, Request)
            if request.operation == SHUTDOWN:
                _send(outgoing, Reply(request.id))
                return 0
            try:
                result, out = operation.get(request.operation)(state, request.options, arrays)
                reply, pieces = Reply(request.id, result, arrays=describe(out)), out
                pack(reply, pieces)
            except EdgefaceError as error:
                reply, pieces = Reply(request.id, error=Failure(type(error).__name__, str(error))), {}
            except Exception as error:
                traceback.print_exc()
                last = " ".join(traceback.format_exception_only(error)[-1].split())
                reply, pieces = Reply(request.id, error=Failure("DeviceError", f"{request.operation}: {last}")), {}
            _send(outgoing, reply, pieces)


def _send(stream: BinaryIO, header: Hello | Reply, arrays: Arrays | None = None) -> None:
    for piece in pack(header, arrays):
        stream.write(piece)
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
