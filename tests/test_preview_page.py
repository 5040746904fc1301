"""The page in a real Chromium: it moves, draws what the JSON says, obeys its controls, and says when it is lost."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from edgeface.board_health import Health, Zone
from edgeface.stream.controls import Controls
from edgeface.stream.events.store import Event, EventStore
from edgeface.stream.preview import broadcaster as broadcaster_module
from edgeface.stream.preview.broadcaster import Broadcaster
from edgeface.stream.preview.events import KeptEvents
from edgeface.stream.preview.page import Page as PreviewPage
from edgeface.stream.preview.server import Server
from edgeface.stream.thermometer import Thermometer, Warmth
from preview_shots import SOURCE, result, shot, status

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTH, HEIGHT = 320, 240
BOX = (100.0, 60.0, 180.0, 160.0)
TIMEOUT_MS = 20_000
TOKEN = "a-token-of-good-length"
# Chromium looks for updates and Google's hosts at every start otherwise.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


class WarmThermometer(Thermometer):
    """61.4 degrees, and whatever a test says of throttling."""

    throttled = ""

    def look(self) -> Warmth:
        return Warmth(Health([Zone("cpu-thermal", 61.4)], [], []), self.throttled)


class Stage:
    """A server whose source moves: a new frame every 40 ms, a face that wanders one pixel a frame."""

    def __init__(
        self, token: str | None = None, allow_hosts: tuple[str, ...] = (), events: Path | None = None
    ) -> None:
        self.controls = Controls(0.5, 320)
        self.thermometer = WarmThermometer()
        self.board = Broadcaster(SOURCE, self.controls, thermometer=self.thermometer)
        routes = PreviewPage(self.board, self.controls).routes()
        routes += KeptEvents(events, hide_faces=False).routes()
        self.server = Server(
            routes, bind="127.0.0.1", port=0, token=token, allow_hosts=allow_hosts, on_start=self.board.attach
        )
        self.url = f"http://127.0.0.1:{self.server.port}/"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def _play(self) -> None:
        self.board.status(status())
        ground = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        number = 0
        while not self._stop.wait(0.04):
            x1, y1, x2, y2 = BOX
            image = ground.copy()
            image[:, :, 0] = number % 250
            self.board.put(shot(image, number), result([(x1 + number % 50, y1, x2 + number % 50, y2)]))
            number += 1

    def pause(self) -> None:
        """No more frames; what is shown stays."""
        self._stop.set()
        self._thread.join()

    def close(self) -> None:
        self.pause()
        self.board.close()
        self.server.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1000, "height": 700}, device_scale_factor=2)
    opened = context.new_page()
    opened.set_default_timeout(TIMEOUT_MS)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    yield opened
    context.close()
    assert not problems


def wait_until(page: Page, expression: str) -> None:
    """Poll: Playwright's own wait_for_function needs eval, which the page's policy forbids."""
    deadline = time.monotonic() + TIMEOUT_MS / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)


def shown_frame(page: Page) -> int:
    # While a page is left for another one there is a document without a body.
    wait_until(page, "document.body && document.body.dataset.frame !== undefined")
    return int(page.evaluate("document.body.dataset.frame"))


def drawn(page: Page) -> list[int] | None:
    """What is drawn on the overlay: its width, then left, top, right and bottom of the pixels that are not clear."""
    found: list[int] | None = page.evaluate("""() => {
      const canvas = document.getElementById("overlay");
      const { width, height } = canvas;
      const values = canvas.getContext("2d").getImageData(0, 0, width, height).data;
      let [left, top, right, bottom] = [width, height, -1, -1];
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          if (values[4 * (y * width + x) + 3] > 128) {
            [left, right] = [Math.min(left, x), Math.max(right, x)];
            [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
          }
        }
      }
      return right < 0 ? null : [width, left, top, right, bottom];
    }""")
    return found


def only(page: Page, part: str) -> None:
    for box in page.locator("input[data-part]").all():
        box.set_checked(box.get_attribute("data-part") == part)


def test_the_picture_moves_and_the_figures_are_there(page: Page, stage: Stage) -> None:
    page.goto(stage.url)
    first = shown_frame(page)
    blue = "() => document.getElementById('picture').getContext('2d').getImageData(5, 5, 1, 1).data[2]"
    seen = page.evaluate(blue)
    wait_until(page, f"Number(document.body.dataset.frame) >= {first + 10}")
    assert page.evaluate(blue) != seen
    assert page.inner_text("#state") == "online"
    assert page.inner_text("#source") == SOURCE
    assert page.inner_text("#faces") == "1"
    assert page.inner_text("#dropped") == "3"
    assert page.inner_text("#latency").endswith(" ms")
    assert "61 °C" in page.inner_text("#temperatures")
    assert page.locator("#stages div span:first-child").all_inner_texts() == ["preprocess", "network", "decode"]


def test_the_boxes_are_where_the_json_says_at_the_screens_own_resolution(page: Page, stage: Stage) -> None:
    page.goto(stage.url)
    shown_frame(page)
    stage.pause()
    record = stage.board.record()
    assert record is not None
    wait_until(page, f"Number(document.body.dataset.frame) === {record['frame']}")
    only(page, "boxes")
    found = drawn(page)
    assert found is not None
    width, *corners = found
    css_width = page.evaluate("document.getElementById('overlay').getBoundingClientRect().width")
    assert width == pytest.approx(css_width * 2, abs=1)
    assert corners == pytest.approx([value * width / WIDTH for value in record["faces"][0]["box"]], abs=3.0)


def test_every_part_can_be_switched_off(page: Page, stage: Stage) -> None:
    page.goto(stage.url)
    shown_frame(page)
    stage.pause()
    page.wait_for_timeout(200)
    only(page, "nothing")
    assert drawn(page) is None
    for part in ("boxes", "points", "pose", "numbers"):
        only(page, part)
        assert drawn(page) is not None, part


def test_settings_reach_the_detector(page: Page, stage: Stage) -> None:
    page.goto(stage.url)
    shown_frame(page)
    page.select_option("#size", "512")
    page.locator("#score").fill("0.8")
    wait_until(page, "document.getElementById('score-value').textContent === '0.80'")
    deadline = time.monotonic() + TIMEOUT_MS / 1000
    while stage.controls.settings != (0.8, 512):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_sizes_that_the_machine_chooses_are_shown(page: Page, stage: Stage) -> None:
    page.goto(stage.url)
    shown_frame(page)
    for size_px in (256, 192):
        stage.controls.set(size_px=size_px)
        wait_until(page, f"document.getElementById('size').value === '{size_px}'")


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_clock_that_is_set_does_not_spoil_the_times(
    page: Page, stage: Stage, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    page.goto(stage.url)
    shown_frame(page)
    now_s, now_ns = time.time, time.time_ns
    monkeypatch.setattr(broadcaster_module, "time", lambda: now_s() + jump_s)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + int(jump_s * 1e9))
    first = shown_frame(page)
    wait_until(page, f"Number(document.body.dataset.frame) >= {first + 10}")
    shown_ms = float(page.inner_text("#latency").removesuffix(" ms"))
    assert abs(shown_ms) < 10_000


def test_a_source_that_stops_and_heat_are_said(page: Page, stage: Stage) -> None:
    page.goto(stage.url)
    shown_frame(page)
    stage.thermometer.throttled = "cpu clock at 1.0 of 1.8 GHz"
    page.wait_for_selector("#heat:not([hidden])")
    assert page.inner_text("#heat") == "throttled: cpu clock at 1.0 of 1.8 GHz"
    stage.pause()
    stage.board.status(status("offline", "no frame for 5 s"))
    page.wait_for_selector("#state[data-state=offline]")
    assert page.inner_text("#notice") == "offline: no frame for 5 s"


def test_a_server_that_goes_is_said_and_found_again(page: Page) -> None:
    stage = Stage()
    page.goto(stage.url)
    shown_frame(page)
    stage.close()
    page.wait_for_selector("#state[data-state=disconnected]")
    assert "No connection" in page.inner_text("#notice")


def test_a_snapshot_is_the_picture_with_what_is_drawn(page: Page, stage: Stage, tmp_path: Path) -> None:
    import cv2

    page.goto(stage.url)
    shown_frame(page)
    with page.expect_download() as download:
        page.click("#snapshot")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    saved = cv2.imread(str(path))
    assert saved is not None
    assert saved.shape == (HEIGHT, WIDTH, 3)
    assert (saved[:, :, 1] > 100).any()     # the green box on a blue ground


def test_on_a_phone_nothing_is_cut_off(browser: Browser, stage: Stage) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, device_scale_factor=3, is_mobile=True)
    page = context.new_page()
    page.goto(stage.url)
    shown_frame(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#picture").bounding_box()["width"] >= 340  # type: ignore[index]  # it is shown
    page.locator("#snapshot").scroll_into_view_if_needed()
    assert page.locator("#snapshot").is_visible()
    context.close()


def test_with_the_token_in_the_address_the_page_lives_and_with_a_wrong_one_it_does_not(page: Page) -> None:
    stage = Stage(TOKEN)
    try:
        answer = page.goto(f"{stage.url}?token=wrong-but-long-enough")
        assert answer is not None
        assert answer.status == 401
        page.goto(f"{stage.url}?token={TOKEN}")
        assert page.url == stage.url
        shown_frame(page)
    finally:
        stage.close()


def test_the_address_with_the_token_works_as_a_link_on_another_site(page: Page) -> None:
    stage = Stage(TOKEN)
    try:
        link = f'<a href="{stage.url}?token={TOKEN}">the camera</a>'
        page.route("http://chat.example/", lambda route: route.fulfill(body=link, content_type="text/html"))
        page.goto("http://chat.example/")
        page.click("a")
        shown_frame(page)
        assert page.url == stage.url
    finally:
        stage.close()


def test_numbers_that_are_none_are_left_out_of_the_drawing(page: Page, stage: Stage) -> None:
    page.goto(stage.url)
    shown_frame(page)
    stage.pause()
    lost = result([BOX])
    assert lost.faces.landmarks is not None
    assert lost.faces.pose is not None
    lost.faces.landmarks[:] = np.nan
    lost.faces.pose[:] = np.nan
    stage.board.put(shot(np.zeros((HEIGHT, WIDTH, 3), np.uint8), 9999), lost)
    wait_until(page, "document.body.dataset.frame === '9999'")
    for part in ("points", "pose"):
        only(page, part)
        assert drawn(page) is None, part


def test_it_lists_what_was_kept(page: Page, tmp_path: Path) -> None:
    store = EventStore(tmp_path, create=True)
    event = Event("door", 1, 1.8e9, 1.8e9 + 3.2, 9, 64, 48, *([0.0] * 8), score=0.9, mask=0.1, has_mask=0)
    png = cv2.imencode(".png", np.full((112, 112, 3), 90, np.uint8))[1].tobytes()
    store.change(store.add(event), event, png)
    store.close()
    stage = Stage(events=tmp_path)
    try:
        page.goto(stage.url)
        row = page.locator("#event-list li")
        row.wait_for()
        assert row.inner_text().endswith("3.2 s, no mask")
        wait_until(page, "document.querySelector('#event-list img').naturalWidth === 112")
    finally:
        stage.close()
