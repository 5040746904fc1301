"""``pytest --device NAME``: the tests in tests/device run on that board; without it, on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from edgeface.devices import boards
from edgeface.devices.boards import Board
from edgeface.devices.client import Client
from edgeface.devices.links import Link, open_links

from edgeface.errors import EdgefaceError

DEVICE_TESTS = Path(__file__).parent / "device"
HERE = "host"
_START_TIMEOUT_S = 180.0

Job = Callable[[Client], Any]


class Devices:
    """The workers of a board, one for each link to it: each has a thread, so that they work at the same time."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.clients: dict[str, Client] = {}
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._jobs: dict[tuple[str, str], Future[Any]] = {}

    @property
    def names(self) -> list[str]:
        """Of the links: the emulated processors, or the board."""
        return self.board.emulated_cpus if self.board.link == "emulated" else [self.board.name]

    def start(self, links: list[Link]) -> None:
        """Start every worker, all at the same time. Raises what Client does, and leaves none running then."""
        self._threads = {name: ThreadPoolExecutor(1) for name in self.names}
        starting = {
            name: self._threads[name].submit(partial(Client, link, start_timeout_s=_START_TIMEOUT_S))
            for name, link in zip(self.names, links, strict=True)
        }
        try:
            for name, started in starting.items():
                self.clients[name] = started.result()
        except BaseException:
            wait(starting.values())
            self.clients = {
                name: started.result() for name, started in starting.items() if started.exception() is None
            }
            self.close()
            raise

    def ask(self, name: str, key: str, job: Job) -> Any:
        """What ``job`` of that ``key`` gives on the worker ``name``. All workers begin with it when the first is asked,
        so that the others' answers are there, or nearly, when their tests come."""
        for each, client in self.clients.items():
            if (each, key) not in self._jobs:
                self._jobs[each, key] = self._threads[each].submit(job, client)
        return self._jobs[name, key].result()

    def close(self) -> None:
        """End every worker."""
        for thread in self._threads.values():
            thread.shutdown(cancel_futures=True)
        for client in self.clients.values():
            client.close()
        self.clients.clear()


DEVICES = pytest.StashKey[Devices]()


# Of plugins that a run on a board does well without; pyproject.toml and the tests name them.
_PLUGINS = {"pytest_timeout": "timeout", "xdist": "xdist_group"}


def pytest_addoption(parser: pytest.Parser) -> None:
    if importlib.util.find_spec("pytest_timeout") is None:
        parser.addini("timeout", "The seconds of a test, for pytest-timeout, which is not installed.")
    parser.addoption(
        "--device", metavar="NAME",
        help="Run the tests in tests/device, and unless paths or -k say otherwise no others, on this board: "
        f"{', '.join(boards.names())}.",
    )


def pytest_configure(config: pytest.Config) -> None:
    for plugin, marker in _PLUGINS.items():
        if importlib.util.find_spec(plugin) is None:
            config.addinivalue_line("markers", f"{marker}: for {plugin}, which is not installed")
    name = config.getoption("device")
    try:
        config.stash[DEVICES] = Devices(boards.find(name or HERE))
    except EdgefaceError as error:
        raise pytest.UsageError(str(error)) from None
    if name and config.args_source is not pytest.Config.ArgsSource.ARGS and not config.option.keyword:
        config.args = [str(DEVICE_TESTS)]


def pytest_report_header(config: pytest.Config) -> list[str]:
    devices = config.stash[DEVICES]
    board = devices.board
    if not config.getoption("device"):
        return []
    if board.link == "emulated":
        return [f"{board.name}: emulated {cpu}" for cpu in devices.names]
    return [f"{board.name}: " + ("this machine" if board.local else f"board at {board.address}")]


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """After the header: a board that cannot be used ends the run with one line, instead of each test with many."""
    config = session.config
    if not config.getoption("device") or config.option.collectonly:
        return
    terminal = config.pluginmanager.get_plugin("terminalreporter")

    def progress(line: str) -> None:
        if terminal is not None:
            terminal.write_line(f"{config.stash[DEVICES].board.name}: {line}")

    try:
        start(config.stash[DEVICES], progress)
    except EdgefaceError as error:
        raise pytest.UsageError(str(error)) from None


def start(devices: Devices, progress: Callable[[str], None]) -> None:
    """Start the workers, and first what they need. Does nothing when they run."""
    if not devices.clients:
        devices.start(list(open_links(devices.board, progress)))


def pytest_unconfigure(config: pytest.Config) -> None:
    if DEVICES in config.stash:
        config.stash[DEVICES].close()

