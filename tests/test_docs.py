"""README and docs hold: commands and options exist, code runs, exit codes are those of the errors, the site has all."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import edgeface
from docs_blocks import SHELL, Block, blocks, check_command, edgeface_arguments, inline_commands, shell_lines
from edgeface import errors
from edgeface.cli import INTERRUPTED, main
from edgeface.stream import stream
from edgeface.stream.config import read_config
from edgeface.stream.events.store import Event, EventStore
from edgeface.stream.results import TrackedFaces

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(edgeface.__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if (ROOT / "docs").is_dir() else []
DOCS = ROOT / "docs"
# Pages whose commands find faces in pictures, or list what a camera kept: they are run, in a folder that has what they
# name.
RUN = ("README.md", "docs/tutorials/first-picture.md", "docs/exports.md", "docs/events.md")
RUN_COMMANDS = ("detect", "models", "compare", "events")
# Commands of the pages that are only held against the options there are: what they would take, and what runs them.
NOT_RUN = {
    "bench": ("minutes, or a board", "test_bench.py"),
    "convert": ("half a minute each, and models of the reader's own", "test_convert.py"),
    "data": ("the reader's own pictures and labels", "test_data_import.py"),
    "demo": ("a browser's page that goes on until it is ended", "test_cli_camera.py"),
    "deploy": ("a board", "test_deploy.py"),
    "devices": ("a board", "test_cli_devices.py"),
    "evaluate": ("a set of some thousand pictures", "test_cli_evaluate.py"),
    "import": ("a detector of the reader's own", "test_import.py"),
    "parity": ("a checkpoint of the reader's own", "test_cli_parity.py"),
    "quantize": ("hours", "test_cli_quantize.py"),
    "ros": ("an installation of ROS 2", "test_ros.py"),
    "service": ("systemd as the first process", "test_systemd_machine.py"),
    "train": ("days", "test_training.py"),
}
# Programs that are not edgeface's: what keeps them from being run here.
OTHERS = {
    **dict.fromkeys(("sudo", "ssh"), "another user's rights, or a board"),
    **dict.fromkeys(("pip", ".venv/bin/pip", "python3", ".", "source"), "the reader's environment"),
    "docker": "its daemon; test_docker.py holds the file and the lines",
    "ros2": "an installation of ROS 2",
    "torchrun": "days",
    "python": "Ray, which test_batch.py runs where it is installed; the file is looked for here",
    "pytest": "a board", "./test.sh": "it runs this", "ffmpeg": "a program of apt's", "sqlite3": "a program of apt's",
}

pytestmark = pytest.mark.skipif(not PAGES, reason="needs the source tree")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_options_are_those_that_there_are(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for block in blocks(page):
        for words in shell_lines(block.text) if block.language in SHELL else ():
            arguments = edgeface_arguments(words)
            try:
                if arguments is not None:
                    check_command(arguments, whole=True)
            except (AssertionError, click.ClickException) as error:
                pytest.fail(f"{name_of(page)}: {' '.join(words)}: {getattr(error, 'message', error)}")
            for word in words:
                if found := re.fullmatch(r"(?:\.|edgeface)\[([a-z0-9,]+)\]", word):
                    assert set(found[1].split(",")) <= set(extras), f"{name_of(page)}: {word}"
                if words[0].endswith("python") and re.fullmatch(r"(cross|docs|benchmarks|examples)/\S+\.py", word):
                    assert (ROOT / word).is_file(), f"{name_of(page)}: {word}"
    for line in inline_commands(page):
        try:
            check_command(shlex.split(line)[1:], whole=False)
        except (AssertionError, click.ClickException, ValueError) as error:
            pytest.fail(f"{name_of(page)}: {line}: {getattr(error, 'message', error)}")


@pytest.mark.parametrize(
    "line", ["detct photo.jpg", "detect photo.jpg --jsn x", "events purg seen", "models info a b c", "convert m.pt",
             "camera --port x"],
)
def test_a_command_that_is_not_would_be_seen(line: str) -> None:
    with pytest.raises((AssertionError, click.ClickException)):
        check_command(shlex.split(line), whole=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, astronaut: NDArray[np.uint8]) -> Path:
    """What the pages name: photo.jpg, folders of one picture, a video of two frames, a function that embeds."""
    folder = tmp_path_factory.mktemp("docs")
    small = cv2.resize(astronaut[0:256, 96:352], (128, 128), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(folder / "photo.jpg"), small)
    for name in ("holiday/a.jpg", "more/b.png", "photos/c.jpg"):
        (folder / name).parent.mkdir()
        cv2.imwrite(str(folder / name), small)
    video = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (128, 128))
    for _ in range(2):
        video.write(small)
    video.release()
    store = EventStore(folder / "seen", create=True)
    for number in range(17):
        store.add(Event("door", number, time.time() - 60, time.time(), 3, 128, 128, *([8.0] * 8), score=0.9))
    store.close()
    (folder / "my_faces.py").write_text("def embed(faces):\n    return faces[:, :2, :2].reshape(len(faces), -1)\n")
    return folder


@pytest.fixture
def at_hand(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, a copy of ``pictures``."""
    folder = tmp_path / "here"
    shutil.copytree(pictures, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def calls(page: Path) -> Iterator[list[str]]:
    for block in blocks(page):
        for words in shell_lines(block.text) if block.language in SHELL else ():
            arguments = edgeface_arguments(words)
            if arguments:
                yield arguments


@pytest.mark.parametrize("page", RUN)
def test_what_finds_faces_is_run(page: str, at_hand: Path) -> None:
    wanted = [each for each in calls(ROOT / page) if each[0] in RUN_COMMANDS]
    assert wanted
    for arguments in wanted:
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, f"{page}: edgeface {' '.join(arguments)}: {done.output}"


def test_every_command_of_the_pages_is_run_or_says_why_not() -> None:
    named = {each[0] for page in PAGES for each in calls(page)}
    assert named == {*RUN_COMMANDS, "camera", *NOT_RUN}
    for _, test in NOT_RUN.values():
        assert (ROOT / "tests" / test).is_file(), test
    others = {
        words[0] for page in PAGES for block in blocks(page) if block.language in ("bash", "sh", "console")
        for words in shell_lines(block.text) if edgeface_arguments(words) is None
    }
    assert others == OTHERS.keys()


def test_every_camera_of_the_pages_could_start(at_hand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEFACE_TOKEN", "a-token-of-16-letters")
    lines = {tuple(each) for page in PAGES for each in calls(page) if each[0] == "camera"}
    block = next(each for each in blocks(DOCS / "camera.md") if each.language == "toml")
    Path("camera.toml").write_text(block.text)
    # Bundles of the reader's own are not here, and the line without a source looks for a camera.
    named = [each for each in lines if not {"mine", "scrfd_500m_kps-fp32-ncnn"} & set(each)]
    assert len(named) > 8
    for arguments in named:
        has_source = "--config" in arguments or not [*arguments, "--"][1].startswith("--")
        done = CliRunner().invoke(main, [*arguments, *([] if has_source else ["demo"]), "--check"])
        assert done.exit_code == 0, f"edgeface {' '.join(arguments)}: {done.output}"


PYTHON = [
    block for page in PAGES for block in blocks(page)
    if block.language == "python" and page.name not in ("architecture.md",)    # which its own tests run
]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{name_of(block.page)}-{block.text.split()[-1][:12]}")
def test_python_is_run(block: Block, at_hand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_result(source: str, **options: Any) -> Iterator[Any]:
        """A camera that is not here, as one picture: each face with a number."""
        inspect.signature(stream).bind(source, **options)
        faces = TrackedFaces.of(detector("photo.jpg"), np.arange(1, dtype=np.int64))
        yield SimpleNamespace(number=0, image=cv2.imread("photo.jpg")), faces

    detector = edgeface.load("mos_s", size=160)
    with monkeypatch.context() as patch:
        patch.setattr(edgeface, "stream", one_result)
        names = {
            "edgeface": edgeface, "detector": detector, "faces": detector("photo.jpg"), "my_network": len,
            "pixels": np.zeros((96, 64), np.uint8),
        }
        exec(compile(block.text, name_of(block.page), "exec"), names)


def test_settings_are_read(tmp_path: Path) -> None:
    for page in PAGES:
        for block in blocks(page):
            if block.language == "toml":
                tables = tomllib.loads(block.text)
                if {"source", "notify"} & tables.keys():
                    path = tmp_path / "camera.toml"
                    path.write_text(block.text)
                    assert read_config(path)


def test_every_error_stands_beside_its_exit_code() -> None:
    kinds = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.EdgefaceError)
    ]
    rows = re.findall(r"^\| (\d+) \|.*?\| (.*?) \| .*\|$|^\| (\d+) \|[^|]*\| \| \|$",
                      (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    told = {int(code or bare): set(re.findall(r"`(\w+)`", names)) for code, names, bare in rows}
    wanted: dict[int, set[str]] = {0: set(), INTERRUPTED: set(), 143: set()}
    for each in kinds:
        wanted.setdefault(each.exit_code, set()).add(each.__name__)
    assert told == wanted


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert listed == {page.relative_to(DOCS).as_posix() for page in PAGES[1:]}
