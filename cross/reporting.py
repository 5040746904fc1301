"""How the scripts of this folder speak: as the command line of edgeface does."""

from __future__ import annotations

from typing import Any

import click

from edgeface.errors import EdgefaceError


class Script(click.Command):
    """A command whose deliberate errors are one line on standard error and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgefaceError as error:
            click.echo(f"edgeface: {error}", err=True)
            ctx.exit(error.exit_code)


def progress(line: str) -> None:
    """A line of progress, on standard error: results alone are on standard output."""
    click.echo(f"  {line}", err=True)
