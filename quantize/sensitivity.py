"""What the task loses to int8: with one layer quantised, with all of them, and with as few in float as will do.

Counted is the training objective's loss, with its starting weights, on a few fixed crops of the dev parts. The same
pixels go through the network each time, so that a single layer shows, whose effect AP would hide.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from edgeface.data.detection import Batch, DetectionSet, Draw, FeedbackState, SourceSet, collate
from edgeface.data.pixels import open_pixels
from edgeface.data.sets import DataFolder, open_data
from edgeface.data.settings import Data
from edgeface.data.targets import targets_of
from edgeface.errors import DataError, OptionError
from edgeface.evaluation.measure import spread
from edgeface.int8.modules import FoldedConv, Mode, Signal, convolutions, points, set_mode
from edgeface.models.family import family_of
from edgeface.models.mos import MOS
from edgeface.training.config import Config
from edgeface.training.mos_objective import MOSObjective

CROPS = 32
CROP_PX = 256
_BATCH = 8

T = TypeVar("T")
Progress = Callable[[Iterable[T], str, int], Iterable[T]]


def dev_batches(data: Path, config: Config, crops: int = CROPS, size_px: int = CROP_PX) -> list[Batch]:
    """Fixed crops of the dev parts below ``data``, cut as training cuts them but not augmented.

    ``crops`` of (size_px, size_px), in batches of 8. Raises DataError when no set has a dev part.
    """
    with TemporaryDirectory(prefix="edgeface-") as cache:
        folder = open_data(data)
        found = [_dev_source(folder, name, crops, Path(cache)) for name in folder.sets if folder.dev_part(name)]
        if not found:
            raise DataError(f"{data}: no dev pictures in {', '.join(folder.sets)} to measure the loss on")
        # Scenes give small faces, face crops large ones with a pose.
        sources = {source.name: source for source in sorted(found, key=lambda source: not source.complete)}
        plain: Data = replace(
            config.data, weights=dict.fromkeys(sources, 1.0), paste=0.0, turn=0.0, colour=0.0, degrade=0.0
        )
        dataset = DetectionSet(sources, plain, FeedbackState(sources), 0.0, config.run.seed)
        return [
            collate([dataset[Draw(i, size_px)] for i in range(start, min(start + _BATCH, crops))])
            for start in range(0, crops, _BATCH)
        ]


def _dev_source(folder: DataFolder, name: str, count: int, cache: Path) -> SourceSet:
    pictures = spread(folder.dev_part(name), count)
    targets = [targets_of(picture, regress_boxes=folder.sets[name].regress) for picture in pictures]
    return SourceSet(name, pictures, open_pixels(pictures, cache), targets, all(p.complete for p in pictures))


def task_loss(net: MOS, config: Config, batches: Sequence[Batch]) -> Callable[[], float]:
    """A function that measures the objective's loss of ``net`` as it is now: mean over the batches, weights fixed."""
    objective = MOSObjective(net, replace(config.loss, learn_weights=False), config.feedback.small_face_px).eval()

    def measure() -> float:
        total = 0.0
        # The objective draws poses where there are very many; they are to be the same ones each time.
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            for batch in batches:
                total += float(objective(batch).total)
        return total / len(batches)

    return measure


@contextmanager
def undisturbed(net: nn.Module) -> Iterator[None]:
    """Whatever the block does to modes and to which layers are in int8, they are as before after it."""
    modes = [module.mode for module in net.modules() if hasattr(module, "mode")]
    int8 = [conv.int8 for _, conv in convolutions(net)]
    try:
        yield
    finally:
        for module, mode in zip((m for m in net.modules() if hasattr(m, "mode")), modes, strict=True):
            module.mode = mode
        for (_, conv), flag in zip(convolutions(net), int8, strict=True):
            conv.int8 = flag


def input_points(net: nn.Module) -> dict[str, str]:
    """The point that each convolution reads, both by name, in the order in which the network runs them."""
    convs = {conv: name for name, conv in convolutions(net)}
    names = {point: name for name, point in points(net)}
    found: dict[str, str] = {}

    def note(conv: nn.Module, inputs: tuple[Signal, ...], _output: Tensor) -> None:
        assert isinstance(conv, FoldedConv)
        found[convs[conv]] = names[inputs[0].point]

    handles = [conv.register_forward_hook(note) for conv in convs]
    try:
        with torch.no_grad():
            family = family_of(net)
            family.run(net, family.example())
    finally:
        for handle in handles:
            handle.remove()
    return found


class Losses:
    """Losses of one calibrated network with different parts of it in int8; each is measured once, when asked for.

    The network is as it was after each measurement.
    """

    def __init__(
        self, net: nn.Module, measure: Callable[[], float],
        progress: Progress[str] = lambda items, _label, _total: items,
    ) -> None:
        self.net = net
        self._measure = measure
        self._progress = progress

    @cached_property
    def float_loss(self) -> float:
        """Of the network in float."""
        with undisturbed(self.net):
            set_mode(self.net, "float")
            return self._measure()

    @cached_property
    def layers(self) -> dict[str, float]:
        """With only this layer's input and weights in int8, by the layer's name."""
        names = list(input_points(self.net))
        with undisturbed(self.net):
            return {
                name: self.quantised("inputs", set(names) - {name})
                for name in self._progress(names, "one layer in int8", len(names))
            }

    @cached_property
    def other_points(self) -> dict[str, float]:
        """With only this tensor rounded, for the tensors that no convolution reads: only TFLite rounds those."""
        read = set(input_points(self.net).values())
        named = {name: point for name, point in points(self.net) if name not in read}
        losses = {}
        with undisturbed(self.net):
            set_mode(self.net, "float")
            for name in self._progress(list(named), "one tensor in int8", len(named)):
                named[name].mode = "all"
                losses[name] = self._measure()
                named[name].mode = "float"
        return losses

    def quantised(self, mode: Mode, kept: Collection[str]) -> float:
        """Quantised, with the layers of these names in float."""
        with undisturbed(self.net):
            set_mode(self.net, mode)
            for name, conv in convolutions(self.net):
                conv.int8 = name not in kept
            return self._measure()

    def increase_percent(self, loss: float) -> float:
        """How much a loss is above the float network's."""
        return 100 * (loss / self.float_loss - 1)


@dataclass(frozen=True)
class AutoKept:
    """The layers that stay in float, and the loss: in float, quantised without and with them left out.

    ``everywhere`` is the loss with them left out and all tensors rounded, as TFLite does.
    """

    kept: list[str]
    float_loss: float
    before: float
    after: float
    everywhere: float

    def to_text(self, fixed: Collection[str]) -> str:
        """What was kept beyond ``fixed`` and what that did to the loss, one line each."""
        losses = (self.before, self.after, self.everywhere)
        before, after, everywhere = (100 * (loss / self.float_loss - 1) for loss in losses)
        chosen = [name for name in self.kept if name not in fixed]
        if not chosen:
            return f"auto-keep: the loss in int8 is {before:+.2f} % above float's, within the bound: nothing to keep"
        head = f"auto-keep: {len(chosen)} left in float: loss from {before:+.2f} to {after:+.2f} % above float's"
        return "\n".join([f"{head}, {everywhere:+.2f} % with all tensors rounded", *(f"  {name}" for name in chosen)])


def auto_keep(
    losses: Losses, bound: float, fixed: Collection[str] = (),
    progress: Progress[str] = lambda items, _label, _total: items,
) -> AutoKept:
    """The fewest layers in float, beside ``fixed``, that bring the loss to at most (1 + bound) times the float one.

    Found greedily: the layers that lose most alone are kept first, with the loss of the whole network measured after
    each; then those that turn out not to be needed are quantised again. Counted is the loss with the int8 layers'
    inputs rounded, as ncnn runs it, which with every layer in float is the float one. TFLite rounds the tensors between
    layers whatever the layers are, so that there a layer in float spares its weights alone. Raises OptionError for a
    bound that is negative or no number.
    """
    if not bound >= 0:
        raise OptionError(f"--auto-keep {bound:g}: the bound is a share of the float loss, 0 or more: 0.1 allows 10 %")
    limit = (1 + bound) * losses.float_loss
    kept = set(fixed)

    def chosen_ones(kept: Collection[str], loss: float) -> AutoKept:
        return AutoKept(sorted(kept), losses.float_loss, before, loss, losses.quantised("all", kept))

    before = loss = losses.quantised("inputs", kept)
    if before <= limit:
        return chosen_ones(kept, before)
    worst_first = sorted(set(losses.layers) - kept, key=lambda name: -losses.layers[name])
    chosen: list[str] = []
    for name in progress(worst_first, "leaving layers in float", len(worst_first)):
        chosen.append(name)
        loss = losses.quantised("inputs", kept | set(chosen))
        if loss <= limit:
            break
    for name in progress(list(reversed(chosen)), "putting layers back", len(chosen)):
        fewer = [other for other in chosen if other != name]
        without = losses.quantised("inputs", kept | set(fewer))
        if without <= limit:
            chosen, loss = fewer, without
    return chosen_ones(kept | set(chosen), loss)
