"""The options of a detector, which the commands that find faces share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any

import click

from edgeface.cli.cascade import cascade_options
from edgeface.runtime import catalog
from edgeface.runtime.detector_options import DetectorOptions
from edgeface.weights import DEFAULT_MODEL, DEFAULTS, SHIPPED

MODEL_HELP = (
    "A bundle's folder or a checkpoint here, or the name of a model that comes with edgeface ('edgeface models list')."
)
LEAST_SCORE = "The least score of a face."

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def complete_model(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[click.shell_completion.CompletionItem]:
    """The models that come along, and files."""
    names = sorted({*DEFAULTS, *(entry.name for entry in (*catalog.shipped(), *catalog.deployed()))})
    paths = click.shell_completion.CompletionItem(incomplete, type="file")
    return [*(click.shell_completion.CompletionItem(n) for n in names if n.startswith(incomplete)), paths]


def detector_options(score_help: str = LEAST_SCORE) -> Decorator:
    """A decorator that gives a command all options of a detector, as one argument ``detector``: DetectorOptions."""
    options: tuple[Decorator, ...] = (
        click.option("--model", default=DEFAULT_MODEL, show_default=DEFAULT_MODEL.removeprefix(SHIPPED),
                     shell_complete=complete_model, help=MODEL_HELP),
        click.option("--size", type=click.IntRange(min=1), metavar="PIXELS",
                     help="The longest side that the network sees a picture at; smaller is faster and misses small "
                     "faces."),
        click.option("--score", type=click.FloatRange(0, 1), help=score_help),
        click.option("--nms", type=click.FloatRange(0, 1), help="The largest overlap (IoU) of two faces."),
        click.option("--threads", type=click.IntRange(min=1),
                     help="Threads of the network.  [default: all processors but one, at most 4, fewer beside other "
                     "work]"),
        click.option("--engine", help="The inference engine.  [default: the bundle's]"),
        click.option("--precision", type=click.Choice(("fp32", "fp16", "int8")),
                     help="Of a model's bundles the one to take.  [default: what serves this machine best]"),
        cascade_options,
    )  # fmt: skip

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def together(*arguments: Any, **given: Any) -> Any:
            chosen = {field.name: given.pop(field.name) for field in fields(DetectorOptions)}
            return command(*arguments, detector=DetectorOptions(**chosen), **given)

        decorated: Callable[..., Any] = together
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate
