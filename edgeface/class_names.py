"""The classes that an attribute tells apart, apart from the arrays: a manifest names them without NumPy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClassNames:
    """The K classes that an attribute tells apart, and ``values``, the number that each stands for, such as years of
    age; none where they stand for no number. Raises ValueError for fewer than two classes, or other than K values."""

    names: tuple[str, ...]
    values: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.names) < 2 or len(set(self.names)) < len(self.names):
            raise ValueError(f"classes {', '.join(self.names) or '(none)'}: at least two of different names are needed")
        if self.values is not None and len(self.values) != len(self.names):
            raise ValueError(f"{len(self.values)} values for {len(self.names)} classes")
