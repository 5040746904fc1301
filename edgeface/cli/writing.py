"""Everything that the command line writes to a terminal: clean of what a terminal would obey.

File names, bundles, checkpoints, boards and cameras say what they like; here it becomes text that can do nothing but be
read. No other file of the command line writes (a test holds that), except for help, which holds only our own words.
"""

from __future__ import annotations

import errno
import os
import sys

import click
import msgspec

from edgeface.atomic import refused
from edgeface.errors import OutputError

_STANDARD = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


class ResultsLostError(OutputError):
    """The JSON lines or the summary can no longer be written, so that going on would be of no use."""


def open_standard_streams() -> None:
    """Give /dev/null to those standard streams that are closed, before their numbers go to sockets and files."""
    for number, (name, mode) in enumerate(_STANDARD):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def text_of(name: str) -> str:
    """A file name as valid Unicode: Linux allows any bytes in one, JSON does not."""
    return os.fsencode(name).decode("utf-8", "replace")


def printable(text: str) -> str:
    """The lines of a text with ``?`` for all that is not printed: control characters, and marks that turn the direction
    of writing."""
    return "\n".join("".join(c if c.isprintable() else "?" for c in _valid(line)) for line in text.split("\n"))


def say(text: str) -> None:
    """One line on standard output, at once.

    Raises ResultsLostError when it cannot be written; a closed pipe stays a BrokenPipeError.
    """
    write_line(_one_line(text).encode())


def say_lines(text: str) -> None:
    """As ``say``, a text of several lines, such as a table."""
    write_line(printable(text).encode())


def complain(text: str) -> None:
    """One line on standard error, in the form of every error of the command line."""
    click.echo(f"edgeface: {_one_line(text)}", err=True)


def note(text: str = "", *, over: bool = False) -> None:
    """Lines on standard error for whoever watches; ``over``: in the place of the line that was there."""
    click.echo(f"\r\x1b[K{_one_line(text)}" if over else printable(text), err=True, nl=not over)


def print_json(document: object) -> None:
    """One JSON document on standard output, indented for people to read as well."""
    write_line(msgspec.json.format(msgspec.json.encode(document), indent=2))


def write_line(line: bytes) -> None:
    """Bytes of UTF-8 on standard output with a line's end, JSON among them: in its texts what is not printed becomes an
    escape of JSON's, which means the same. Raises as ``say``."""
    if not line.isascii() or b"\x7f" in line:       # delete is ASCII's one such character that JSON lets stand
        line = "".join(c if c.isprintable() or c == "\n" else _escape(c) for c in line.decode()).encode()
    try:
        click.echo(line)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        # What is still in the buffer would fail once more when Python ends, with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ResultsLostError(str(refused("standard output", error))) from None


def _one_line(text: str) -> str:
    return printable(text).replace("\n", "?")


def _valid(text: str) -> str:
    try:
        return text_of(text)
    except UnicodeEncodeError:      # a lone surrogate that stands for no byte
        return text.encode("utf-8", "replace").decode()


def _escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))
