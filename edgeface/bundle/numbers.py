"""The numbers of a bundle's manifest, with their bounds: what a board can bear, and far more than any model here needs.
Without a limit a number could ask for all memory."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Count = Annotated[int, Meta(ge=1, le=10_000)]
Pixels = Annotated[int, Meta(ge=1, le=1024)]
Number = Annotated[float, Meta(ge=-1e6, le=1e6)]
Positive = Annotated[float, Meta(gt=0, le=1e6)]
Share = Annotated[float, Meta(ge=0, le=1)]
Index = Annotated[int, Meta(ge=0, le=1 << 16)]
