"""The options of a cascade, which several commands share: a refinement, the smallest face, thresholds, candidates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from edgeface.errors import EdgefaceError
from edgeface.runtime import catalog

Command = TypeVar("Command", bound=Callable[..., Any])


def numbers(_context: click.Context, _option: click.Parameter, value: Any) -> tuple[float, ...] | None:
    """A text of numbers with commas between them, or a list of numbers from a file of settings."""
    if value is None:
        return None
    try:
        return tuple(float(part) for part in (value.split(",") if isinstance(value, str) else value))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not numbers with commas between them, as in 0.6,0.7") from None


def complete_refinement(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[click.shell_completion.CompletionItem]:
    """The refinements that come along, and files."""
    names = set()
    for entry in catalog.shipped():
        try:
            bundle = entry.read()
        except EdgefaceError:
            continue
        if bundle.is_refinement:
            names |= {bundle.model, entry.name}
    found = [click.shell_completion.CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
    return [*found, click.shell_completion.CompletionItem(incomplete, type="file")]


_OPTIONS = (
    click.option(
        "--refine", metavar="MODEL", shell_complete=complete_refinement,
        help="A refinement to look at every face once more, as tcnn: better boxes and landmarks, fewer false faces, "
        "and masks, sunglasses and quality.",
    ),
    click.option(
        "--min-face", type=click.FloatRange(1), metavar="PIXELS",
        help="Of a model with an image pyramid, as mtcnn: the smallest face to look for, at --size.",
    ),
    click.option(
        "--thresholds", type=click.UNPROCESSED, callback=numbers, metavar="A,B",
        help="Of a cascade: the probabilities that let a face through each stage before the last, whose is --score.",
    ),
    click.option(
        "--candidates", type=click.IntRange(min=1), metavar="N",
        help="The most faces that each stage after the first looks at, as in a cascade or maskface: the best ones; the "
        "others are given up.",
    ),
)


def cascade_options(command: Command) -> Command:
    """A decorator that gives a command ``refine``, ``min_face``, ``thresholds`` and ``candidates``, each None where it
    was not given, as ``edgeface.load`` takes them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
