"""``edgeface devices``: the boards that are described, how each is reached, and what it really has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edgeface.cli.progress import step
from edgeface.cli.writing import complain, print_json, say
from edgeface.devices import boards
from edgeface.devices.boards import ranges
from edgeface.devices.emulation.root import ensure_root
from edgeface.devices.links import open_link
from edgeface.devices.links.emulated import links_into
from edgeface.errors import EdgefaceError, OptionError

if TYPE_CHECKING:
    from edgeface.board_health import Health
    from edgeface.devices.boards import Board
    from edgeface.devices.cores import Cluster
    from edgeface.devices.installing import Installed
    from edgeface.devices.probe import Probe
    from edgeface.devices.protocol import Hello

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


def complete_device(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[click.shell_completion.CompletionItem]:
    """The names of boards that begin so."""
    return [click.shell_completion.CompletionItem(name) for name in boards.names() if name.startswith(incomplete)]


_NAME = click.argument("name", shell_complete=complete_device)


@click.group(short_help="List, describe, set up and probe boards.")
def command() -> None:
    """List, describe, set up and probe boards.

    A board is a TOML file: some come with edgeface, your own lie in ~/.config/edgeface/devices. One with an address is
    reached by ssh; the others are emulated.
    """


@command.command("list")
@_JSON
@click.pass_context
def list_(context: click.Context, as_json: bool) -> None:
    """List the boards, and how each would be reached."""
    found: list[Board] = []
    failures: list[EdgefaceError] = []
    for name in boards.names():
        try:
            found.append(boards.find(name))
        except EdgefaceError as error:
            failures.append(error)
    if as_json:
        print_json([{"name": b.name, "title": b.title, "link": b.link, "reached": reached(b)} for b in found])
    else:
        for line in _table([("NAME", "BOARD", "REACHED"), *((b.name, b.title, reached(b)) for b in found)]):
            say(line)
    for failure in failures:
        complain(str(failure))
    context.exit(failures[0].exit_code if failures else 0)


@command.command()
@_NAME
@_JSON
def info(name: str, as_json: bool) -> None:
    """Say what is described of a board; of this machine (host) also what is installed."""
    board = boards.find(name)
    worker = _this_machine() if board.local else None
    if as_json:
        print_json(
            msgspec.to_builtins(board) | {"reached": reached(board), "installed": msgspec.to_builtins(worker)}
        )
        return
    _say_all(_description(board))
    if worker is not None:
        _say_all(_software(worker))


@command.command()
@_NAME
@click.option("--wheel", type=click.Path(path_type=Path), metavar="FILE",
              help="edgeface's wheel for that board.  [default: built from the clone, or downloaded]")
@_JSON
def setup(name: str, wheel: Path | None, as_json: bool) -> None:
    """Make a board ready: install edgeface there, or make the root that it is emulated in.

    On a board with an address, edgeface is installed into ~/.local/share/edgeface/venv, or into the environment of the
    python that its description names. What is installed there works until the new one was started and did. An emulated
    root lies in ~/.cache/edgeface/devices; what was interrupted goes on, and what is whole is kept.
    """
    board = boards.find(name)
    if board.local:
        if wheel is not None:
            raise OptionError(f"{name} is this machine: install the wheel with pip, and leave --wheel out")
        say(f"{name} is this machine and needs no setup: 'edgeface devices info {name}' says what it has")
        return
    done = _install(board, wheel) if board.link == "ssh" else _emulate(board, wheel)
    if as_json:
        print_json(done)
        return
    for one in done:
        say(f"{one.device}: {one.where}: edgeface {one.worker.edgeface} works, by {one.python}")
    _say_all(_software(done[0].worker))


def _install(board: Board, wheel: Path | None) -> list[Installed]:
    from edgeface.devices.installing import install_on_board

    return [install_on_board(board, wheel=wheel, progress=step)]


def _emulate(board: Board, wheel: Path | None) -> list[Installed]:
    from edgeface.devices.client import Client
    from edgeface.devices.installing import Installed

    root = ensure_root(board, wheel=wheel, progress=step)
    done = []
    for link in links_into(root, board):
        step(f"trying {link.describe()}")
        with Client(link) as client:
            name = "" if wheel is None else wheel.name
            done.append(Installed(board.name, link.describe(), str(root.python), name, client.hello))
    return done


@command.command()
@_NAME
@_JSON
def probe(name: str, as_json: bool) -> None:
    """Ask a board what it really has, and warn where its description is wrong."""
    from edgeface.devices.probe import probe as ask

    board = boards.find(name)
    link = open_link(board, step)
    step(f"asking {name}, {link.describe()}")
    found = ask(link)
    if as_json:
        print_json(found)
    else:
        _say_all(_found(found))
    for warning in found.warnings:
        complain(f"warning: {board.name}.toml: {warning}")


def reached(board: Board) -> str:
    """How a board would be reached, in words, without anything being connected or made for it."""
    if board.local:
        return "this machine"
    if board.address is None:
        return f"emulated {', '.join(board.emulated_cpus)}"
    return f"board at {board.address}" + ("" if board.port is None else f", port {board.port}")


def _this_machine() -> Hello:
    from edgeface.devices.worker import hello

    return hello()


def _description(board: Board) -> Iterator[tuple[str, str]]:
    yield "name", board.name
    yield "board", board.title
    yield "reached", reached(board)
    if board.link == "ssh":
        yield "python", board.python or "of 'edgeface devices setup'"
    yield from _clusters(board.clusters)
    yield "memory", f"{board.memory_mb} MB"
    yield "engine", f"{board.engine}, {board.threads} threads on CPU {_ranges(board.affinity)}"
    if board.best:
        yield "best", ", ".join(names[0] for names in board.best.values())
    yield "thermal", ", ".join(board.thermal_zones) or "none"
    yield "throttling", ", ".join(board.throttling) or "none"


def _clusters(clusters: Sequence[Cluster]) -> Iterator[tuple[str, str]]:
    for cluster in clusters:
        clock = f"{cluster.min_mhz} to {cluster.mhz} MHz" if cluster.mhz else "clock unknown"
        revision = "" if cluster.midr is None else f" r{cluster.midr.variant}p{cluster.midr.revision}"
        yield f"CPU {_ranges(cluster.cpus)}", f"{cluster.core}{revision}, {cluster.isa}, {clock}"
        # x86 has a hundred, which say little of a board.
        if cluster.midr is not None:
            yield "", " ".join(cluster.features)


def _software(worker: Hello) -> Iterator[tuple[str, str]]:
    yield "edgeface", f"{worker.edgeface}, Python {worker.python}, {worker.architecture}"
    yield "engines", ", ".join(f"{name} {version or 'not installed'}" for name, version in worker.engines.items())
    yield "kernels", worker.kernels


def _found(found: Probe) -> Iterator[tuple[str, str]]:
    machine = found.machine
    yield "name", found.device
    yield "reached", found.where
    if not found.emulated:
        yield "board", machine.model
    yield "system", f"Linux {machine.kernel}, {machine.architecture}"
    yield from _software(found.worker)
    yield from _clusters(machine.clusters)
    yield "like", found.serving.board or "no board that is described: a model's name means its default bundle"
    yield "best", ", ".join(found.serving.bundles.values()) or "no model comes with the edgeface there"
    if found.emulated:
        yield "memory", "of this machine, as is the health: --json has them"
        return
    yield "memory", f"{machine.memory_mb} MB"
    yield from _health(found.health)


def _health(health: Health) -> Iterator[tuple[str, str]]:
    clocks = [f"CPU {_ranges(clock.cpus)} at {clock.mhz} of {clock.max_mhz} MHz" for clock in health.clocks]
    yield "clocks", "; ".join(clocks) or "nothing tells"
    zones = [f"{zone.kind} {zone.celsius:.1f}" for zone in health.zones]
    yield "degrees C", ", ".join(zones) or "no sensor"
    throttling = [each.what + ("" if each.now else " (once, since its start)") for each in health.throttling]
    yield "throttling", "; ".join(throttling) or "none"


def _say_all(lines: Iterator[tuple[str, str]]) -> None:
    for label, text in lines:
        say(f"{label:<12}{text}".rstrip())


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _ranges(numbers: Sequence[int]) -> str:
    return ranges(numbers) or "any"
