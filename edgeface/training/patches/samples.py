"""Patches to train on, cut once and kept in memory-mapped files, with what is known of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeface.errors import TrainingError
from edgeface.training.array_folders import open_arrays, write_arrays

# What a patch is of (mtcnn.txt, section III.A).
NEGATIVE, PART, POSITIVE, LANDMARK = range(4)
Kind = Literal["negatives", "parts", "positives", "landmarks"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_FIELDS = ("pixels", "kind", "box", "landmarks", "labels")


@dataclass(frozen=True)
class Samples:
    """M patches of S pixels a side.

    ``pixels`` uint8 (M, S, S, 3) BGR; ``kind`` uint8 (M,), an index of KINDS; ``box`` float32 (M, 4) and ``landmarks``
    float32 (M, 10) as ``PatchOutput`` has them, NaN where they are not trained; ``labels`` float32 (M, L) of 0 or 1,
    NaN where unknown, of attributes and whatever else a net classifies.
    """

    pixels: NDArray[np.uint8]
    kind: NDArray[np.uint8]
    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    labels: NDArray[np.float32]

    def __post_init__(self) -> None:
        n, s = self.pixels.shape[:2]
        shapes = {"pixels": (n, s, s, 3), "kind": (n,), "box": (n, 4), "landmarks": (n, 10)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"Samples.{name} has shape {getattr(self, name).shape}, not {shape}")
        if self.labels.shape[:1] != (n,) or self.labels.ndim != 2:
            raise ValueError(f"Samples.labels has shape {self.labels.shape}, not ({n}, L)")

    def __len__(self) -> int:
        return len(self.kind)

    def counts(self) -> dict[str, int]:
        """How many there are of each kind, by the names of KINDS."""
        return {name: int((self.kind == i).sum()) for i, name in enumerate(KINDS)}

    def write(self, folder: Path) -> None:
        """Write the arrays to ``folder``, which is complete or not there. Raises OutputError."""
        write_arrays(folder, {name: getattr(self, name) for name in _FIELDS})

    @classmethod
    def open(cls, folder: Path) -> Samples:
        """The samples that ``write`` left in ``folder``, mapped; raises TrainingError when they cannot be read."""
        return cls(*open_arrays(folder, _FIELDS))


class SampleList:
    """Samples in the making: parts are added, ``samples`` puts them together."""

    def __init__(self, size_px: int, labels: int = 0) -> None:
        self._size_px, self._labels = size_px, labels
        self._parts: list[Samples] = []

    def add(
        self,
        pixels: NDArray[np.uint8],
        kind: int | NDArray[np.uint8],
        box: NDArray[np.float32] | None = None,
        landmarks: NDArray[np.float32] | None = None,
        labels: NDArray[np.float32] | None = None,
    ) -> None:
        """Add P patches; what is None is unknown for all of them. Shapes as ``Samples`` has them."""
        n = len(pixels)

        def known(values: NDArray[np.float32] | None, columns: int) -> NDArray[np.float32]:
            return np.full((n, columns), np.nan, np.float32) if values is None else values.astype(np.float32)

        self._parts.append(
            Samples(
                pixels, np.broadcast_to(np.asarray(kind, np.uint8), n), known(box, 4), known(landmarks, 10),
                known(labels, self._labels),
            )
        )

    def samples(self) -> Samples:
        """All that was added, in its order."""
        if not self._parts:
            s = self._size_px
            empty = np.empty((0, s, s, 3), np.uint8)
            self.add(empty, NEGATIVE)
        return Samples(*(np.concatenate([getattr(part, name) for part in self._parts]) for name in _FIELDS))


class Mixture:
    """Batches of a fixed mixture of kinds, each drawn from the seed and the step alone, so that a run can go on.

    ``shares`` gives each kind's part of a batch by its name in KINDS. Within a kind every sample comes once before any
    comes again. Raises TrainingError when no kind with a share has samples; one that has none leaves its share to the
    others.
    """

    def __init__(self, samples: Samples, shares: Mapping[Kind, float], batch: int, seed: int) -> None:
        self.samples, self._batch, self._seed = samples, batch, seed
        pools = {name: np.nonzero(samples.kind == i)[0] for i, name in enumerate(KINDS)}
        self._pools = [(pools[name], share) for name, share in shares.items() if share > 0 and len(pools[name])]
        if not self._pools:
            raise TrainingError("no samples to train on: the data folder has no faces that can be used")

    def draw(self, step: int) -> NDArray[np.int64]:
        """The indices of the samples of one step."""
        total = sum(share for _, share in self._pools)
        drawn = []
        for number, (pool, share) in enumerate(self._pools):
            count = max(1, round(self._batch * share / total))
            start = step * count
            for index in range(start // len(pool), (start + count - 1) // len(pool) + 1):
                order = np.random.default_rng((self._seed, number, index)).permutation(len(pool))
                first = max(0, start - index * len(pool))
                drawn.append(pool[order[first : start + count - index * len(pool)]])
        return np.sort(np.concatenate(drawn))


@dataclass(frozen=True)
class Batch:
    """A batch as tensors: ``patches`` uint8 (B, S, S, 3), the others as ``Samples`` has them."""

    patches: Tensor
    kind: Tensor
    box: Tensor
    landmarks: Tensor
    labels: Tensor


# Where each landmark goes when the picture is mirrored.
_MIRRORED = (1, 0, 2, 4, 3)


def load_batch(samples: Samples, indices: NDArray[np.int64], rng: np.random.Generator | None, colour: float) -> Batch:
    """The samples of ``indices``; with ``rng`` half of them mirrored, and a share ``colour`` of them recoloured."""
    patches, kind, box, landmarks, labels = (
        torch.from_numpy(np.array(getattr(samples, name)[indices])) for name in _FIELDS
    )
    if rng is None:
        return Batch(patches, kind, box, landmarks, labels)
    n = len(indices)
    mirrored = torch.from_numpy(rng.random(n) < 0.5)
    patches[mirrored] = patches[mirrored].flip(2)
    box[mirrored] = box[mirrored][:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1.0, -1.0, 1.0])
    points = landmarks[mirrored].view(-1, 5, 2)[:, list(_MIRRORED)] * torch.tensor([-1.0, 1.0])
    landmarks[mirrored] = points.flatten(1)
    recoloured = torch.from_numpy(np.nonzero(rng.random(n) < colour)[0])
    if len(recoloured):
        patches[recoloured] = _recoloured(patches[recoloured], rng)
    return Batch(patches, kind, box, landmarks, labels)


def _recoloured(patches: Tensor, rng: np.random.Generator) -> Tensor:
    """Other brightness, contrast and colour balance for each, and grey for a tenth of them."""
    n = len(patches)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (n, *shape)).astype(np.float32))

    values = patches.float()
    grey = torch.from_numpy(rng.random(n) < 0.1)
    values[grey] = values[grey].mean(3, keepdim=True)
    middle = values.mean((1, 2, 3), keepdim=True)
    values = (values - middle) * draw(0.6, 1.4, 1, 1, 1) + middle + draw(-40, 40, 1, 1, 1)
    values *= draw(0.9, 1.1, 1, 1, 3)
    return values.clamp_(0, 255).byte()
