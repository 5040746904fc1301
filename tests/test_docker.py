"""The Dockerfile, read: what it copies is there and enough, what it runs exists. Docker itself is not needed."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest

import edgeface
from docs_blocks import check_command, shell_lines
from edgeface.stream.preview.access import SHORTEST_TOKEN
from edgeface.stream.preview.web import WebOptions

ROOT = Path(edgeface.__file__).parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "Dockerfile").is_file(), reason="needs the source tree")


@pytest.fixture(scope="module")
def stages() -> list[list[tuple[str, str]]]:
    """Of each stage its instructions: the word, and the rest of its lines as one."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word]
    starts = [number for number, (word, _) in enumerate(lines) if word == "FROM"]
    return [lines[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


def rest_of(stage: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for each, rest in stage if each == word]


def test_what_is_copied_is_there_and_is_all_that_a_wheel_is_made_of(stages: list[list[tuple[str, str]]]) -> None:
    copied = {
        name for stage in stages for rest in rest_of(stage, "COPY") if not rest.startswith("--from=")
        for name in rest.split()[:-1]
    }
    assert all((ROOT / name).exists() for name in copied)
    project = (ROOT / "pyproject.toml").read_text()
    packages = re.search(r"\[tool\.scikit-build\.wheel\.packages\]\n((?:\".*\n)+)", project)
    assert packages is not None
    parts = re.findall(r'= "(.*)"', packages[1])
    named = re.findall(r'^(?:readme = |license-files = \[)"(.*?)"', project, re.MULTILINE)
    assert len(named) == 2
    assert {*parts, *named, "pyproject.toml", "CMakeLists.txt"} <= copied
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert {name.split("/")[0] for name in copied} <= {line[1:] for line in ignored if line.startswith("!")}


def test_extras_are_those_of_the_project(stages: list[list[tuple[str, str]]]) -> None:
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    given = dict(rest.split("=") for rest in rest_of(stages[0], "ARG"))["EXTRAS"]
    assert set(given.split(",")) <= set(extras)
    assert any('".[${EXTRAS}]"' in rest for rest in rest_of(stages[0], "RUN"))


def test_what_it_runs_is_a_command_of_edgeface_on_the_port_that_is_open(stages: list[list[tuple[str, str]]]) -> None:
    final = stages[-1]
    entry, command = (json.loads(rest_of(final, word)[0]) for word in ("ENTRYPOINT", "CMD"))
    assert entry == ["edgeface"]
    check_command(command, whole=True)
    assert command[:2] == ["camera", "--show"]
    [port], [check] = rest_of(final, "EXPOSE"), rest_of(final, "HEALTHCHECK")
    assert int(port) == WebOptions().port
    assert f":{port}/health" in (ROOT / "docker" / "health.py").read_text()
    interpreter, program = json.loads(check.partition("CMD ")[2])
    assert interpreter == "python"
    assert f"docker/health.py {program}" in rest_of(final, "COPY")


def test_it_runs_without_root_and_without_a_compiler(stages: list[list[tuple[str, str]]]) -> None:
    final = stages[-1]
    [user] = rest_of(final, "USER")
    assert user not in ("root", "0")
    assert any(f"useradd --create-home --uid 10001 {user}" in rest for rest in rest_of(final, "RUN"))
    assert not any("apt-get" in rest for rest in rest_of(final, "RUN"))
    assert rest_of(final, "FROM") == rest_of(stages[0], "FROM")[0].split()[:1]     # the environment fits its Python


def test_words_of_its_shell_are_whole(stages: list[list[tuple[str, str]]]) -> None:
    runs = [list(shell_lines(rest)) for stage in stages for rest in rest_of(stage, "RUN")]
    first = {words[0] for lines in runs for words in lines}
    ours = {"/opt/edgeface/bin/pip", "/opt/edgeface/bin/edgeface"}
    assert first <= {"apt-get", "rm", "python", "grep", "useradd", "install"} | ours


@pytest.fixture(scope="module")
def health() -> ModuleType:
    spec = importlib.util.spec_from_file_location("health", ROOT / "docker" / "health.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def camera() -> Iterator[HTTPServer]:
    """Answers 401 without the token, else what the path says, as /health does."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_let_in = self.headers["Authorization"] == "Bearer a-token-of-16-letters"
            self.send_response(int(self.path[1:]) if is_let_in else 401)
            self.end_headers()
            self.wfile.write(b'{"ok":false,"reasons":["the camera stopped"]}')

        def log_message(self, *_of_http: object) -> None:
            """Nothing is printed."""

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("token", "answer", "code", "said"),
    [
        ("a-token-of-16-letters", 200, 0, ""), ("a-token-of-16-letters", 503, 1, "the camera stopped"),
        (None, 200, 0, ""), ("another-token-of-17", 200, 1, "the camera stopped"),
    ],
)  # fmt: skip
def test_the_health_of_a_container(
    health: ModuleType, camera: HTTPServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    token: str | None, answer: int, code: int, said: str,
) -> None:
    monkeypatch.delenv("EDGEFACE_TOKEN", raising=False)
    if token is not None:
        assert len(token) >= SHORTEST_TOKEN
        monkeypatch.setenv("EDGEFACE_TOKEN", token)
    assert health.main(f"http://127.0.0.1:{camera.server_port}/{answer}") == code
    assert said in capsys.readouterr().out


def test_nobody_there_is_not_well(health: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert health.main("http://127.0.0.1:1/health") == 1
    assert "refused" in capsys.readouterr().out
