"""From a trained block to what engines run, by the block's type: each block says so beside its own definition."""

from __future__ import annotations

from functools import singledispatch

from torch import nn

from edgeface.errors import ConversionError


@singledispatch
def deploy(block: nn.Module, multiple: int = 1) -> nn.Module:
    """A block's deployed form, in float, with copies of its weights: a module of ``FoldedConv`` and ``Point``.

    It takes and gives what the block does, as ``Signal`` in place of tensors. A backbone's has ``layouts``, the order
    of the channels of each of its maps; ``multiple`` is what those layouts are filled up to, with channels of zeros,
    where the backbone's own order allows it. Raises ConversionError for a block that has no deployed form.
    """
    raise ConversionError(f"a {type(block).__name__} has no deployed form: write one and register it with 'deploy'")
