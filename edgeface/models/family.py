"""What training, converters, quantisation and the engine torch ask of a model: one ``Family`` each, in one registry.

A family is found by the name that a checkpoint gives its model, or by the network itself, so that nothing in those
parts knows a network by its class.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgeface.bundle import Defaults, Stage
from edgeface.errors import ConversionError, OptionError, UnknownModelError
from edgeface.int8.modules import layer_scales
from edgeface.int8.scales import LayerScales
from edgeface.registry import Registry, nearest

# What a network is given once, by the part that it is given to: float32 (N, C, H, W) each.
Inputs = Mapping[str, Tensor]
Files = Callable[[str], Sequence[str]]


@dataclass(frozen=True)
class Graph:
    """One network of a bundle: ``module`` takes one float32 (1, C, H, W) and gives one tensor a name of ``outputs``.

    ``shapes`` are two inputs that differ in every free dimension, which is how a converter learns what is free;
    ``free`` names these by index. ``stem`` is the file name without its extension. ``scales`` are those of the layers
    that run in int8: ``module`` computes as they do then, and is a float network where there are none.
    """

    stem: str
    module: nn.Module
    input: str
    outputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    free: dict[int, str]
    scales: tuple[LayerScales, ...] = ()


# Gives a network the weights of one that was trained for something else: from its state dict, and the name to call its
# file by. Raises CheckpointError.
Start = Callable[[nn.Module, Mapping[str, object], str], None]


@dataclass(frozen=True)
class Family(ABC):
    """One model.

    ``build`` makes the network from the options that a configuration and a checkpoint hold. ``starts`` gives a new one
    the weights of a published state dict that is no checkpoint; None where there is no such way. Of the class:
    ``nets`` are those of its trained and of its deployed network; ``trainer`` is the name of who trains it, in
    training/trainers.py; ``is_dense``: whether its first stage is trained on whole pictures; ``looked_at``: how many of
    the stages that training is looked at by, None for all; training canvases are multiples of ``canvas_multiple``;
    ``channel_multiple`` is what a new quantised network's layout is filled up to. A family that stays in float
    overrides nothing of int8.
    """

    build: Callable[..., nn.Module]
    starts: Start | None = None

    nets: ClassVar[tuple[type[nn.Module], ...]]
    defaults: ClassVar[Defaults]
    trainer: ClassVar[str] = "detector"
    is_dense: ClassVar[bool] = True
    looked_at: ClassVar[int | None] = None
    canvas_multiple: ClassVar[int] = 64
    channel_multiple: ClassVar[int] = 1

    def network(self, options: Mapping[str, Any]) -> nn.Module:
        """The network by ``options``, as a configuration has them. Raises OptionError for one that ``build`` does not
        know, and whatever ``build`` raises for a value."""
        known = list(inspect.signature(self.build).parameters)
        for name in options:
            if name not in known:
                near = nearest(name, known)
                hint = f" Did you mean {near!r}?" if near else ""
                raise OptionError(f"[options] has no key {name!r}.{hint} Its keys are {', '.join(known) or 'none'}")
        return self.build(**options)

    @abstractmethod
    def graphs(self, net: nn.Module) -> list[Graph]:
        """Every network of the bundle. One that is not yet deployed is made so first, in float, with copies of its
        weights; a deployed one is taken as it is, in its mode."""

    @abstractmethod
    def stages(self, files: Files, options: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[Stage]:
        """What bundle.json says of the graphs; ``files`` gives the engine's file names for a graph's stem.

        ``options`` are the builder's. ``thresholds`` are probabilities, by stem or by attribute, that take the place of
        the family's own; a checkpoint keeps them among its metrics as "thresholds".
        """

    def options_of(self, net: nn.Module) -> Mapping[str, Any]:
        """What ``stages`` needs of the builder's options to say what ``net`` gives on whole pictures."""
        return {}

    def deployed(self, net: nn.Module, channel_multiple: int) -> nn.Module:
        """The trained network as engines run it, in float, with copies of the weights, ready to be quantised.

        Raises ConversionError for a network that has no such form.
        """
        raise ConversionError(f"{type(net).__name__} cannot be quantised: {_quantisable()}")

    def run(self, net: nn.Module, inputs: Inputs) -> None:
        """The whole network once: every layer that is in a graph, and every point, sees something."""
        raise ConversionError(f"{type(net).__name__} cannot be quantised: {_quantisable()}")

    def example(self) -> Inputs:
        """Small inputs of zeros, on which every layer runs."""
        raise ConversionError(f"a {type(self).__name__} has no int8 form: {_quantisable()}")


families: Registry[Family] = Registry("model", UnknownModelError)


def family_of(net: nn.Module) -> Family:
    """The first family whose network it is; raises ConversionError where there is none."""
    for name in families.names():
        if isinstance(net, families.get(name).nets):
            return families.get(name)
    raise ConversionError(f"{type(net).__name__} has no export graphs: convert one of {', '.join(families.names())}")


def scales_of(net: nn.Module, module: nn.Module, shape: tuple[int, ...]) -> tuple[LayerScales, ...]:
    """The scales of the int8 layers that ``module``, a graph of the deployed ``net``, runs on an input of ``shape``,
    under their names in ``net``; none in float."""
    data: Any = net.data
    if data.mode == "float":
        return ()
    return tuple(layer_scales(net, lambda: module(torch.zeros(shape))))


def graphs(net: nn.Module) -> list[Graph]:
    """``Family.graphs`` of whatever family the network is; raises ConversionError."""
    return family_of(net).graphs(net)


def require_quantisable(name: str) -> None:
    """Raises ConversionError for a model whose family stays in float, and UnknownModelError for one of no family."""
    if type(families.get(name)).deployed is Family.deployed:
        raise ConversionError(f"{name} cannot be quantised: {_quantisable()}")


def thresholds_of(metrics: Mapping[str, Any]) -> Mapping[str, float]:
    """The thresholds that a checkpoint's metrics hold; none where they hold none."""
    found: Mapping[str, float] = metrics.get("thresholds", {})
    return found


def _quantisable() -> str:
    able = [name for name in families.names() if type(families.get(name)).deployed is not Family.deployed]
    return f"use one of {', '.join(able)}"
