"""The client and its worker through the local link, with workers that behave and workers that do not."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgeface.devices import boards
from edgeface.devices.client import Client
from edgeface.devices.links import open_link
from edgeface.devices.links.local import LocalLink
from edgeface.devices.links.registry import Command
from numpy.typing import NDArray

import edgeface
from edgeface.errors import (
    BundleError,
    DeviceError,
    DeviceLostError,
    DeviceUnreachableError,
    DeviceVersionError,
    EngineError,
    InputError,
    OptionError,
    UnknownNameError,
)
from edgeface.frames import Frame

# A worker with operations that go wrong, each in its own way.
_BAD = """
import os, signal, sys, time
from edgeface.devices import operations, worker
from edgeface.errors import EngineError
def operation(function):
    operations.operation(function.__name__)(lambda state, options, arrays: (function(), {}))
@operation
def noisy():
    print("printed")
    os.write(1, b"written\\n")
    os.system("echo from a child")
    return os.read(0, 1).decode()
@operation
def refuse():
    raise EngineError("net.param: cannot be run: convert it again")
@operation
def stumble():
    raise ZeroDivisionError("a mistake\\nin two lines")
@operation
def unsendable():
    return object()
@operation
def crash():
    os.kill(os.getpid(), signal.SIGSEGV)
@operation
def illegal():
    os.kill(os.getpid(), signal.SIGILL)
@operation
def leave():
    print("the battery is empty", file=sys.stderr)
    sys.stderr.write("last words without an end")
    os._exit(3)
@operation
def hang():
    print("waiting for a sensor", file=sys.stderr, flush=True)
    time.sleep(600)
@operation
def flood():
    for i in range(20000):
        print("a line that nobody asked for", i, file=sys.stderr)
    return "done"
@operation
def garble():
    os.write(worker_fd, b"Segmentation fault, in clear text\\n")
    time.sleep(600)
take = worker._take_streams
def taken():
    global worker_fd
    incoming, outgoing = take()
    worker_fd = outgoing.fileno()
    return incoming, outgoing
worker._take_streams = taken
sys.exit(worker.main())
"""


@pytest.fixture
def link() -> LocalLink:
    found = open_link(boards.find("host"))
    assert isinstance(found, LocalLink)
    return found


@pytest.fixture
def bad(link: LocalLink) -> Iterator[Client]:
    """A client of the worker above, which must leave no process, thread or file behind whatever it met."""
    files, threads, children = _open_files(), threading.active_count(), _children()
    with Client(link, arguments=["-c", _BAD]) as client:
        yield client
        client.close()
    assert _open_files() == files
    assert threading.active_count() == threads
    assert _children() == children


@pytest.fixture(scope="module")
def good() -> Iterator[Client]:
    with Client(open_link(boards.find("host"))) as client:
        yield client


def _open_files() -> list[str]:
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):       # the listing's own
            found.append(str(path.readlink()))
    return sorted(name for name in found if name.startswith("pipe:"))


def _children() -> set[str]:
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def test_the_handshake_says_what_the_worker_is(good: Client) -> None:
    assert good.hello.edgeface == edgeface.__version__
    assert good.hello.architecture == os.uname().machine
    assert good.hello.engines["ncnn"]


def test_a_picture_in_any_format_gives_the_faces_that_it_gives_here(
    good: Client, tiny_bundle: Path, astronaut: NDArray[np.uint8]
) -> None:
    loaded = good.load(str(tiny_bundle), threads=1)
    here = edgeface.load(tiny_bundle, threads=1)
    for picture in (astronaut, Frame(astronaut[:, :, ::-1].copy(), "rgb"), Frame(astronaut[:, :, 1].copy(), "grey")):
        expected, found = here(picture), good.detect(loaded, picture)
        assert len(found) == len(expected) > 0
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        np.testing.assert_array_equal(found.scores, expected.scores)
        assert found.landmarks is not None
        assert expected.landmarks is not None
        np.testing.assert_array_equal(found.landmarks, expected.landmarks)
        assert (found.pose is None) == (expected.pose is None)
    for name, expected_map in here.raw(astronaut).items():
        np.testing.assert_array_equal(good.raw(loaded, astronaut)[name], expected_map)
    good.unload(loaded)


def test_one_net_alone(good: Client, tiny_bundle: Path) -> None:
    loaded = good.load(str(tiny_bundle))
    x = np.zeros((3, 64, 96), np.float32)
    everything = good.infer(loaded, x)
    level = loaded.bundle.dense.levels[0]
    assert everything[level.score].shape == (len(level.anchors_px), 64 // level.stride, 96 // level.stride)
    (only,) = good.infer(loaded, x, outputs=[level.box])
    assert only == level.box
    with pytest.raises(EngineError, match="must be contiguous float32"):
        good.infer(loaded, x.astype(np.float64))
    with pytest.raises(OptionError, match="no net 0 in stage 7"):
        good.infer(loaded, x, stage=7)


def test_every_round_is_timed(good: Client, tiny_bundle: Path, astronaut: NDArray[np.uint8]) -> None:
    first, second = good.load(str(tiny_bundle), threads=1), good.load(str(tiny_bundle), threads=1, size_px=(96, 64))
    timed = good.time([first, second], [astronaut], threads=1, rounds=7, warm_up_rounds=2, timeout_s=60)
    assert timed.samples.shape == (2, 7, 4)
    assert timed.samples.dtype == np.float64
    assert (timed.samples[..., 3] > 0).all()
    np.testing.assert_allclose(timed.samples[..., :3].sum(axis=-1), timed.samples[..., 3], rtol=1e-6)
    assert timed.faces[0] > 0
    with pytest.raises(OptionError, match="0 rounds"):
        good.time([first], [astronaut], threads=1, rounds=0, warm_up_rounds=0, timeout_s=60)


def test_the_board_s_health_and_what_it_is(good: Client) -> None:
    assert good.machine().clusters == boards.find("host").clusters
    assert isinstance(good.health().is_throttled, bool)


def test_a_worker_keeps_to_the_processors_it_is_given(link: LocalLink) -> None:
    cpu = min(os.sched_getaffinity(0))
    with Client(replace(link, affinity=[cpu])) as client:
        assert client.machine().usable == [cpu]
    with pytest.raises(DeviceError, match="cannot run on CPU 4000: mend the board's affinity"):
        Client(replace(link, affinity=[4000]))


def test_errors_keep_their_class_and_the_worker_lives_on(good: Client, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no bundle\.json"):
        good.load(str(tmp_path))
    with pytest.raises(OptionError, match="0 threads cannot work"):
        good.load("mos_s", threads=0)
    with pytest.raises(OptionError, match=r"worker's options are wrong.*colour"):
        good.request("load", {"bundle": "mos_s", "colour": "blue"})
    with pytest.raises(UnknownNameError, match=r"no operation 'lod'\. Did you mean 'load'"):
        good.request("lod")
    with pytest.raises(OptionError, match="no picture 'pixels'"):
        good.request("detect", {"number": good.load("mos_s").number, "format": "bgr"})
    with pytest.raises(InputError, match="a picture must be uint8"):
        good.detect(good.load("mos_s"), np.zeros((4, 4, 3), np.float32))    # type: ignore[arg-type]  # wrong on purpose
    assert good.machine().clusters


def test_what_is_printed_on_the_board_is_no_part_of_the_protocol(bad: Client) -> None:
    assert bad.request("noisy")[0] == ""        # and what reads standard input finds it empty
    assert bad.request("machine")[0]


def test_an_error_of_edgeface_comes_back_as_it_was(bad: Client) -> None:
    with pytest.raises(EngineError, match=r"net\.param: cannot be run: convert it again$"):
        bad.request("refuse")
    assert bad.request("machine")[0]


@pytest.mark.parametrize(
    ("operation", "text"),
    [("stumble", "stumble: .*"), ("unsendable", "unsendable: TypeError: Encoding objects of type object")],
)
def test_any_other_error_comes_back_in_one_line(bad: Client, operation: str, text: str) -> None:
    with pytest.raises(DeviceError, match=rf"^host \(this machine\): {text}") as error:
        bad.request(operation)
    assert "\n" not in str(error.value)
    assert type(error.value) is DeviceError
    assert bad.request("machine")[0]


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        ("crash", "its worker died of SIGSEGV during 'crash'"),
        ("illegal", "its worker met an instruction that .* does not have"),
        (
            "leave",
            r"its worker ended with exit code 3 during 'leave': .*the battery is empty \| last words without an end$",
        ),
    ],
)
def test_a_worker_that_dies_is_named_with_its_last_words(bad: Client, operation: str, text: str) -> None:
    with pytest.raises(DeviceLostError, match=rf"^host \(this machine\): {text}"):
        bad.request(operation)
    with pytest.raises(DeviceLostError, match="its worker has ended: start another"):
        bad.request("machine")


def test_a_worker_that_hangs_is_ended_and_named(bad: Client) -> None:
    start = time.monotonic()
    with pytest.raises(DeviceLostError, match="did not answer 'hang' within 2 s and was ended: waiting for a sensor"):
        bad.request("hang", timeout_s=2)
    assert time.monotonic() - start < 60


def test_a_worker_that_reads_nothing_is_ended(link: LocalLink) -> None:
    deaf = "import sys, time\nfrom edgeface.devices import worker\nworker._serve = lambda *_: time.sleep(600)\n"
    with (
        Client(link, arguments=["-c", deaf + "sys.exit(worker.main())"]) as client,
        pytest.raises(DeviceLostError, match="did not answer 'detect' within 2 s"),
    ):
        client.request("detect", {}, {"pixels": np.zeros((4000, 4000, 3), np.uint8)}, timeout_s=2)


def test_a_worker_that_says_too_much_is_no_trouble(bad: Client) -> None:
    assert bad.request("flood")[0] == "done"


def test_clear_text_in_the_protocol(bad: Client) -> None:
    with pytest.raises(DeviceLostError, match="sent what is not the protocol, it begins with b'Segmentation"):
        bad.request("garble", timeout_s=20)


def test_an_interrupted_request_ends_the_worker(bad: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeface.devices.channel.Channel.read_exactly", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bad.request("machine")
    with pytest.raises(DeviceLostError, match="start another"):
        bad.request("machine")


def _says(text: str) -> list[str]:
    return ["-c", f"import sys, time; sys.stdout.buffer.write({text}); sys.stdout.flush(); time.sleep(600)"]


def _hello(**fields: object) -> list[str]:
    code = (
        "import sys, msgspec\n"
        "from edgeface.devices import worker\n"
        "real = worker.hello\n"
        f"worker.hello = lambda: msgspec.structs.replace(real(), **{fields!r})\n"
        "sys.exit(worker.main())"
    )
    return ["-c", code]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"protocol": 99}, "protocol 99 there and 1 here: edgeface devices setup host"),
        ({"edgeface": "0.0.1"}, f"edgeface 0.0.1 there and {edgeface.__version__} here"),
        ({"kernels_abi": 99}, "kernel interface 99 there and"),
    ],
)
def test_another_version_is_one_line_with_both(link: LocalLink, fields: dict[str, object], text: str) -> None:
    with pytest.raises(DeviceVersionError) as error:
        Client(link, arguments=_hello(**fields))
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (_says("b'Welcome to robot1, have fun'"), "something else than a worker answers .*Welcome"),
        (_says("b''"), "did not start within 2 s and was ended"),
        (["-c", "import sys; sys.exit('no space left')"], "it ended with exit code 1: no space left"),
        (["-m", "edgeface_that_is_not_there"], "has no edgeface .*No module named edgeface_that_is_not_there"),
    ],
)
def test_what_is_no_worker(link: LocalLink, arguments: list[str], text: str) -> None:
    files = _open_files()
    with pytest.raises(DeviceUnreachableError, match=text):
        Client(link, arguments=arguments, start_timeout_s=2)
    assert _open_files() == files


class _NoPython(LocalLink):
    def python(self, arguments: object) -> Command:
        return Command(["/usr/bin/no-such-python", "-m", "edgeface.devices.worker"])


def test_no_python_there(link: LocalLink) -> None:
    with pytest.raises(DeviceUnreachableError, match="/usr/bin/no-such-python: No such file or directory"):
        Client(_NoPython(link.board))


def test_a_closed_client_says_so_and_can_be_closed_again(link: LocalLink) -> None:
    client = Client(link)
    client.close()
    client.close()
    with pytest.raises(DeviceLostError, match="start another"):
        client.machine()


def test_files_and_folders_there_appear_whole(link: LocalLink, tmp_path: Path) -> None:
    source, there, back = tmp_path / "source", tmp_path / "board" / "deep" / "bundle", tmp_path / "back"
    source.mkdir()
    (source / "a.txt").write_text("one")
    link.put(source, str(there), timeout_s=5)
    (source / "b.txt").write_text("two")
    (source / "a.txt").unlink()
    link.put(source, str(there), timeout_s=5)
    assert [path.name for path in there.iterdir()] == ["b.txt"]
    assert [path.name for path in there.parent.iterdir()] == ["bundle"]
    link.get(str(there / "b.txt"), back, timeout_s=5)
    assert back.read_text() == "two"
    with pytest.raises(DeviceError, match="no such file or folder"):
        link.put(tmp_path / "absent", str(there), timeout_s=5)
    assert (there / "b.txt").read_text() == "two"


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        (["sh", "-c", "echo reason >&2; exit 3"], DeviceError, "host: sh failed with 3: reason"),
        (["no-such-program"], DeviceUnreachableError, "no-such-program: No such file or directory"),
        (["sleep", "60"], DeviceLostError, "sleep was not done within 1 s"),
    ],
)
def test_a_program_that_fails_on_the_board(
    link: LocalLink, words: list[str], error: type[DeviceError], text: str
) -> None:
    with pytest.raises(error, match=text):
        link.run(words, timeout_s=1)
    assert link.run(["printf", "a\\nb"], timeout_s=5) == ["a", "b"]
