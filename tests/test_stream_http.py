"""The source ``http``: every way in which cameras send pictures, and what is said where they send none."""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeface.errors import OptionError, SourceError
from edgeface.mjpeg import PictureSplitter
from edgeface.stream.sources import Source, make_spec
from edgeface.stream.sources import http as http_source
from edgeface.stream.sources.http import open_http
from edgeface.stream.supervision import Supervisor
from http_cameras import MULTIPART, HttpCameras, jpeg, part, picture, serving, socket_that

LONG_S = 60.0
WHOLE = [jpeg(picture(value)) for value in (60, 120, 180)]
NAMED = MULTIPART + "frame"

# What a path sends: the type, and the pieces. All of them end up as the pictures of WHOLE.
KINDS: dict[str, tuple[str, list[bytes]]] = {
    "as the standard says": (NAMED, [part(j) for j in WHOLE]),
    "no lengths": (NAMED, [part(j, length=None) for j in WHOLE]),
    "no types": (NAMED, [part(j, kind=b"") for j in WHOLE]),
    "neither": (NAMED, [part(j, kind=b"", length=None) for j in WHOLE]),
    "no first boundary": (NAMED, [part(WHOLE[0], boundary=b""), *(part(j) for j in WHOLE[1:])]),
    "no dashes": (NAMED, [part(j, boundary=b"frame") for j in WHOLE]),
    "no boundary announced": ("multipart/x-mixed-replace", [part(j) for j in WHOLE]),
    "no boundaries at all": (NAMED, [part(j, boundary=b"") for j in WHOLE]),
    "quoted": (MULTIPART + '"frame"', [part(j) for j in WHOLE]),
    "dashes in the name": (MULTIPART + "--frame", [part(j) for j in WHOLE]),
    "more dashes": (MULTIPART + "--frame", [part(j, boundary=b"----frame") for j in WHOLE]),
    "line feeds alone": (NAMED, [part(j, end=b"\n") for j in WHOLE]),
    "of no type": ("application/octet-stream", [part(j) for j in WHOLE]),
    "bare": ("video/x-motion-jpeg", WHOLE),
    "bare in one piece": ("image/jpeg", [WHOLE[0], WHOLE[1] + WHOLE[2]]),
    "bare and padded": ("video/x-motion-jpeg", [j + bytes(500) for j in WHOLE]),
    "an empty part": (NAMED, [part(WHOLE[0]), part(b""), *(part(j) for j in WHOLE[1:])]),
    "lengths too small": (NAMED, [part(j, length=len(j) // 2) for j in WHOLE]),
    "lengths too large": (NAMED, [part(j, length=len(j) + 900) for j in WHOLE]),
    "padded within the part": (NAMED, [part(j + bytes(300)) for j in WHOLE]),
    "sound between": (NAMED, [b for j in WHOLE for b in (part(b"\xff\xd8\xff" * 40, kind=b"audio/basic"), part(j))]),
    "text before": (NAMED, [b"This is a stream.\r\n\r\n", *(part(j) for j in WHOLE)]),
    "closed at the end": (NAMED, [*(part(j) for j in WHOLE), b"--frame--\r\n"]),
}
# The same with what is left out, and counted.
DAMAGED: dict[str, tuple[str, list[bytes]]] = {
    "cut, with lengths": (NAMED, [part(WHOLE[0]), part(WHOLE[1][:900]), part(WHOLE[1]), part(WHOLE[2])]),
    "cut, without": (NAMED, [part(j, length=None) for j in (WHOLE[0], WHOLE[1][:900], WHOLE[1], WHOLE[2])]),
    "cut in the header": (NAMED, [part(j, length=None) for j in (WHOLE[0], WHOLE[1][:100], WHOLE[1], WHOLE[2])]),
    "cut, bare": ("video/x-motion-jpeg", [WHOLE[0], WHOLE[1][:900], WHOLE[1], WHOLE[2]]),
    "cut at first": (NAMED, [part(WHOLE[0][:900]), *(part(j) for j in WHOLE)]),
    "no start": (NAMED, [part(WHOLE[0][200:]), *(part(j) for j in WHOLE)]),
    "zeros": (NAMED, [part(bytes(2000)), *(part(j) for j in WHOLE)]),
}


def greys(opened: Source, count: int = 100) -> list[int]:
    """The mean of each picture, to the nearest of those sent; up to the end of the stream."""
    found = []
    for _ in range(count):
        try:
            grab = opened.read()
        except SourceError:
            break
        assert grab is not None
        found.append(min((60, 120, 180), key=lambda value: abs(value - float(grab.frame.pixels.mean()))))
    opened.close()
    return found


@pytest.fixture(scope="module")
def cameras() -> Iterator[HttpCameras]:
    named = {name.replace(" ", "-").replace(",", ""): answer for name, answer in (KINDS | DAMAGED).items()}
    png = np.asarray(cv2.imencode(".png", picture(120))[1], np.uint8).tobytes()
    portrait = [part(jpeg(picture(60, 64, 48))), part(jpeg(picture(120, 48, 64))), part(jpeg(picture(180, 81, 61)))]
    with serving(named | {
        "snapshot.jpg": ("image/jpeg", [WHOLE[1]]),
        "snapshot.png": ("image/png", [png]),
        "snapshot": ("application/octet-stream", [WHOLE[1]]),
        "endless.jpg": ("image/jpeg", [WHOLE[1][:-2]]),
        "sizes": (NAMED, portrait),
        "turned.jpg": ("image/jpeg", [jpeg(picture(120, 48, 64))]),
        "odd.jpg": ("image/jpeg", [jpeg(picture(120, 81, 61))]),
        "page": ("text/html", [b"<!DOCTYPE html><title>Log in</title>" + b" " * 300]),
        "page-as-stream": ("application/octet-stream", [b"<html>log in</html>"]),
        "json": ("application/json", [b'{"error": 1}']),
        "playlist": ("application/vnd.apple.mpegurl", [b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n"]),
        "nothing": (NAMED, [b""]),
        "noise": ("video/mp2t", [np.random.default_rng(0).integers(0, 255, 9000).astype(np.uint8).tobytes()]),
    }) as served:
        yield served


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_of_sending_pictures(cameras: HttpCameras, kind: str) -> None:
    opened = open_http(make_spec(cameras.url(kind.replace(" ", "-").replace(",", ""))))
    found = greys(opened)
    # Of those that come at once only the newest is shown.
    assert found == sorted(set(found))
    assert found[-1] == 180
    assert opened.damage.total == 0     # type: ignore[attr-defined]  # of an HttpCamera


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_picture_is_left_out_and_the_next_one_taken(cameras: HttpCameras, kind: str) -> None:
    opened = open_http(make_spec(cameras.url(kind.replace(" ", "-").replace(",", ""))))
    found = greys(opened)
    assert found == sorted(set(found))
    assert found[-1] == 180
    assert opened.damage.total == 1     # type: ignore[attr-defined]  # of an HttpCamera


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from([*KINDS, *DAMAGED]), cuts=st.lists(st.integers(0, 20_000), max_size=12))
@example(kind="lengths too large", cuts=[2709])
def test_how_the_bytes_come_does_not_matter(kind: str, cuts: list[int]) -> None:
    content_type, pieces = (KINDS | DAMAGED)[kind]
    data = b"".join(pieces)
    boundary = content_type.partition("boundary=")[2].strip('"').encode()
    splitter = PictureSplitter(boundary)
    edges = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    found = [p for a, b in itertools.pairwise(edges) for p in splitter.feed(data[a:b])]
    found += splitter.flush()
    whole = [image for p in found if (image := cv2.imdecode(np.frombuffer(p, np.uint8), cv2.IMREAD_COLOR)) is not None]
    means = [float(image.mean()) for image in whole if image.shape == (48, 64, 3)]
    seen = [min((60, 120, 180), key=lambda value: abs(value - mean)) for mean in means]
    assert sorted(set(seen)) == [60, 120, 180]
    assert seen == sorted(seen)


@pytest.mark.parametrize("rubbish", [
    b"\xff\xd8" + b"\xff" * (30 << 20), b"\xff\xd8" + b"\xff\xe0\0\x02" * (7 << 20),
    b"\xff\xd8\xff\xda\0\x02" + bytes(30 << 20), b"\xff\xd8\xff\xda\0\x02" + b"\xff\0" * (15 << 20),
    b"\r\n" * (15 << 20),
], ids=["fill", "segments", "zeros", "escapes", "lines"])
@pytest.mark.timeout(60)
def test_rubbish_is_passed_over_without_a_loop_over_its_bytes(rubbish: bytes) -> None:
    """Each took minutes where every byte or two cost a step."""
    splitter = PictureSplitter(b"frame")
    for at in range(0, len(rubbish), 1 << 16):
        splitter.feed(rubbish[at : at + (1 << 16)])
    splitter.flush()
    assert splitter.feed(WHOLE[0]) == [WHOLE[0]]


@pytest.mark.parametrize("kind", ["lengths too large", "cut, without", "cut, bare", "no lengths"])
def test_a_stream_may_be_split_anywhere(kind: str) -> None:
    content_type, pieces = (KINDS | DAMAGED)[kind]
    data = b"".join(pieces)
    for cut in range(len(data)):
        splitter = PictureSplitter(content_type.partition("boundary=")[2].encode())
        found = [*splitter.feed(data[:cut]), *splitter.feed(data[cut:]), *splitter.flush()]
        assert [picture for picture in found if picture.endswith(b"\xff\xd9")] == WHOLE, cut


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(
    st.binary(max_size=60),
    st.sampled_from([*WHOLE, b"\xff\xd8\xff", b"\xff\xd9", b"--frame\r\n", b"Content-Length: 5\r\n\r\n", b"\r\n\r\n",
                     b"Content-Length: 999999999999\r\n", WHOLE[0][:700], b"\xff\xda\x00\x02"]),
), max_size=12))
def test_no_bytes_upset_the_splitter(pieces: list[bytes]) -> None:
    splitter = PictureSplitter(b"frame")
    try:
        found = [p for piece in pieces for p in splitter.feed(piece)] + splitter.flush()
    except SourceError:
        return
    assert sum(map(len, found)) <= sum(map(len, pieces))


@pytest.mark.parametrize("path", ["snapshot.jpg", "snapshot.png", "snapshot", "endless.jpg"])
def test_an_address_of_one_picture_is_asked_again_and_again(cameras: HttpCameras, path: str) -> None:
    before = cameras.asked.count(f"/{path}")
    opened = open_http(make_spec(cameras.url(path), fps=50.0))
    # The first five without an end are left out.
    assert greys(opened, 3) == [120] * 3
    assert cameras.asked.count(f"/{path}") - before == (8 if path == "endless.jpg" else 3)


def test_pictures_keep_their_own_size(cameras: HttpCameras) -> None:
    """Shown as they come: of those that come at once only the newest."""
    opened = open_http(make_spec(cameras.url("sizes")))
    sizes: list[tuple[int, int]] = []
    try:
        while (grab := opened.read()) is not None:
            sizes.append((grab.frame.width, grab.frame.height))
    except SourceError:
        opened.close()
    assert sizes == [size for size in ((64, 48), (48, 64), (81, 61)) if size in sizes]
    assert sizes[-1] == (81, 61)
    for path, size in (("snapshot.jpg", (64, 48)), ("turned.jpg", (48, 64)), ("odd.jpg", (81, 61))):
        grab = open_http(make_spec(cameras.url(path))).read()
        assert grab is not None
        assert (grab.frame.width, grab.frame.height) == size


@pytest.mark.parametrize(("path", "why"), [
    ("page", "it sends a web page and no pictures"),
    ("page-as-stream", "it sends a web page and no pictures"),
    ("json", "it sends application/json and no pictures"),
    ("playlist", r"it sends a playlist \(HLS\) and no pictures"),
    ("nothing", "it sends nothing: check the path"),
    ("noise", "no picture and no video"),
])
def test_what_is_no_picture_is_named(cameras: HttpCameras, path: str, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        open_http(make_spec(cameras.url(path)))


@pytest.mark.parametrize(("status", "why"), [
    (403, "may not see the stream"), (404, "no such stream"), (500, "it answers 500 Internal Server Error"),
    (503, "it answers 503 Service Unavailable: it is busy"), (204, "it answers 204"),
])
def test_a_refusal_is_named(cameras: HttpCameras, status: int, why: str) -> None:
    cameras.refusals["refused"] = status
    with pytest.raises(SourceError, match=why):
        open_http(make_spec(cameras.url("refused")))


@pytest.mark.parametrize("kind", ["Basic", "Digest"])
def test_a_login_is_sent_as_it_is_asked_for_and_only_then(cameras: HttpCameras, kind: str) -> None:
    cameras.logins["snapshot.jpg"] = (kind, "us@er:p@ss/w#rd")
    try:
        opened = open_http(make_spec(cameras.url("snapshot.jpg", "us%40er:p%40ss%2Fw%23rd@"), fps=50.0))
        assert greys(opened, 3) == [120] * 3
        with pytest.raises(SourceError, match="the name or password is wrong") as raised:
            open_http(make_spec(cameras.url("snapshot.jpg", "us%40er:wrong@")))
        assert "wrong@" not in str(raised.value)
        with pytest.raises(SourceError, match="it wants a login"):
            open_http(make_spec(cameras.url("snapshot.jpg")))
    finally:
        del cameras.logins["snapshot.jpg"]


@pytest.mark.parametrize("login", ["us@er:p@ss", "me:a/b?c#d", "me:", ":secret"])
def test_a_login_may_be_written_as_it_is(cameras: HttpCameras, login: str) -> None:
    cameras.logins["snapshot.jpg"] = ("Basic", login)
    try:
        assert greys(open_http(make_spec(cameras.url("snapshot.jpg", f"{login}@"))), 1) == [120]
    finally:
        del cameras.logins["snapshot.jpg"]


def test_redirects_are_followed_within_the_address_that_was_given(cameras: HttpCameras) -> None:
    cameras.redirects |= {"old": "/older", "older": cameras.url("snapshot.jpg"), "round": "/and-round",
                          "and-round": "/round", "file": "file:///etc/passwd", "rtsp": "rtsp://127.0.0.1/x"}
    assert greys(open_http(make_spec(cameras.url("old"))), 1) == [120]
    with pytest.raises(SourceError, match="its redirects lead in a circle"):
        open_http(make_spec(cameras.url("round"), any_redirect=True))
    for name in ("file", "rtsp"):
        with pytest.raises(SourceError, match=rf"it redirects to {name}://.*, which is not http"):
            open_http(make_spec(cameras.url(name), any_redirect=True))


def test_a_camera_reaches_no_address_that_was_not_given(cameras: HttpCameras) -> None:
    with serving({"secret": ("image/jpeg", [WHOLE[0]])}) as other:
        for host in ("127.0.0.1", "localhost", "me:pw@127.0.0.1"):
            cameras.redirects["elsewhere"] = f"http://{host}:{other.port}/secret"
            with pytest.raises(SourceError, match="another address than the one given") as raised:
                open_http(make_spec(cameras.url("elsewhere", "me:hidden@")))
            assert "hidden" not in str(raised.value)
            assert "pw@" not in str(raised.value)
        assert other.asked == []
        other.logins["secret"] = ("Basic", "me:hidden")
        with pytest.raises(SourceError, match=r"it answers 401|the name or password is wrong"):
            open_http(make_spec(cameras.url("elsewhere", "me:hidden@"), any_redirect=True))
        other.logins.clear()
        assert greys(open_http(make_spec(cameras.url("elsewhere"), any_redirect=True)), 1) == [60]


def test_a_proxy_of_the_environment_is_not_asked(cameras: HttpCameras, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert greys(open_http(make_spec(cameras.url("snapshot.jpg"))), 1) == [120]


def test_a_certificate_of_its_own_is_taken_when_that_is_asked_for(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    made = tmp_path / "camera.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=camera", "-days", "2",
         "-keyout", made, "-out", tmp_path / "certificate.pem"], check=True, capture_output=True,
    )
    made.write_bytes(made.read_bytes() + (tmp_path / "certificate.pem").read_bytes())
    with serving({"x": ("image/jpeg", [WHOLE[0]])}, made) as camera:
        address = f"https://127.0.0.1:{camera.port}/x"
        with pytest.raises(SourceError, match=r"certificate is not one to trust.*--any-certificate"):
            open_http(make_spec(address))
        assert greys(open_http(make_spec(address, any_certificate=True)), 1) == [60]
        with pytest.raises(SourceError, match=r"closes the connection|does not speak HTTP|connection broke"):
            open_http(make_spec(address.replace("https", "http")))


def silent(connection: object) -> None:
    assert isinstance(connection, socket.socket)
    connection.recv(4096)
    connection.recv(4096)       # nobody sends more: it waits


def rude(connection: object) -> None:
    assert isinstance(connection, socket.socket)
    connection.recv(4096)
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    connection.close()


def gone(connection: object) -> None:
    assert isinstance(connection, socket.socket)
    connection.recv(4096)
    connection.close()


def mute(connection: object) -> None:
    assert isinstance(connection, socket.socket)
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=f\r\n\r\n")
    connection.recv(4096)


@pytest.mark.parametrize(("behaviour", "why"), [
    (silent, "takes the connection and does not answer"),
    (mute, "it sent nothing for 0.5 s"),
    (rude, "does not speak HTTP"),
    (gone, "closes the connection without an answer"),
])
def test_silence_and_strangers_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, behaviour: object, why: str
) -> None:
    from edgeface.stream.sources import http_client

    monkeypatch.setattr(http_client, "READ_TIMEOUT_S", 0.5)
    assert callable(behaviour)
    with socket_that(behaviour) as port, pytest.raises(SourceError, match=why):
        open_http(make_spec(f"http://127.0.0.1:{port}/"))


def test_a_stream_without_a_picture_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_source, "OPEN_S", 0.3)
    chatter = [part(b"tick", kind=b"text/plain") for _ in range(100)]
    with (
        serving({"x": (NAMED, chatter)}) as camera,
        pytest.raises(SourceError, match=r"it answers, but no picture came in 0\.3 s"),
    ):
        open_http(make_spec(camera.url("x")))


@pytest.mark.parametrize("address", ["http://", "http://:80/", "http://[::1/", "http://host:port/"])
def test_an_address_that_is_none_is_said_at_once(address: str) -> None:
    with pytest.raises(OptionError, match="is no address: write http://HOST"):
        open_http(make_spec(address))


def test_a_video_over_http_is_read_as_a_video(here: Path, astronaut: NDArray[np.uint8]) -> None:
    from detect_command import clip

    data = clip(here / "clip.avi", astronaut[:64, :64], 6, "MJPG").read_bytes()
    # In a process of its own, as it always runs: OpenCV reads its options once.
    with (
        serving({"clip.avi": ("video/x-msvideo", [data])}) as camera,
        Supervisor(make_spec(camera.url("clip.avi"))) as supervisor,
    ):
        shot = supervisor.newest(LONG_S)
    assert shot is not None
    assert (shot.width, shot.height) == (64, 64)
