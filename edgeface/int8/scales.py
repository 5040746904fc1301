"""The scales of an int8 layer, as they travel from training to a converter: found again by the weights themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Q_MAX = 127     # symmetric: -127 to 127, never -128


@dataclass(frozen=True)
class LayerScales:
    """One convolution or fully connected layer that runs in int8: real value = scale * integer, zero point 0.

    ``weight`` float32 (O, I / groups, kh, kw), or (O, I) when fully connected, holds only multiples of its output
    channel's ``weight_scale`` (O,) float32; it is what a converter recognises the layer by. ``input_scale`` is the one
    scale of the layer's input. ``name`` is the layer's in the network, for people.
    """

    name: str
    weight: NDArray[np.float32]
    weight_scale: NDArray[np.float32]
    input_scale: float

    @property
    def integers(self) -> NDArray[np.int8]:
        """The weights as int8, of ``weight``'s shape."""
        scale = self.weight_scale.reshape(-1, *(1,) * (self.weight.ndim - 1))
        rounded: NDArray[np.int8] = np.rint(self.weight / scale).clip(-Q_MAX, Q_MAX).astype(np.int8)
        return rounded
