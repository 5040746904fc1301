"""How a network was quantised, and which of its layers stay in float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn

from edgeface.errors import OptionError
from edgeface.int8.modules import convolutions


@dataclass(frozen=True)
class Quantisation:
    """How a network was quantised: ``method`` of the calibration that its scales began with, whether they were then
    trained, ``keep_float`` the names of the convolutions left in float, and the ``channel_multiple`` of its layout."""

    method: str
    trained: bool
    keep_float: list[str] = field(default_factory=list)
    channel_multiple: int = 8


def keep_in_float(net: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Leave convolutions out of the quantisation by name or pattern ("heads.*", "*.bins"); gives their names.

    All others are quantised again. Raises OptionError for a pattern that matches nothing, with some of the names.
    """
    names = [name for name, _ in convolutions(net)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join(names[-3:])
            raise OptionError(f"no layer {pattern!r} to keep in float: name layers as in the report, such as {some}")
    kept = []
    for name, conv in convolutions(net):
        conv.int8 = not any(fnmatchcase(name, pattern) for pattern in patterns)
        if not conv.int8:
            kept.append(name)
    return kept
