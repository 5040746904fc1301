"""The page behind a proxy: other names, a path of its own, and the token that goes with both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from playwright.sync_api import Page
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from edgeface.cli import main
from edgeface.errors import OptionError
from edgeface.stream.preview import access
from edgeface.stream.preview.server import Server
from edgeface.stream.preview.web import Web, WebOptions
from edgeface.stream.sinks import SinkContext
from edgeface.stream.thermometer import Thermometer
from prefix_proxy import PrefixProxy
from preview_shots import result, shot
from test_preview import DEADLINE_S, TOKEN, get, live, serving, taken
from test_preview_page import Stage, browser, page, shown_frame, wait_until  # noqa: F401  # fixtures

HOSTS = ("robot1.lan", "*.fritz.box", "Other.Example.")


@pytest.fixture(autouse=True)
def refusals_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "REFUSAL_S", 0.0)


@pytest.fixture
def behind() -> Iterator[Stage]:
    stage = Stage(TOKEN, allow_hosts=("camera-backend",))
    yield stage
    stage.close()


@pytest.mark.parametrize("host", [
    "robot1.lan", "ROBOT1.lan:80", "robot1.lan.", "a.fritz.box", "a.b.fritz.box:8443", "other.example", "localhost.",
    "localhost", "127.0.0.1",
])
def test_names_that_are_allowed(host: str) -> None:
    with serving(allow_hosts=HOSTS) as (_, server, _):
        assert get(server, "/", Host=host)[0] == 200
        assert get(server, "/", Host=host, Origin=f"https://{host}")[0] == 200


@pytest.mark.parametrize("host", [
    "fritz.box", "evil.example", "robot1.lan.evil.example", "a.fritz.box.evil.example", "xfritz.box", "", "*",
])
def test_other_names_stay_refused_and_the_answer_says_what_to_do(host: str) -> None:
    with serving(allow_hosts=HOSTS) as (_, server, _):
        code, _, body = get(server, "/", Host=host)
        assert code == 403
        assert b"--allow-host" in body
        assert get(server, "/", Host="127.0.0.1", Origin=f"http://{host}")[0] == 403


def test_a_page_under_an_allowed_name_may_reach_it_where_the_proxy_asks_under_another() -> None:
    with serving(allow_hosts=HOSTS) as (_, server, _):
        assert get(server, "/", Host="127.0.0.1", Origin="https://a.fritz.box")[0] == 200
        assert get(server, "/", Host="127.0.0.1", Origin="null")[0] == 403
        with live(server, Origin="https://a.fritz.box") as viewer:
            viewer.send('{"size_px": 0}')
            assert "error" in str(viewer.recv(DEADLINE_S))
        with pytest.raises((InvalidStatus, ConnectionClosed)), live(server, Origin="https://evil.example") as viewer:
            viewer.recv(DEADLINE_S)


def test_a_page_that_says_its_own_name_is_told_why_it_gets_no_picture() -> None:
    with serving(allow_hosts=HOSTS) as (_, server, _):
        said = {"Host": "127.0.0.1", "X_Page_Origin": "http://evil.example:81"}
        code, _, body = get(server, "/faces.json", **said)
        assert (code, b"the name evil.example: use" in body, b"--allow-host evil.example" in body) == (403, True, True)
        assert get(server, "/faces.json", Host="127.0.0.1", X_Page_Origin="https://a.fritz.box")[0] == 200
        # A browser's own word counts for more.
        assert get(server, "/faces.json", Origin="http://evil.example", **said)[0] == 403
        code, _, body = get(server, "/faces.json", Host="127.0.0.1", X_Page_Origin="http://*<b>")
        assert (code, b"<b>" in body, b"--allow-host." in body) == (403, False, True)


def test_figures_answer_under_the_same_rule() -> None:
    context = SinkContext("demo")
    for shows_page in (True, False):
        web = Web(WebOptions(page=shows_page, port=0, allow_hosts=HOSTS), context, Thermometer())
        try:
            assert get(web._server, "/metrics", Host="robot1.lan")[0] == 200
            assert get(web._server, "/health", Host="robot1.lan")[0] == 503     # no frame yet
            for path in ("/metrics", "/health"):
                code, headers, _ = get(web._server, path, Host="evil.example")
                assert code == 403
                _, allowed, _ = get(web._server, path)
                for name in ("cache-control", "x-content-type-options"):
                    assert headers[name] == allowed[name]
        finally:
            web.close()


@pytest.mark.parametrize("name", ["", "a b", "http://robot1.lan", "robot1.lan/cam", "é"])
def test_a_name_that_is_none_is_one_line(name: str) -> None:
    with pytest.raises(OptionError, match="--allow-host"):
        Server([], bind="127.0.0.1", port=0, token=None, allow_hosts=[name])
    done = CliRunner().invoke(main, ["camera", "demo", "--show", "--check", "--allow-host", name])
    assert done.exit_code == 2
    assert "--allow-host" in done.output


def test_the_option_is_the_pages_and_stands_in_the_file(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert "add --show" in run(main, ["camera", "demo", "--check", "--allow-host", "robot1.lan"]).output
    file = tmp_path / "camera.toml"
    file.write_text('[source]\nsource = "demo"\n[page]\nshow = true\nallow_host = ["robot1.lan", "*.fritz.box"]\n')
    assert run(main, ["camera", "--config", str(file), "--check"]).exit_code == 0
    file.write_text('[source]\nsource = "demo"\n[page]\nshow = true\nallow_host = ["a b"]\n')
    assert "--allow-host 'a b'" in run(main, ["camera", "--config", str(file), "--check"]).output


def test_the_token_leads_to_where_the_proxy_serves_the_page() -> None:
    with serving(TOKEN) as (_, server, _):
        for given, leads_to in (
            ("", "./"), ("/cam", "/cam/"), ("/a/b-c/", "/a/b-c/"), ("//evil.example", "./"),
            ("http://evil.example", "./"), ("/a\\b", "./"), ("/", "./"),
        ):
            code, headers, _ = get(server, f"/?token={TOKEN}", X_Forwarded_Prefix=given)
            assert (code, headers["location"]) == (303, leads_to)
            assert "path" not in headers["set-cookie"].lower()
            assert "secure" not in headers["set-cookie"].lower()
        _, headers, _ = get(server, f"/?token={TOKEN}", X_Forwarded_Proto="https")
        assert "secure" in headers["set-cookie"].lower()


def test_a_path_that_the_proxy_left_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(TOKEN) as (board, server, _):
        bearer = {"Authorization": f"Bearer {TOKEN}", "X-Forwarded-Prefix": "/cam"}
        for path in ("/", "/page.js", "/faces.json"):
            assert get(server, f"/cam{path}", **bearer)[0] == 200
            assert get(server, path, **bearer)[0] == 200
        assert get(server, f"/cam/?token={TOKEN}", X_Forwarded_Prefix="/cam")[1]["location"] == "/cam/"
        with connect(f"ws://127.0.0.1:{server.port}/cam/live", additional_headers=bearer) as viewer:
            board.put(shot(np.zeros((8, 8, 3), np.uint8), 1), result([]))
            viewer.send('{"more": 1}')
            assert taken(viewer.recv(DEADLINE_S))[0]["state"]["viewers"] == 1


def test_in_a_browser_a_name_that_only_the_proxy_knows_shows_no_picture(
    page: Page, behind: Stage  # noqa: F811
) -> None:
    proxy = PrefixProxy(behind.server.port, "camera-backend")
    try:
        # The browser's name is not the one that the proxy asks under: without a word on it, that is another site.
        page.goto(f"http://localhost:{proxy.port}/cam/?token={TOKEN}")
        wait_until(page, "document.getElementById('state').textContent === 'refused'")
        assert page.inner_text("#notice") == (
            "Not served under the name localhost: use the address that 'edgeface camera' printed, or allow the name "
            "with --allow-host localhost."
        )
        assert page.evaluate("document.body.dataset.frame") is None
    finally:
        proxy.close()


@pytest.mark.parametrize(("strips", "tells"), [(True, True), (True, False), (False, True)])
def test_in_a_browser_the_picture_moves_behind_a_proxy(
    page: Page, strips: bool, tells: bool  # noqa: F811
) -> None:
    stage = Stage(TOKEN, allow_hosts=("camera-backend", "127.0.0.1"))
    proxy = PrefixProxy(stage.server.port, "camera-backend", strips=strips, tells=tells)
    try:
        page.goto(f"{proxy.url}?token={TOKEN}")
        assert page.url == proxy.url
        first = shown_frame(page)
        wait_until(page, f"Number(document.body.dataset.frame) >= {first + 5}")
        assert page.inner_text("#state") == "online"
        assert [cookie["path"] for cookie in page.context.cookies()] == ["/cam"]
    finally:
        proxy.close()
        stage.close()


def test_in_a_browser_under_an_allowed_name(page: Page) -> None:  # noqa: F811
    stage = Stage(TOKEN, allow_hosts=("*.localhost",))      # which browsers know to be this machine
    try:
        page.goto(f"http://robot1.localhost:{stage.server.port}/?token={TOKEN}")
        shown_frame(page)
        answer = page.goto(f"http://evil.example.localhost.:{stage.server.port}/")
        assert answer is None or answer.status == 401
    finally:
        stage.close()
