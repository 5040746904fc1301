"""A camera's settings as a TOML file: the options of ``edgeface camera``, in sections."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from edgeface.errors import OptionError
from edgeface.regular_files import LARGEST_SETTINGS_BYTES, read_regular
from edgeface.runtime.detector_options import Count, DetectorOptions
from edgeface.toml_reasons import NOT_TOML, reason, require_no_zero

Positive = Annotated[float, Meta(gt=0)]


class SourceSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The section [source]."""

    source: str | None = None
    width: Count | None = None
    height: Count | None = None
    fps: Positive | None = None
    pixel_format: str | None = None
    loop: bool = False
    every_frame: bool = False
    any_redirect: bool = False
    any_certificate: bool = False
    rotate_deg: Literal[0, 90, 180, 270] = 0
    flip: bool = False
    patience_s: Positive | None = None
    give_up_s: Positive | None = None


# The section [detector]: what every detector is opened with, and what a camera's has besides.
DetectorSection = msgspec.defstruct(
    "DetectorSection",
    [
        *((name, kind | None, None) for name, kind in get_type_hints(DetectorOptions, include_extras=True).items()),
        ("classes", bool, False),
        ("adapt_ms", Positive | None, None),
    ],
    frozen=True, forbid_unknown_fields=True, omit_defaults=True,
)  # fmt: skip


class TrackingSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The section [tracking]."""

    track: bool = True
    detect_every: Count = 1


class PageSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The section [page]."""

    show: bool = False
    metrics: bool = False
    bind: str | None = None
    port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    token: str | None = None
    allow_host: list[str] = []
    viewers: Count | None = None


class OutputSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The section [output]."""

    json: str | None = None
    mqtt: str | None = None
    video: str | None = None
    video_days: Positive | None = None
    video_mb: Annotated[float, Meta(ge=1)] | None = None
    window: bool = False
    best_shots: str | None = None
    events: str | None = None
    events_days: Positive | None = None
    events_mb: Annotated[float, Meta(ge=1)] | None = None
    events_shots: bool = True
    events_attributes: bool = False
    blur: bool = False


class NotifySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The section [notify]."""

    webhook: str | None = None
    exec: list[str] | str | None = None
    zone: list[str] = []
    on: list[str] = []
    dwell_s: Annotated[float, Meta(ge=0)] | None = None
    home_assistant: bool = False


class CameraConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The file as a whole. A setting has the name of its option, ``-`` as ``_``, with its unit where it has one."""

    source: SourceSection = SourceSection()
    detector: DetectorSection = DetectorSection()   # type: ignore[valid-type]  # mypy knows no struct that is made
    tracking: TrackingSection = TrackingSection()
    page: PageSection = PageSection()
    output: OutputSection = OutputSection()
    notify: NotifySection = NotifySection()


def read_config(path: Path) -> dict[str, Any]:
    """The settings of a file by name, only those that it says.

    Raises OptionError when it cannot be read, is not TOML, has a section, a key or a value that is not known, or a text
    with a zero character.
    """
    try:
        content = read_regular(path, LARGEST_SETTINGS_BYTES)
    except OSError as error:
        raise OptionError(f"{path}: {error.strerror}: check --config") from None
    try:
        config = msgspec.toml.decode(content, type=CameraConfig)
    except msgspec.ValidationError as error:
        raise OptionError(f"{path}: {reason(error, CameraConfig)}") from None
    except NOT_TOML as error:
        raise OptionError(f"{path}: not TOML: {error}") from None
    settings: dict[str, Any] = {}
    for section in msgspec.to_builtins(config).values():
        settings |= section
    require_no_zero(settings, path)
    return settings
