"""From a trained block to what engines run, by the block's type: each block says so beside its own definition."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

from torch import nn

from edgeface.errors import ConversionError
from edgeface.models.layout import Layout

# Beyond a probability of .0017 or .9983 nothing is decided, so TFLite's 8 bits are spent on the logits between: at
# steps of .05 fewer faces have the same score, which was worth .002 of AP hard.
SCORE_LIMIT = 6.35


@singledispatch
def deploy(block: nn.Module, multiple: int = 1, layouts: Sequence[Layout] = ()) -> nn.Module:
    """A block's deployed form, in float, with copies of its weights: a module of ``FoldedConv`` and ``Point``.

    It takes and gives what the block does, as ``Signal`` in place of tensors. A backbone's has ``layouts``, the order
    of the channels of each of its maps; ``multiple`` is what those layouts are filled up to, with channels of zeros,
    where the backbone's own order allows it. A neck reads its maps from ``layouts``, a backbone's.

    Raises ConversionError for a block that has no deployed form.
    """
    raise ConversionError(f"a {type(block).__name__} has no deployed form: write one and register it with 'deploy'")
