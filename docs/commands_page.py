"""A hook of mkdocs: what each command's --help says, where a page asks for it by ``[commands]``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from edgeface.cli import main

PLACE = "[commands]"


def helps(command: click.Command, above: click.Context | None, name: str) -> Iterator[tuple[str, str]]:
    """The whole name of a command, and of each below it, with its help."""
    context = click.Context(command, above, info_name=name, terminal_width=100, max_content_width=100)
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            below = command.get_command(context, each)
            if below is not None:
                yield from helps(below, context, each)


def on_page_markdown(markdown: str, **_of_mkdocs: Any) -> str:
    """The page with the commands in their place."""
    if PLACE not in markdown:
        return markdown
    return markdown.replace(
        PLACE, "\n".join(f"## {name}\n\n```text\n{said}\n```\n" for name, said in helps(main, None, "edgeface"))
    )
