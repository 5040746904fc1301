"""edgeface: light face models on small ARM boards. ``load`` gives a detector; the names in ``__all__`` are the API.

Names are imported when they are first used, so that the command line's help costs no numpy.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeface import errors
from edgeface.errors import (
    BundleError,
    BundleHashError,
    CheckpointError,
    ConversionError,
    DamagedFrameError,
    DataError,
    DeviceError,
    DeviceLostError,
    DeviceUnreachableError,
    DeviceVersionError,
    DuplicateNameError,
    EdgefaceError,
    EngineError,
    ImageTooLargeError,
    InputError,
    InstallError,
    MissingExtraError,
    OptionError,
    OutputError,
    ParityError,
    SourceError,
    TrainingError,
    UnknownAttributeError,
    UnknownDeviceError,
    UnknownEngineError,
    UnknownLinkError,
    UnknownModelError,
    UnknownNameError,
    UnknownSinkError,
    UnknownSourceError,
    UnknownTargetError,
    UnverifiedBundleWarning,
)
from edgeface.registry import bring

if TYPE_CHECKING:
    from edgeface.faces import Faces
    from edgeface.frames import Frame
    from edgeface.runtime.detector import Detector
    from edgeface.runtime.head_pose import pose_from_points
    from edgeface.runtime.loading import load

    __version__: str

# Python started in a clone's root finds this folder before the installed package, and in the source tree the parts
# that install as edgeface.convert and so on lie beside it.
_root = Path(__file__).parent.parent
if (_root / "pyproject.toml").is_file() and not (_root / "edgeface" / "convert").exists():
    __path__.append(str(_root))

__all__ = [
    "BundleError",
    "BundleHashError",
    "CheckpointError",
    "ConversionError",
    "DamagedFrameError",
    "DataError",
    "Detector",
    "DeviceError",
    "DeviceLostError",
    "DeviceUnreachableError",
    "DeviceVersionError",
    "DuplicateNameError",
    "EdgefaceError",
    "EngineError",
    "Faces",
    "Frame",
    "ImageTooLargeError",
    "InputError",
    "InstallError",
    "MissingExtraError",
    "OptionError",
    "OutputError",
    "ParityError",
    "SourceError",
    "TrainingError",
    "UnknownAttributeError",
    "UnknownDeviceError",
    "UnknownEngineError",
    "UnknownLinkError",
    "UnknownModelError",
    "UnknownNameError",
    "UnknownSinkError",
    "UnknownSourceError",
    "UnknownTargetError",
    "UnverifiedBundleWarning",
    "__version__",
    "errors",
    "load",
    "pose_from_points",
    "stream",
]

# The bench's engine runs checkpoints, so it stands above the runtime, which finds it by its name.
for _kind in ("engine", "engine of single files"):
    bring(_kind, "torch", "edgeface.torch_engine")
# So do the descriptions of boards, by which the runtime knows what serves this machine.
bring("preference", "here", "edgeface.devices.recognised")

_HOMES = {
    "Detector": "edgeface.runtime.detector",
    "Faces": "edgeface.faces",
    "Frame": "edgeface.frames",
    "pose_from_points": "edgeface.runtime.head_pose",
    "load": "edgeface.runtime.loading",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("edgeface")
    elif name == "stream":
        # A module that can be called, since a function of this name would be hidden by its own package.
        value = importlib.import_module("edgeface.stream")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
