"""The cores of a board: what they are, how fast, and what they can do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

Index = Annotated[int, Meta(ge=0)]
Nibble = Annotated[int, Meta(ge=0, le=0xF)]
Text = Annotated[str, Meta(min_length=1)]

_ARM = 0x41


class Midr(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a core says it is in its main ID register; r2p3 is variant 2, revision 3. ``implementer`` 0x41 is Arm."""

    part: Annotated[int, Meta(ge=0, le=0xFFF)]
    variant: Nibble
    revision: Nibble
    implementer: Annotated[int, Meta(ge=0, le=0xFF)] = _ARM

    @property
    def value(self) -> int:
        """The register itself, with the architecture field (0xf) that every ARMv8 core has."""
        return self.implementer << 24 | self.variant << 20 | 0xF << 16 | self.part << 4 | self.revision


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cores of one kind.

    ``core`` as compilers and QEMU call it ("cortex-a72"); ``cpus`` Linux's numbers of them; ``mhz`` and ``min_mhz``
    their highest and lowest clock, 0 where nothing tells; ``capacity`` of one core as Linux gives it, 1024 for the
    fastest; ``isa`` the architecture ("armv8.0-a", "x86_64"); ``features`` the words of /proc/cpuinfo.
    """

    core: Text
    cpus: Annotated[list[Index], Meta(min_length=1)]
    mhz: Index
    isa: Text
    features: list[str]
    min_mhz: Index = 0
    capacity: Annotated[int, Meta(ge=1, le=1024)] = 1024
    midr: Midr | None = None

    @property
    def cores(self) -> int:
        """How many."""
        return len(self.cpus)


def cores_of(clusters: Sequence[Cluster]) -> Counter[str]:
    """How many of each kind."""
    return Counter(cluster.core for cluster in clusters for _ in cluster.cpus)
