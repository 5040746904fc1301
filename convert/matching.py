"""Which layer of a converted file has which scales: found by the content of the weights, since exporters rename."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import ConversionError
from edgeface.int8.scales import LayerScales

Floats = NDArray[np.float32]


def match_by_content(wanted: Sequence[LayerScales], found: Mapping[str, Floats]) -> dict[str, LayerScales]:
    """The scales of every layer in ``found`` that has the weights of one in ``wanted``; the others stay float.

    ``found``: a file's layer name -> its weight, float32 (O, I / groups, kh, kw) or (O, I). Weights are the same when
    they have as many output channels and the same values in the same order, whatever their shape, so that a 1x1
    convolution may come back as a matrix. Layers that share their weights share their scales.

    Raises ConversionError when two layers of ``wanted`` have the same weights and different scales, so that nobody can
    tell which is which, and when the weights of one are nowhere in ``found``.
    """
    by_content: dict[tuple[int, bytes], LayerScales] = {}
    for scales in wanted:
        other = by_content.setdefault(_content(scales.weight), scales)
        if not _same_scales(scales, other):
            raise ConversionError(
                f"layers {other.name} and {scales.name} have the same weights and different scales, so they cannot be "
                f"told apart: keep both in float (--keep-float {other.name} {scales.name})"
            )
    matched: dict[str, LayerScales] = {}
    seen: set[tuple[int, bytes]] = set()
    for name, weight in found.items():
        content = _content(weight)
        if content in by_content:
            matched[name] = by_content[content]
            seen.add(content)
    lost = [scales.name for content, scales in by_content.items() if content not in seen]
    if lost:
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise ConversionError(
            f"no converted layer has the weights of {lost[0]}{more}, so its scales have no place: "
            f"keep it in float (--keep-float {lost[0]}), or try another exporter version"
        )
    return matched


def placeable(wanted: Sequence[LayerScales], found: Sequence[Floats]) -> list[LayerScales]:
    """Those of ``wanted`` that ``match_by_content`` finds among the weights ``found`` and can tell apart."""
    there = {_content(weight) for weight in found}
    by_content: dict[tuple[int, bytes], list[LayerScales]] = {}
    for scales in wanted:
        by_content.setdefault(_content(scales.weight), []).append(scales)
    return [
        scales
        for content, same in by_content.items()
        if content in there and all(_same_scales(same[0], other) for other in same)
        for scales in same
    ]


def _content(weight: Floats) -> tuple[int, bytes]:
    # Adding 0 makes -0 to 0: exporters keep the value and may lose its sign.
    return len(weight), (np.ascontiguousarray(weight, np.float32) + np.float32(0)).tobytes()


def _same_scales(one: LayerScales, other: LayerScales) -> bool:
    return np.float32(one.input_scale) == np.float32(other.input_scale) and np.array_equal(
        one.weight_scale, other.weight_scale
    )
