"""The command line. A command's file is imported when the command is used, so that help loads no numpy."""

from __future__ import annotations

import errno
import importlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import click

from edgeface.addresses import redacted_text
from edgeface.atomic import refused
from edgeface.cli.verbosity import add_to, logged, options
from edgeface.cli.writing import complain, open_standard_streams, printable, say_lines
from edgeface.errors import EdgefaceError, InputError, OptionError, UnverifiedBundleWarning
from edgeface.registry import unknown_name

INTERRUPTED = 130
# What the system answers to a path at any place, and what to do then.
_REFUSALS = {
    errno.EACCES: "ask for the right to it, or give another path", errno.ELOOP: "its links lead in a circle",
    errno.EPERM: "ask for the right to it, or give another path", errno.ENAMETOOLONG: "give a shorter one",
    errno.EMFILE: "allow more open files (ulimit -n)", errno.ENFILE: "close other programs",
    errno.EIO: "see whether the disk is sound", errno.ESTALE: "mount its folder again",
}
_NUMBERS = re.compile(
    r"OPENCV_(?:IO_MAX_IMAGE_\w+|VIDEOIO_PRIORITY_\w+|FFMPEG_READ_ATTEMPTS|THREAD_POOL_ACTIVE_WAIT_\w+)"
)
_NUMBER = re.compile(r"\d{1,18}(?:[KM][Bb])?", re.ASCII)


class _Lazy(NamedTuple):
    home: str
    help: str


COMMANDS = {
    "detect": _Lazy("edgeface.cli.detect:command", "Find faces in pictures and videos."),
    "camera": _Lazy("edgeface.cli.camera:command", "Find faces in what a camera sees."),
    "events": _Lazy("edgeface.cli.events:command", "List, export and delete what a camera kept."),
    "service": _Lazy("edgeface.cli.service:command", "Run the camera as a service of systemd."),
    "ros": _Lazy("edgeface.cli.ros:command", "Find faces in the pictures of a ROS 2 topic."),
    "demo": _Lazy("edgeface.cli.demo:command", "Find the face in a photograph that is at hand."),
    "models": _Lazy("edgeface.cli.models:command", "List, describe and verify models."),
    "data": _Lazy("edgeface.cli.data:command", "Import, check and label pictures of your own."),
    "train": _Lazy("edgeface.cli.train:command", "Train a model."),
    "compare": _Lazy("edgeface.cli.compare:command", "Show two models side by side on the same pictures."),
    "evaluate": _Lazy("edgeface.cli.evaluate:command", "Measure a model on annotated pictures."),
    "quantize": _Lazy("edgeface.cli.quantize:command", "Make an int8 checkpoint from a float one."),
    "convert": _Lazy("edgeface.cli.convert:command", "Convert a checkpoint to a bundle, and compare the two."),
    "import": _Lazy("edgeface.cli.importing:command", "Make a bundle of a detector that you have as ONNX."),
    "parity": _Lazy("edgeface.cli.parity:command", "Compare a bundle with a checkpoint."),
    "bench": _Lazy("edgeface.cli.bench:command", "Time bundles side by side."),
    "deploy": _Lazy("edgeface.cli.deploy:command", "Copy a bundle to a board, and compare what it finds there."),
    "devices": _Lazy("edgeface.cli.devices:command", "List, describe, set up and probe boards."),
    "doctor": _Lazy("edgeface.cli.doctor:command", "Say what is installed and what is wrong, for a bug report."),
}


class LazyGroup(click.Group):
    """Knows its commands by name and one line of help; imports the one that is asked for.

    An EdgefaceError becomes one line on standard error and its exit code, and so does what the system refuses: a path,
    memory. Any other exception is a mistake in edgeface and keeps its traceback.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].home.split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return add_to(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(unknown_name("command", args[0], COMMANDS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[click.shell_completion.CompletionItem]:
        # Not click's own for the commands: it would import every one of them at each press of the tab key.
        names = [
            click.shell_completion.CompletionItem(name, help=lazy.help)
            for name, lazy in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        open_standard_streams()
        with _one_line_for_an_error():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            _check_environment()
            with logged(ctx), _warnings_in_one_line():
                return super().invoke(ctx)
        except click.ClickException as error:
            # It repeats what was typed, and a log may hold what this says.
            error.message = printable(redacted_text(error.message))  # type: ignore[misc]  # final by its annotation alone
            raise
        except KeyboardInterrupt:
            complain("stopped")
            ctx.exit(INTERRUPTED)


@contextmanager
def _one_line_for_an_error() -> Iterator[None]:
    """End the process with the line and the exit code of what escapes, unless it is a mistake of edgeface's."""
    try:
        yield
    except EdgefaceError as error:
        complain(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        reason, exit_code = _reason(error)
        if reason is None:
            raise
        complain(reason)
        sys.exit(exit_code)
    except (ImportError, MemoryError) as error:
        if isinstance(error, ImportError) and "failed to map segment" not in str(error):
            raise
        complain("there is not enough memory: allow more (ulimit -v), or close other programs")
        sys.exit(InputError.exit_code)


def _check_environment() -> None:
    """OpenCV ends the process by a signal, as soon as it is imported, where one of these is no number."""
    for name, value in os.environ.items():
        if _NUMBERS.fullmatch(name) and not _NUMBER.fullmatch(value):
            raise OptionError(f"{name}={value}: OpenCV takes a number there: unset it, or give one")


def _reason(error: OSError) -> tuple[str | None, int]:
    """What to say of an error that is the system's and no mistake of edgeface's, None of any other; and the exit code.
    """
    if error.errno == errno.ENOSPC and error.filename is None:
        # Help, which click writes.
        lost = refused("standard output", error)
        return str(lost), lost.exit_code
    try:
        Path.cwd()
    except FileNotFoundError:
        return "the current folder was removed: change to another one", InputError.exit_code
    if error.errno not in _REFUSALS or not isinstance(error.filename, str | bytes):
        return None, 1
    name = os.fsdecode(error.filename)
    return f"{name}: {error.strerror}: {_REFUSALS[error.errno]}", InputError.exit_code


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """edgeface's own warnings in the form of its errors, each time; all others as Python shows them."""

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:
        if issubclass(category, UnverifiedBundleWarning):
            complain(f"warning: {message}")
        else:
            before(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UnverifiedBundleWarning)
        before = warnings.showwarning
        warnings.showwarning = show
        yield


def _version(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from edgeface.cli.installed import version_line

        say_lines(version_line())
        context.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="For completion by the tab key: eval \"$(_EDGEFACE_COMPLETE=bash_source edgeface)\" in bash; zsh and fish "
    "take zsh_source and fish_source.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version,
              help="Show the version, the engines and whether the C kernels are used, and exit.")
def main() -> None:
    """Light face models, from training to a cheap ARM board.

    Start with 'edgeface demo', or 'edgeface detect photo.jpg'.
    """


main.params += options()
