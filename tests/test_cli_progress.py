"""The bar of long work: on a terminal only, and never on standard output."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

CODE = """
import sys
import click
from edgeface.cli.progress import progress
for i in progress(range(3), "counting", 3):
    click.echo(f"result {i}")
    click.echo(f"complaint {i}", err=True)
assert ("tqdm" in sys.modules) == sys.stderr.isatty()
"""


def test_silent_in_a_pipe() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout == "result 0\nresult 1\nresult 2\n"
    assert done.stderr == "complaint 0\ncomplaint 1\ncomplaint 2\n"


def test_a_bar_on_a_terminal() -> None:
    keyboard, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", CODE],
            stdout=subprocess.PIPE, stderr=terminal, env=os.environ | {"TERM": "xterm", "COLUMNS": "80"}, check=True,
        )
        shown = os.read(keyboard, 1 << 16).decode()
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert done.stdout == b"result 0\nresult 1\nresult 2\n"
    assert "counting" in shown
    assert "/3 [" in shown
    assert all(f"complaint {i}" in shown for i in range(3))
