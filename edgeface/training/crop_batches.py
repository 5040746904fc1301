"""The batches that a dense detector is trained on: crops, with online feedback sampling (mos.txt, section 3.3)."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, Sampler

from edgeface.data.detection import Batch, DetectionSet, Draw
from edgeface.training.batches import BatchSource
from edgeface.training.config import Config
from edgeface.training.devices import Place
from edgeface.training.probes import Probe


class HardProbe(Probe, Protocol):
    """What looks at a detector, and tests training pictures for the set S."""

    def hard(self, net: nn.Module, hard: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
        """The set S after a test: a mark for every picture of every set, from the marks that it has now."""
        ...


class StepBatches(Sampler[list[Draw]]):
    """Endless batches from ``start`` on; each step's canvas and samples depend on the seed and the step alone."""

    def __init__(self, config: Config, start: int, rank: int, world: int) -> None:
        self.config, self.start, self.rank, self.world = config, start, rank, world

    def __iter__(self) -> Iterator[list[Draw]]:
        canvases = self.config.canvases
        shares = np.array([c.share for c in canvases])
        most = max(c.batch for c in canvases)
        step = self.start
        while True:
            rng = np.random.default_rng((self.config.run.seed, step, 0))
            canvas = canvases[int(rng.choice(len(canvases), p=shares / shares.sum()))]
            yield [Draw(step * most + i, canvas.size_px) for i in range(self.rank, canvas.batch, self.world)]
            step += 1


class CropBatches(BatchSource[Batch]):
    """Crops of ``dataset``, stitched while small faces learn too little, and hard pictures drawn more often."""

    unit = "pictures"

    def __init__(self, config: Config, dataset: DetectionSet, place: Place, probe: HardProbe | None) -> None:
        self.dataset, self.stitched = dataset, 0
        self._config, self._place, self._probe = config, place, probe
        self._memory_format = torch.channels_last if config.run.channels_last else torch.contiguous_format

    def batches(self, start: int) -> Iterator[Batch]:
        workers = self._config.data.workers
        # Whoever has used OpenCV before has started its threads. A forked loader has the pool without them, and waits
        # for ever when it gives the pool up; so it is given up here.
        cv2.setNumThreads(1)
        loader = DataLoader(
            self.dataset, batch_sampler=StepBatches(self._config, start, self._place.rank, self._place.world),
            num_workers=workers, collate_fn=self.dataset.collate, persistent_workers=False,
            pin_memory=self._place.device.type == "cuda", prefetch_factor=4 if workers else None,
            worker_init_fn=_start_worker,
        )
        for batch in loader:
            yield batch.to(self._place.device, self._memory_format)

    def size(self, batch: Batch) -> int:
        return len(batch)

    def feed_back(self, told: Mapping[str, Tensor]) -> None:
        """Stitch the next crops while small faces give less than T of the box loss (mos.txt, section 3.3)."""
        boxes = torch.stack((told["small_boxes"], told["boxes"]))
        if self._place.world > 1:
            distributed.all_reduce(boxes)
        small, every = boxes.tolist()
        stitch = every > 0 and small / every < self._config.feedback.stitch_below
        self.dataset.feedback.stitch[0] = int(stitch)
        self.stitched += int(stitch)

    def entry(self) -> dict[str, Any]:
        return {"stitched": self.stitched}

    def renew(self, net: nn.Module, looked: int, in_time: bool) -> dict[str, Any]:
        """Renew the set S every so many dev figures, on the leader; all processes take its marks."""
        every, hard, renewed = self._config.feedback.every_epochs, self.dataset.feedback.hard, {}
        if self._probe is not None and self._place.leads and every and looked % every == 0 and in_time:
            found = self._probe.hard(net, {name: marks.numpy() for name, marks in hard.items()})
            for name, marks in found.items():
                hard[name].copy_(torch.from_numpy(marks))
            renewed = {"pictures": {name: int(marks.sum()) for name, marks in found.items()}}
        if self._place.world > 1:
            for own in hard.values():
                shared = own.to(self._place.device)
                distributed.broadcast(shared, 0)
                own.copy_(shared.cpu())
        return renewed

    def state(self) -> dict[str, Any]:
        feedback = self.dataset.feedback
        return {
            "stitch": feedback.stitch.clone(), "hard": {name: marks.clone() for name, marks in feedback.hard.items()},
            "stitched": self.stitched,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        feedback = self.dataset.feedback
        self.stitched = state["stitched"]
        feedback.stitch.copy_(state["stitch"])
        for name, hard in state["hard"].items():
            if name in feedback.hard and len(hard) == len(feedback.hard[name]):
                feedback.hard[name].copy_(hard)


def _start_worker(_worker: int) -> None:
    # Ctrl-C and a service manager signal the whole group: the loaders go on until the trainer has saved.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
