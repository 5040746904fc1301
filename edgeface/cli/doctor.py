"""``edgeface doctor``: what a bug report needs, and what is wrong here."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

import edgeface
from edgeface.cli.installed import engine_versions, version_of
from edgeface.cli.writing import print_json, say
from edgeface.errors import EdgefaceError, InstallError
from edgeface.runtime import catalog
from edgeface.runtime.kernels import status
from edgeface.runtime.threads import default_threads
from edgeface.stream.sources.v4l2 import check_device
from edgeface.weights import DEFAULT_MODEL
from edgeface.wording import counted

_PACKAGES = (
    "numpy", "opencv-python-headless", "opencv-python", "picamera2", "paho-mqtt", "scikit-image", "onnx", "pnnx",
)
# What changes how edgeface runs. Tokens and passwords are not among them.
_VARIABLES = (
    "EDGEFACE_KERNELS", "EDGEFACE_PYTHON", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "LD_PRELOAD",
    "PYTHONPATH", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "VIRTUAL_ENV",
)


class _Line(NamedTuple):
    label: str
    text: str
    is_wrong: bool = False


@click.command(short_help="Say what is installed and what is wrong, for a bug report.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
def command(as_json: bool) -> None:
    """Say what is installed and what is wrong, for a bug report.

    The bundles that come with edgeface are compared with their hashes, and the default one looks at a drawn picture.
    Nothing is sent anywhere, and no token or password is printed. The exit code is not 0 when something is wrong;
    an extra that is not installed is not.
    """
    lines = [*_system(), *_software(), *_cameras(), *_models()]
    wrong = [line.text for line in lines if line.is_wrong]
    if as_json:
        found: dict[str, Any] = {}
        for line in lines:
            found.setdefault(line.label, []).append(line.text)
        print_json({"found": found, "wrong": wrong})
    else:
        for line in lines:
            say(f"{line.label:<10}{'WRONG: ' if line.is_wrong else ''}{line.text}")
    if wrong:
        raise InstallError(f"{counted(len(wrong), 'thing')} wrong: {'; '.join(wrong)}")


def _system() -> Iterator[_Line]:
    from edgeface.runtime.benchmark import cpu_model

    system = platform.uname()
    yield _Line("system", f"{system.system} {system.release} {system.machine}, {_distribution()}")
    usable, there = len(os.sched_getaffinity(0)), os.cpu_count()
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    name = _board() or cpu_model()
    yield _Line("machine", f"{name}, {usable} of {there} processors usable, {memory_mb} MB of memory")
    yield _Line("load", " ".join(f"{load:.2f}" for load in os.getloadavg()))
    yield _Line("python", f"{platform.python_version()}, {sys.executable}")


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "no name")
    except OSError:
        return "no /etc/os-release"


def _board() -> str:
    """The board's name as its device tree has it, empty on a PC."""
    try:
        return Path("/proc/device-tree/model").read_text().strip("\0\n ")
    except (OSError, UnicodeDecodeError):
        return ""


def _software() -> Iterator[_Line]:
    yield _Line("edgeface", f"{version_of('edgeface')}, {Path(edgeface.__file__).parent}")
    for engine, package in engine_versions().items():
        yield _Line("engine", f"{engine}: {package or 'not installed'}")
    kernels = status()
    yield _Line("kernels", kernels.text, is_wrong=not kernels.used and "cannot" in kernels.text)
    there = [f"{package} {version}" for package in _PACKAGES if (version := version_of(package)) is not None]
    yield _Line("packages", ", ".join(there))
    given = [f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ]
    yield _Line("variables", ", ".join(given) or "none of those that change how it runs")


def _cameras() -> Iterator[_Line]:
    devices = sorted(Path("/dev").glob("video*"))
    for device in devices:
        try:
            check_device(str(device))
        except EdgefaceError as error:
            yield _Line("camera", str(error))
        else:
            yield _Line("camera", f"{device}: can be opened")
    if not devices:
        yield _Line("camera", "no /dev/video*")


def _models() -> Iterator[_Line]:
    from edgeface.runtime.benchmark import synthetic_scene
    from edgeface.runtime.loading import load

    whole = []
    for entry in catalog.shipped():
        try:
            entry.read(verify=True)
        except EdgefaceError as error:
            yield _Line("model", str(error), is_wrong=True)
        else:
            whole.append(entry.name)
    yield _Line("models", f"whole: {', '.join(whole) or 'none'}")
    try:
        threads = default_threads()
        detector = load(DEFAULT_MODEL, threads=threads)
        detector(synthetic_scene())
        _, timing = detector.timed(synthetic_scene())
    except EdgefaceError as error:
        yield _Line("detects", str(error), is_wrong=True)
        return
    threads_used = counted(threads, "thread")
    yield _Line("detects", f"{detector.bundle.name}, {timing.total_ms:.0f} ms for 640x480 with {threads_used}")
