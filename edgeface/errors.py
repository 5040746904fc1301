"""Every error edgeface raises on purpose, one tree with an exit code a branch.

EdgefaceError                    1   anything below, for callers that want one except
├── UnknownNameError             2   a registry has no such name
│   ├── UnknownModelError
│   ├── UnknownTargetError
│   ├── UnknownEngineError
│   ├── UnknownDeviceError
│   ├── UnknownLinkError
│   ├── UnknownSourceError
│   ├── UnknownSinkError
│   └── UnknownAttributeError
├── DuplicateNameError           1   a registry has that name already (a mistake in code)
├── OptionError                  2   an option's value cannot work
├── InputError                   3   a picture, video or folder cannot be used
│   └── ImageTooLargeError       3
├── DataError                    4   an annotation is wrong: file and line are named
├── CheckpointError              5   a .pt cannot be used
├── BundleError                  6   a bundle cannot be used
│   └── BundleHashError          6
├── EngineError                  7   an inference engine failed or cannot run this bundle
├── ConversionError              8   a model cannot be converted
│   └── ParityError              8   it was converted and finds other faces
├── TrainingError                9   training cannot start or go on
├── OutputError                 10   a result cannot be written
├── InstallError                11   a part of this installation does not fit the rest, or is not there
│   └── MissingExtraError       11   a package of an optional extra is not installed
├── SourceError                 13   a camera or stream gives no frames for now; it is tried again
└── DeviceError                 12   a board cannot do what was asked, or its description is wrong
    ├── DeviceUnreachableError  12   no worker could be started there
    ├── DeviceVersionError      12   the edgeface there is not the one here
    └── DeviceLostError         12   its worker died, hung, or sent what nobody can read

and one warning, UnverifiedBundleWarning.

A library function raises; only the command line exits, with ``exit_code``. Each text is one line that says what was
wrong, in which file, and what to do.
"""

from __future__ import annotations


class EdgefaceError(Exception):
    """Base of all deliberate errors; ``exit_code`` is what the command line exits with."""

    exit_code = 1


class UnknownNameError(EdgefaceError):
    """A registry has no such name; the text lists the choices and the nearest one."""

    exit_code = 2


class UnknownModelError(UnknownNameError):
    """No architecture or bundle has this name."""


class UnknownTargetError(UnknownNameError):
    """No conversion target has this name."""


class UnknownEngineError(UnknownNameError):
    """No inference engine has this name."""


class UnknownDeviceError(UnknownNameError):
    """No board has this name."""


class UnknownLinkError(UnknownNameError):
    """No way to run something on a board has this name."""


class UnknownSourceError(UnknownNameError):
    """No source of frames has this name."""


class UnknownSinkError(UnknownNameError):
    """No sink for results has this name."""


class UnknownAttributeError(UnknownNameError):
    """Nothing of this name is predicted of a face."""


class DuplicateNameError(EdgefaceError):
    """Two entries were registered under one name."""


class OptionError(EdgefaceError):
    """An argument or configuration value cannot work."""

    exit_code = 2


class InputError(EdgefaceError):
    """A picture, video or folder cannot be used."""

    exit_code = 3


class ImageTooLargeError(InputError):
    """A picture's header promises more pixels than the limit; it was not decoded."""


class DataError(EdgefaceError):
    """An annotation file or data folder is wrong."""

    exit_code = 4


class CheckpointError(EdgefaceError):
    """A checkpoint is missing, damaged, of another version or of another model."""

    exit_code = 5


class BundleError(EdgefaceError):
    """A bundle is missing, damaged or of another version."""

    exit_code = 6


class BundleHashError(BundleError):
    """A bundle's file is not the one that bundle.json describes."""


class EngineError(EdgefaceError):
    """An inference engine refused a model or failed on an input."""

    exit_code = 7


class ConversionError(EdgefaceError):
    """A checkpoint cannot be converted."""

    exit_code = 8


class ParityError(ConversionError):
    """The converted model departs from its reference by more than the tolerance."""


class TrainingError(EdgefaceError):
    """Training cannot start or cannot go on."""

    exit_code = 9


class OutputError(EdgefaceError):
    """A result cannot be written; nothing half-written is left behind."""

    exit_code = 10


class InstallError(EdgefaceError):
    """A part of this installation does not fit the rest, or is not there."""

    exit_code = 11


class MissingExtraError(InstallError):
    """A package that an optional extra installs is missing."""


class DeviceError(EdgefaceError):
    """A board cannot do what was asked, or its description is wrong."""

    exit_code = 12


class DeviceUnreachableError(DeviceError):
    """A board cannot be reached, or no edgeface worker starts on it."""


class DeviceVersionError(DeviceError):
    """The worker on a board speaks another protocol, or is of another version of edgeface."""


class DeviceLostError(DeviceError):
    """A worker died, did not answer in time, or sent what is not the protocol."""


class SourceError(EdgefaceError):
    """A camera or stream gives no frames for now: it is not there, in use, not reachable, or it stopped."""

    exit_code = 13


class DamagedFrameError(SourceError):
    """One frame of a source is damaged; the next one may be whole."""


class UnverifiedBundleWarning(UserWarning):
    """A bundle is in use that departed from its checkpoint, or was never compared with it."""
