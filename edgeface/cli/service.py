"""``edgeface service``: ``edgeface camera`` as a service of systemd."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from edgeface.cli.writing import say, say_lines
from edgeface.errors import OptionError

if TYPE_CHECKING:
    from edgeface.stream.service import Service

DEFAULT_NAME = "edgeface-camera"


@click.group(short_help="Run the camera as a service of systemd.")
def command() -> None:
    """Run 'edgeface camera' as a service of systemd: from the start of the machine on, watched and restarted."""


@command.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--name", default=DEFAULT_NAME, show_default=True, help="The service's name.")
@click.option("--user", "own", is_flag=True, help="For your own systemd (systemctl --user), without root.")
@click.option("--run-as", metavar="USER", help="Whose rights the service has.  [default: who called sudo, or you]")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Where it runs, and all that it may write to.  [default: this one]")
@click.option("--print", "only_print", is_flag=True, help="Print the unit and install nothing.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF CAMERA]...")
def install(
    name: str, own: bool, run_as: str | None, folder: Path | None, only_print: bool, arguments: tuple[str, ...]
) -> None:
    """Write a unit that runs 'edgeface camera' with the options given, such as --source 0 --show.

    The options are checked first, in the service's folder, as the service will check them at every start. The service
    is not started: the command that does is printed.
    """
    from edgeface.atomic import write_bytes
    from edgeface.stream.service import SYSTEM_UNITS, Service

    if own and run_as is not None:
        raise OptionError("--user and --run-as exclude each other: a service of your own has your rights")
    where = (folder or Path.cwd()).absolute()
    user = None if own else run_as or os.environ.get("SUDO_USER") or getpass.getuser()
    with _in(where):
        arguments = _with_source(arguments)
    service = Service(name, [sys.executable, "-m", "edgeface"], arguments, where, user)
    _check(arguments, service)
    if only_print:
        say_lines(service.unit().rstrip("\n"))
        return
    units = _own_units() if own else SYSTEM_UNITS
    if own:
        units.mkdir(parents=True, exist_ok=True)
    path = units / f"{name}.service"
    write_bytes(path, service.unit().encode())
    path.chmod(0o644)
    manager = "systemctl --user" if own else "sudo systemctl"
    say(f"{path}: written. Start it now and with the machine:")
    say(f"  {manager} daemon-reload && {manager} enable --now {name}")
    say(f"Its log: journalctl {'--user ' if own else ''}-u {name} -f. Secrets go into {service.secrets}, mode 0600.")


def _with_source(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """With the source that 'edgeface camera' would choose here where none is named: a service must not take another
    camera, or fail, because one was not plugged in when the machine started. Raises what ``first_camera`` raises."""
    from edgeface.cli.camera import command as camera
    from edgeface.stream.first_camera import first_camera

    with camera.make_context("edgeface camera", list(arguments)) as context:
        if context.params["source_argument"] or context.params["source"]:
            return arguments
    return (*arguments, "--source", first_camera())


def _check(arguments: tuple[str, ...], service: Service) -> None:
    """Have ``edgeface camera --check`` look at the options; raises what it raises, and OptionError for secrets, which
    everybody on the machine can read in a unit."""
    from edgeface.cli.camera import command as camera

    with _in(service.folder):
        context = camera.make_context("edgeface camera", [*arguments, "--check"])
        # Standard output is the unit's, where that is printed.
        with context, redirect_stdout(sys.stderr):
            camera.invoke(context)
    if context.get_parameter_source("token") is ParameterSource.COMMANDLINE:
        raise OptionError(f"everybody here can read a unit: put EDGEFACE_TOKEN=... into {service.secrets}, not --token")
    from edgeface.addresses import has_secret

    if any(map(has_secret, arguments)):
        raise OptionError(
            "everybody here can read a unit: put the address with its password into a file for --config, mode 0600"
        )


@contextmanager
def _in(folder: Path) -> Iterator[None]:
    """In the block relative names are those of ``folder``, where the service will look for them. Raises OptionError."""
    before = Path.cwd()
    try:
        os.chdir(folder)
    except OSError as error:
        raise OptionError(f"{folder}: {error.strerror}: make it, the service writes there") from None
    try:
        yield
    finally:
        os.chdir(before)


def _own_units() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "systemd" / "user"
