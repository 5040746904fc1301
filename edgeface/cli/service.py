"""``edgeface service``: ``edgeface camera`` as a service of systemd."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path

import click
from click.core import ParameterSource

from edgeface.addresses import has_secret
from edgeface.atomic import write_bytes
from edgeface.cli.camera import command as camera
from edgeface.cli.writing import print_json, say, say_lines
from edgeface.errors import OptionError, OutputError
from edgeface.stream.service import Service, require_rights
from edgeface.stream.service_manager import SUDO, ServiceManager
from edgeface.wording import counted

DEFAULT_NAME = "edgeface-camera"
# What systemctl status exits with where a service does not run.
_NOT_RUNNING = 3

_NAME = click.option("--name", default=DEFAULT_NAME, show_default=True, help="The service's name.")
_OWN = click.option("--user", "own", is_flag=True, help="Of your own systemd (systemctl --user), without root.")


@click.group(short_help="Run the camera as a service of systemd.")
def command() -> None:
    """Run 'edgeface camera' as a service of systemd: from the start of the machine on, watched and restarted."""


@command.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@_NAME
@_OWN
@click.option("--run-as", metavar="USER", help="Whose rights the service has.  [default: who called sudo, or you]")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Where it runs, and all that it may write to.  [default: this one]")
@click.option("--replace", is_flag=True, help="Where a service of that name is there: with these options instead.")
@click.option("--print", "only_print", is_flag=True, help="Print the unit and install nothing.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF CAMERA]...")
def install(
    name: str, own: bool, run_as: str | None, folder: Path | None, replace: bool, only_print: bool,
    arguments: tuple[str, ...],
) -> None:
    """Write a unit that runs 'edgeface camera' with the options given, such as --source 0 --show.

    The options are checked first, in the service's folder, as the service will check them at every start. The service
    is not started: the command that does is printed.
    """
    if own and run_as is not None:
        raise OptionError("--user and --run-as exclude each other: a service of your own has your rights")
    units = ServiceManager(own=own)
    path = units.unit(name)
    if path.exists() and not only_print:
        if not replace:
            raise OptionError(
                f"{path}: is there already: --replace puts this one in its place, 'edgeface service uninstall' removes "
                "it, and --name makes a second one"
            )
        units.installed(name)
    where = (folder or Path.cwd()).absolute()
    user = None if own else run_as or os.environ.get("SUDO_USER") or _user_here()
    with _in(where):
        arguments = _with_source(arguments)
    service = Service(name, [sys.executable, "-m", "edgeface"], arguments, where, user)
    _check(arguments, service)
    if only_print:
        say_lines(service.unit().rstrip("\n"))
        return
    if own:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: no permission: {SUDO} service install ..., or --user for a service of your own")
    require_rights(service)
    write_bytes(path, service.unit().encode())
    path.chmod(0o644)
    manager = "systemctl --user" if own else "sudo systemctl"
    say(f"{path}: written. Start it now and with the machine:")
    start = f"restart {name}" if replace else f"enable --now {name}"
    say(f"  {manager} daemon-reload && {manager} {start}")
    options = f"{' --user' if own else ''}{'' if name == DEFAULT_NAME else f' --name {name}'}"
    say(f"How it does: edgeface service status{options}, and logs. Secrets go into {service.secrets}, mode 0600.")


def _user_here() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):     # the latter since Python 3.13
        raise OptionError(f"the user {os.getuid()} has no name here: give --run-as USER") from None


@command.command()
@_NAME
@_OWN
def uninstall(name: str, own: bool) -> None:
    """Stop the service and remove its unit. Its folder and its file of secrets stay."""
    say(f"{ServiceManager(own=own).uninstall(name)}: stopped and removed")


@command.command()
@_NAME
@_OWN
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def status(context: click.Context, name: str, own: bool, as_json: bool) -> None:
    """Say whether the service runs, and what it last said of its camera. The exit code is 3 where it does not run."""
    state = ServiceManager(own=own).state(name)
    is_running = state.active == "active"
    if as_json:
        print_json(asdict(state) | {"unit": str(state.unit), "pid": state.pid or None})
    else:
        since = f" since {state.since}" if is_running and state.since else ""
        say(f"{name}: {state.active} ({state.detail}){since}")
        if state.says:
            say(f"camera    {state.says}")
        if state.pid:
            say(f"process   {state.pid}, restarted {counted(state.restarts, 'time')}")
        if state.result not in ("", "success"):
            say(f"last run  {state.result}: edgeface service logs{' --user' if own else ''} --name {name}")
        say(f"at start  {'starts with the machine' if state.starts_with_machine else 'does not start by itself'}")
        say(f"unit      {state.unit}")
    context.exit(0 if is_running else _NOT_RUNNING)


@command.command()
@_NAME
@_OWN
@click.option("--lines", type=click.IntRange(min=0), default=50, show_default=True, help="How many of the newest.")
@click.option("-f", "--follow", is_flag=True, help="Go on as more come, until Ctrl-C.")
@click.pass_context
def logs(context: click.Context, name: str, own: bool, lines: int, follow: bool) -> None:
    """Show what the service has logged."""
    context.exit(ServiceManager(own=own).logs(name, lines=lines, follow=follow))


def _with_source(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """With the source that 'edgeface camera' would choose here where none is named: a service must not take another
    camera, or fail, because one was not plugged in when the machine started. Raises what ``first_camera`` raises."""
    from edgeface.stream.first_camera import first_camera

    with camera.make_context("edgeface camera", list(arguments)) as context:
        if context.params["source_argument"] or context.params["source"]:
            return arguments
    return (*arguments, "--source", first_camera())


def _check(arguments: tuple[str, ...], service: Service) -> None:
    """Have ``edgeface camera --check`` look at the options; raises what it raises, and OptionError for secrets, which
    everybody on the machine can read in a unit."""
    with _in(service.folder):
        context = camera.make_context("edgeface camera", [*arguments, "--check"])
        # Standard output is the unit's, where that is printed.
        with context, redirect_stdout(sys.stderr):
            camera.invoke(context)
    if context.get_parameter_source("token") is ParameterSource.COMMANDLINE:
        raise OptionError(f"everybody here can read a unit: put EDGEFACE_TOKEN=... into {service.secrets}, not --token")

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
