"""What the activation costs in an ncnn net in int8: ReLU and leaky ReLU inside the convolutions, PReLU beside them.

    python benchmarks/prelu_int8.py edgeface/weights/tcnn-int8-ncnn variants     # ms a face here, interleaved
    edgeface bench variants/* --device rk3399 --layers 0                          # the same nets, estimated

The first argument is a bundle of T-CNN in int8, with ReLU. Its variants, whose outputs mean nothing, go to the folder
of the second: the convolutions stay as they are, and only what follows them differs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import click
import numpy as np
from edgeface.convert.ncnn_model import read
from msgspec.structs import replace as with_fields

from edgeface.bundle import FaceStage, describe_file, read_bundle, write_manifest, writing
from edgeface.runtime.engines import Options, engine
from edgeface.runtime.engines.ncnn_files import Layer
from edgeface.runtime.engines.ncnn_layers import ModelLayer, to_bin, to_param
from edgeface.runtime.stages.kinds import kind_of

SLOPE = 0.25
_ACTIVATION, _SLOPES = 9, -23310        # a convolution's param keys
_RELU, _LEAKY = "1", "2"
_WARM_UP = 5

Model = Sequence[ModelLayer]


def leaky(model: Model) -> list[ModelLayer]:
    """Leaky ReLU in the place of each ReLU inside a convolution."""
    changed = {_ACTIVATION: _LEAKY, _SLOPES: f"1,{SLOPE:e}"}
    return [_with_params(layer, changed) if _has_relu(layer) else layer for layer in model]


def prelu(model: Model) -> list[ModelLayer]:
    """A PReLU layer behind each convolution that had a ReLU."""
    return [new for layer in model for new in (_and_prelu(_plain(layer), layer) if _has_relu(layer) else [layer])]


def prelu_pooled(model: Model) -> list[ModelLayer]:
    """As ``prelu``, behind the pooling where there is one, which is the same for slopes that are not negative."""
    return list(_pooled_first(model))


def _pooled_first(model: Model) -> Iterator[ModelLayer]:
    waiting: ModelLayer | None = None
    for layer, following in pairwise([*model, None]):
        assert layer is not None
        if waiting is not None:
            yield from _and_prelu(layer, waiting)
            waiting = None
        elif not _has_relu(layer):
            yield layer
        elif following is not None and following.line.kind == "Pooling":
            waiting = layer
            yield _plain(layer)
        else:
            yield from _and_prelu(_plain(layer), layer)


def _and_prelu(layer: ModelLayer, of: ModelLayer) -> list[ModelLayer]:
    """``layer`` and a PReLU of as many channels as ``of`` has, which gives what the layer's blob was."""
    (blob,) = layer.line.produces
    inner, count = f"{blob}_linear", of.line.outputs
    line = Layer("PReLU", f"{of.name}_prelu", [inner], [blob], {0: str(count)})
    slopes = np.full(count, SLOPE, np.float32)
    return [replace(layer, line=replace(layer.line, produces=[inner])), ModelLayer(line, values=slopes)]


def _has_relu(layer: ModelLayer) -> bool:
    return layer.line.kind == "Convolution" and layer.line.params.get(_ACTIVATION) == _RELU


def _plain(layer: ModelLayer) -> ModelLayer:
    params = {key: value for key, value in layer.line.params.items() if key != _ACTIVATION}
    return replace(layer, line=replace(layer.line, params=params))


def _with_params(layer: ModelLayer, params: dict[int, str]) -> ModelLayer:
    return replace(layer, line=replace(layer.line, params={**layer.line.params, **params}))


VARIANTS: dict[str, Callable[[Model], Model]] = {
    "relu": lambda model: model, "leaky": leaky, "prelu": prelu, "prelu-pooled": prelu_pooled,
}


def write_variants(source: Path, folder: Path) -> dict[str, Path]:
    """Each variant of the bundle ``source`` as a bundle in ``folder``, by name."""
    bundle = read_bundle(source)
    (stage,) = bundle.face_stages
    ((param, weights),) = stage.files
    model = read((source / param).read_text("ascii"), (source / weights).read_bytes())
    for name, change in VARIANTS.items():
        changed = change(model)
        with writing(folder / name) as work:
            (work / param).write_text(to_param([layer.line for layer in changed]))
            (work / weights).write_bytes(to_bin(changed))
            files = [describe_file(work / file) for file in stage.files[0]]
            write_manifest(work, with_fields(bundle, name=name, files=files, verified=False))
    return {name: folder / name for name in VARIANTS}


def timed(folders: dict[str, Path], stage: FaceStage, crops: int, rounds: int) -> dict[str, list[float]]:
    """ms a face of every round, each of which runs all in an order of its own, on one thread."""
    nets = {
        name: engine.get("ncnn")(path, stage.files[0], stage.input, Options(1, "int8"))
        for name, path in folders.items()
    }
    side = kind_of(stage).crop_px(stage) or 0
    shape = (3, side * crops, side)
    x = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    rng, order = random.Random(0), list(nets)
    samples: dict[str, list[float]] = {name: [] for name in nets}
    for number in range(-_WARM_UP, rounds):
        rng.shuffle(order)
        for name in order:
            start = perf_counter()
            run = nets[name].run(x)
            for output in stage.output_names:
                run.raw(output)
            if number >= 0:
                samples[name].append((perf_counter() - start) * 1e3 / crops)
    return samples


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--rounds", default=300, show_default=True, type=click.IntRange(1))
def main(bundle: Path, folder: Path, rounds: int) -> None:
    """Write the variants of BUNDLE to FOLDER, time them, and print the table."""
    folders = write_variants(bundle, folder)
    (stage,) = read_bundle(bundle).face_stages
    click.echo(f"{'ms a face':<16}{'faces':>6} {'p10':>8} {'p50':>8} {'p90':>8}")
    for crops in (1, 16):
        for name, samples in timed(folders, stage, crops, rounds).items():
            figures = " ".join(f"{value:8.3f}" for value in np.percentile(samples, (10, 50, 90)))
            click.echo(f"{name:<16}{crops:>6} {figures}")


if __name__ == "__main__":
    main()
