"""What was recorded, played back by the page in a real Chromium, and kept from everybody else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests
from numpy.typing import NDArray
from playwright.sync_api import Browser

from edgeface.board_health import Health
from edgeface.stream.preview.web import Web, WebOptions
from edgeface.stream.recordings import Recordings
from edgeface.stream.sinks import Sink, SinkContext, open_sink
from edgeface.stream.thermometer import Thermometer, Warmth
from preview_shots import result, shot
from test_preview_page import TOKEN, browser, wait_until

__all__ = ["browser"]

PIECE_FRAMES = 60
# Loads what a link leads to, seeks to near its end, and plays on from there.
PLAY = """async (number) => {
  const player = document.getElementById("player");
  const reached = (event) => new Promise((done) => player.addEventListener(event, done, { once: true }));
  const loaded = reached("loadeddata");
  document.querySelectorAll("#recordings-list a")[number].click();
  await loaded;
  const state = player.readyState;
  player.pause();
  const sought = reached("seeked");
  player.currentTime = player.duration * 0.7;
  await sought;
  const from = player.currentTime;
  player.muted = true;
  await player.play();
  while (player.currentTime <= from) await new Promise((done) => setTimeout(done, 20));
  return { state, seconds: player.duration, from, width: player.videoWidth };
}"""


class CoolThermometer(Thermometer):
    def look(self) -> Warmth:
        return Warmth(Health([], [], []), "")


@contextmanager
def recording(folder: Path) -> Iterator[tuple[Web, Sink, Recordings]]:
    """One recording that is finished, of 320 x 240 pixels, and one that goes on, of 240 x 320."""
    recordings = Recordings(f"{folder}/")
    context = SinkContext("test", fps=10.0, lossless=True, recordings=recordings)
    sink = open_sink("video", f"{folder}/", context)
    with closing(Web(WebOptions(port=0, token=TOKEN), context, CoolThermometer())) as web, closing(sink):
        for number in range(2 * PIECE_FRAMES):
            shape = (240, 320) if number < PIECE_FRAMES else (320, 240)
            sink.put(shot(stripes(number, shape), number), result([]))
        deadline = time.monotonic() + 60
        while sum(one.size_bytes > 10_000 for one in recordings.listed()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        yield web, sink, recordings


def stripes(number: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
    noise = np.random.default_rng(number % 7).integers(0, 255, (*shape, 3), np.uint8)
    noise[:, 2 * number % shape[1] :] //= 2
    return noise


def test_chromium_plays_what_is_finished_and_what_goes_on(browser: Browser, tmp_path: Path) -> None:
    with recording(tmp_path / "rec") as (web, _, _), closing(browser.new_page()) as page:
        page.goto(f"{web.url}?token={TOKEN}")
        wait_until(page, "document.querySelectorAll('#recordings-list a').length === 2")
        goes_on, finished = (page.evaluate(PLAY, number) for number in range(2))
    assert goes_on["state"] >= 2
    assert finished["state"] >= 2
    assert (goes_on["width"], finished["width"]) == (240, 320)
    assert finished["seconds"] == pytest.approx(PIECE_FRAMES / 10, abs=0.2)
    assert finished["from"] == pytest.approx(0.7 * PIECE_FRAMES / 10, abs=0.3)


def test_recordings_are_for_those_with_the_token_and_nothing_else_is_served(tmp_path: Path) -> None:
    with recording(tmp_path / "rec") as (web, _, recordings):
        base = f"http://127.0.0.1:{web.port}/"
        let_in = {"Authorization": f"Bearer {TOKEN}"}
        assert requests.get(f"{base}recordings.json", timeout=20).status_code == 401
        listed = requests.get(f"{base}recordings.json", headers=let_in, timeout=20).json()
        assert [one["unfinished"] for one in listed] == [True, False]
        address = f"{base}recordings/{listed[1]['name']}"
        assert requests.get(address, timeout=20).status_code == 401
        assert requests.get(address, headers={**let_in, "Host": "evil.example"}, timeout=20).status_code == 403
        part = requests.get(address, headers={**let_in, "Range": "bytes=100-299"}, timeout=20)
        whole = recordings.listed()[1].path.read_bytes()
        assert (part.status_code, part.content) == (206, whole[100:300])
        assert part.headers["Content-Type"] == "video/mp4"
        assert part.headers["Content-Range"] == f"bytes 100-299/{len(whole)}"
        going_on = f"{base}recordings/{listed[0]['name']}?bytes=1000"
        assert len(requests.get(going_on, headers=let_in, timeout=20).content) == 1000
        (tmp_path / "secret.mp4").write_bytes(b"secret")
        (tmp_path / "rec" / "secret.mp4").write_bytes(b"secret")
        for name in ("secret.mp4", "..%2Fsecret.mp4", "%2e%2e%2fsecret.mp4", f"{listed[0]['name']}%00", "."):
            assert requests.get(f"{base}recordings/{name}", headers=let_in, timeout=20).status_code == 404


def test_with_hidden_faces_only_this_runs_recordings_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "rec"
    with recording(folder):
        pass
    assert len(Recordings(str(folder)).listed()) == 2
    hidden = Recordings(str(folder), own_only=True)
    context = SinkContext("test", fps=10.0, lossless=True, recordings=hidden)
    with closing(open_sink("video", str(folder), context)) as sink:
        sink.put(shot(stripes(0, (64, 64)), 0), result([]))
    assert len(hidden.listed()) == 1
