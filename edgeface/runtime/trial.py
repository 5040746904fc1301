"""Bundles are tried in a process of their own before this one opens them.

An engine believes what its files say: numbers that do not fit each other end the process by a signal, keep it busy for
ever or take all of its memory, and no check of every parameter of every kind of layer would be complete. So a bundle
that did not come with edgeface, and that this machine has not run yet, first runs in a child with limits on memory and
time (``trial_child``). Only when that ended well does the process itself open it. That it did is kept in the user's
cache, by a hash of the bundle, the hashes of its files, the engine's version and the machine.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from edgeface import errors, weights
from edgeface.bundle import Bundle
from edgeface.errors import EdgefaceError, EngineError
from edgeface.regular_files import is_there
from edgeface.user_folders import cache_directory

# Of a child that waits for something; one that computes for ever meets its limit on processor time before.
_TIMEOUT_S = 120.0
_PACKAGES = {"ncnn": ("ncnn",), "tflite": ("ai-edge-litert", "tflite-runtime"), "onnx": ("onnxruntime",)}
_CHILD = "import sys; sys.path[:] = {path!r}; from edgeface.runtime.trial_child import main; main({directory!r})"
_ADVICE = "do not use this bundle, convert the checkpoint again"


def require_tried(directory: Path, bundle: Bundle) -> None:
    """Return when the nets of ``bundle`` in ``directory`` are known to run here, after a trial where they are not.

    Raises EngineError when they end the process, take too long or too much memory, and what opening them raises.
    """
    if bundle.engine not in _PACKAGES or _came_with_edgeface(directory):
        return
    note = cache_directory() / "trials" / _key(bundle)
    if is_there(note):
        return
    _try(directory, bundle)
    # Without a place for the note the bundle is tried each time, and works.
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


def _came_with_edgeface(directory: Path) -> bool:
    return Path(os.path.realpath(directory)).parent == Path(os.path.realpath(weights.directory()))


def _key(bundle: Bundle) -> str:
    # E-mail comes with it, which a bundle that came with edgeface does without.
    import importlib.metadata

    versions = []
    for package in _PACKAGES[bundle.engine]:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions.append(importlib.metadata.version(package))
    described = [bundle, versions, platform.machine(), platform.libc_ver()]
    return hashlib.sha256(msgspec.json.encode(described, order="deterministic")).hexdigest()


def _try(directory: Path, bundle: Bundle) -> None:
    if not sys.executable or getattr(sys, "frozen", False):
        return      # an application that holds its own Python has none to start
    try:
        done = run_in_child(directory, msgspec.json.encode(bundle), _TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise EngineError(f"{directory}: its nets were not done within {_TIMEOUT_S:g} s: {_ADVICE}") from None
    except OSError as error:
        if error.errno == errno.ENOEXEC:
            return      # a process that is emulated alone: the kernel cannot start what its interpreter is made of
        raise EngineError(f"{directory}: cannot be tried before it is used: {error.strerror}: try again") from None
    if done.returncode == -signal.SIGXCPU:
        raise EngineError(f"{directory}: its nets compute for ever: {_ADVICE}")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise EngineError(f"{directory}: its nets end the process that runs them ({name}): {_ADVICE}")
    _raise_reported(directory, done.stdout, done.returncode)


def run_in_child(directory: Path, described: bytes, timeout_s: float) -> subprocess.CompletedProcess[bytes]:
    """``trial_child`` in a Python that starts for it, and what it said on standard output.

    Raises subprocess.TimeoutExpired and OSError.
    """
    return subprocess.run(
        [sys.executable, "-c", _CHILD.format(path=sys.path, directory=str(directory))], input=described,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=timeout_s, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def _raise_reported(directory: Path, output: bytes, exit_code: int) -> None:
    try:
        name, text = json.loads((output.splitlines() or [b""])[-1])
    except ValueError:
        how = f"exit {exit_code}"
        raise EngineError(f"{directory}: its nets end the process that runs them ({how}): {_ADVICE}") from None
    if name is None:
        return
    kind = getattr(errors, name, EngineError)
    raise (kind if issubclass(kind, EdgefaceError) else EngineError)(text)
