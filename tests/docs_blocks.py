"""The code in README and docs: fenced blocks, indented ones, and the shell's lines in them as lists of words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
    """What follows ``edgeface`` where the words call it, by sudo or with a variable before it as well; else None."""
    rest = list(words)
    while rest and (rest[0] == "sudo" or re.fullmatch(r"[A-Z_]+=.*", rest[0])):
        rest = rest[1:]
    if rest and (Path(rest[0]).name == "edgeface" or rest[0] == "$(command -v edgeface)"):
        return rest[1:]
    return rest[3:] if rest[1:3] == ["-m", "edgeface"] else None


def inline_commands(page: Path) -> Iterator[str]:
    """Commands named in running text, often in part: `edgeface models combine --by-reference`."""
    yield from (" ".join(found.split()) for found in _INLINE.findall(_FENCE.sub("", page.read_text())))
