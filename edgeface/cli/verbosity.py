"""``-q``, ``-v`` and ``--log-level``, before a command's name and after it: edgeface's log on standard error."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import click

from edgeface.cli.writing import complain

LEVELS = ("debug", "info", "warning", "error")
_DEFAULT = logging.WARNING
_CHOSEN = "edgeface.log_level"      # in click's context, which all commands of a call share
_log = logging.getLogger("edgeface")


class _Lines(logging.Handler):
    """The log of edgeface in the form of the command line's errors."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(record.getMessage())


@contextmanager
def logged(context: click.Context) -> Iterator[None]:
    """The log on standard error from the level warning on, or the one that is chosen, as long as the block runs."""
    handler, before = _Lines(), _log.level
    _log.addHandler(handler)
    _log.setLevel(context.meta.get(_CHOSEN, _DEFAULT))
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(before)


@contextmanager
def told(context: click.Context, part: str) -> Iterator[None]:
    """In the block the log of that part of edgeface is shown from the level info on, where nobody chose another: for a
    command whose log is what it has to say."""
    log = logging.getLogger(part)
    before = log.level
    if _CHOSEN not in context.meta:
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(before)


def _choose(context: click.Context, level: int) -> None:
    if context.meta.setdefault(_CHOSEN, level) != level:
        raise click.UsageError("-q, -v and --log-level exclude each other: give one of them")
    if context.parent is not None:      # what stands before a command's name is chosen before 'logged'
        _log.setLevel(level)


def _quiet(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        _choose(context, logging.ERROR)


def _verbose(context: click.Context, _option: click.Parameter, value: int) -> None:
    if value:
        _choose(context, logging.INFO if value == 1 else logging.DEBUG)


def _level(context: click.Context, _option: click.Parameter, value: str | None) -> None:
    if value is not None:
        _choose(context, getattr(logging, value.upper()))


def add_to(command: click.Command) -> click.Command:
    """The command, which now takes the three options; of a group each of its commands does."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            add_to(inner)
    elif not any(option.name == "log_level" for option in command.params):
        command.params += options()
    return command


def options() -> list[click.Parameter]:
    """The three, made anew."""
    return [
        click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=_quiet, is_eager=True,
                     help="Errors and results alone: no notes, no progress."),
        click.Option(["-v", "--verbose"], count=True, expose_value=False, callback=_verbose, is_eager=True,
                     help="Say what is chosen, such as which model's files; -vv says more."),
        click.Option(["--log-level"], type=click.Choice(LEVELS, case_sensitive=False), expose_value=False,
                     callback=_level, is_eager=True, metavar="LEVEL",
                     help=f"The same in words: {', '.join(LEVELS)}."),
    ]
