"""What comes from outside reaches a terminal as text that can do nothing but be read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from edgeface.cli import main
from edgeface.cli.writing import complain, note, print_json, printable, say, say_lines, write_line

CLI = Path(__file__).parents[1] / "edgeface" / "cli"
EVIL = "a\x1b[31mb\x07c\x9b2Jd\u202ee\rf\x7f\u200bg\x00h"


@pytest.mark.parametrize("write", [say, say_lines, complain, note, lambda text: note(text, over=True)])
def test_no_writer_lets_a_control_character_through(write: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(write)
    write(EVIL)
    out, err = capsys.readouterr()
    # Of ``over``, our own.
    said = (out + err).removeprefix("\r").removeprefix("\x1b[K").removeprefix("edgeface: ").rstrip("\n")
    assert said == "a?[31mb?c?2Jd?e?f??g?h"


@given(st.text())
def test_whatever_the_text(text: str) -> None:
    cleaned = printable(text)
    assert all(c.isprintable() or c == "\n" for c in cleaned)
    assert printable(cleaned) == cleaned
    assert cleaned.count("\n") == text.count("\n")


@example({"\x7f": "\x7f"})
@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"))))
def test_json_means_the_same_and_a_terminal_obeys_nothing_in_it(document: dict[str, str]) -> None:
    written: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(click, "echo", written.append)
        print_json(document)
        write_line(json.dumps(document, ensure_ascii=False).encode())
    for line in written:
        assert json.loads(line) == document
        assert all(c.isprintable() or c == "\n" for c in line.decode())


def test_no_other_file_of_the_command_line_writes() -> None:
    writes = re.compile(r"click\.s?echo\(|\bprint\(|sys\.std(out|err)\.(write|buffer)")
    found = [path.name for path in CLI.glob("*.py") if path.name != "writing.py" and writes.search(path.read_text())]
    assert found == []


def test_names_in_errors_are_clean(tmp_path: Path) -> None:
    run = CliRunner().invoke
    folder = tmp_path / "b\x1b[2Jundle"
    folder.mkdir()
    (folder / "bundle.json").write_text('{"schema": 1, "name": "x\\u001b[31my"}')
    for words in (
        ["detect", "none\x1b[31m.jpg"], ["models", "info", str(folder)], ["detect", "x.jpg", "--no\x1b[31m"],
        ["camera", "demo\x1b[0m"], ["\x1b[31m"], ["bench", str(folder)], ["detect", "a.jpg", "--size", "\x1b[31m"],
    ):
        done = run(main, words)
        assert done.exit_code != 0, words
        assert "\x1b" not in done.output, words
        assert "Traceback" not in done.output, words
