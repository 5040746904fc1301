"""The code in README and docs: fenced blocks, indented ones, and the shell's lines in them as lists of words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from edgeface.cli import main

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)((?:    [^\n]*\n|\n)+)")
_INLINE = re.compile(r"`(edgeface [a-z][^`]*)`")
SHELL = ("", "bash", "sh", "console")


@dataclass(frozen=True)
class Block:
    """One block: where, its language, and its text."""

    page: Path
    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, then those that are indented by four."""
    text = page.read_text()
    for _, language, body in _FENCE.findall(text):
        yield Block(page, language, body)
    for body in _INDENTED.findall(_FENCE.sub("", text)):
        yield Block(page, "", "".join(line[4:] + "\n" for line in body.splitlines()))


def shell_lines(text: str) -> Iterator[list[str]]:
    """Each command of a shell's lines as words: without comments and [--options], pieces of pipes and lists apart."""
    for line in re.sub(r"\[--[^]\n]*\]", "", text.replace("\\\n", " ")).splitlines():
        try:
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
            lexer.whitespace_split, lexer.commenters = True, "#"
            words = list(lexer)
        except ValueError:
            continue          # a figure or a table, no command
        command: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= set("|&;") and word:
                if command:
                    yield command
                command = []
            else:
                command.append(word)


def edgeface_arguments(words: list[str]) -> list[str] | None:
    """What follows ``edgeface`` where the words call it, by sudo, after a variable or in Docker as well; else None."""
    rest = list(words)
    if rest[:2] == ["docker", "run"] and "edgeface" in rest:      # the image's name, and its entry point
        return rest[rest.index("edgeface") + 1 :]
    while rest and (rest[0] == "sudo" or re.fullmatch(r"[A-Z_]+=.*", rest[0])):
        rest = rest[1:]
    if rest and (Path(rest[0]).name == "edgeface" or rest[0] == "$(command -v edgeface)"):
        return rest[1:]
    return rest[3:] if rest[1:3] == ["-m", "edgeface"] else None


def inline_commands(page: Path) -> Iterator[str]:
    """Commands named in running text, often in part: `edgeface models combine --by-reference`."""
    yield from (" ".join(found.split()) for found in _INLINE.findall(_FENCE.sub("", page.read_text())))


def resolved(arguments: list[str]) -> tuple[click.Command, click.Context, list[str]]:
    """The command that words name, and the words left for it."""
    command: click.Command = main
    context = click.Context(main, info_name="edgeface")
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        below = command.get_command(context, arguments[0])
        assert below is not None, f"no command {arguments[0]!r}"
        context = click.Context(below, context, info_name=arguments[0], **below.context_settings)
        command, arguments = below, arguments[1:]
    return command, context, arguments


def check_command(arguments: list[str], *, whole: bool) -> None:
    """Whether a command line could be: command, options, their choices and, where it is ``whole``, its arguments."""
    command, context, words = resolved(arguments)
    try:
        values, left, _ = command.make_parser(context).parse_args([word for word in words if word != "..."])
    except click.BadOptionUsage:
        if whole:
            raise
        return                            # named without its value
    assert not left, f"{left} is too much"
    if "arguments" in values:              # of a service: its camera's
        check_command(["camera", *values["arguments"]], whole=whole)
    for option in command.params:
        given = values.get(option.name or "")
        given = None if repr(given).startswith("Sentinel") else given
        if whole and option.required:
            assert given, f"{option.name} is missing"
        if isinstance(option.type, (click.Choice, click.IntRange, click.FloatRange)) and given is not None:
            for each in given if isinstance(given, (list, tuple)) else [given]:
                option.type.convert(each, option, context)
