"""What people may see of an address: all of it but what lets others in, however that was written."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from string import ascii_letters, ascii_lowercase, digits, hexdigits
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeface.addresses import has_secret, redacted, redacted_text
from edgeface.cli import main
from edgeface.errors import EdgefaceError, InputError, OptionError
from edgeface.stream.notify.webhook import Webhook
from edgeface.stream.preview.server import Server
from edgeface.stream.sinks.mqtt import Address
from edgeface.stream.sources import SourceSpec, make_spec
from edgeface.stream.sources.http_client import HttpClient

MARK = "hunter2"
WITH_SECRETS = [
    ("rtsp://admin:hunter2@cam/live", "rtsp://cam/live"),
    ("rtsp://admin:pa#hunter2@cam/live", "rtsp://cam/live"),
    ("rtsp://admin:pa/hunter2@cam:554/live", "rtsp://cam:554/live"),
    ("rtsp://admin:p@hunter2@cam/live", "rtsp://cam/live"),
    ("rtsp://admin:pa hunter2@cam/live", "rtsp://cam/live"),
    ("rtsp://admin:pa?hunter2@cam/live", "rtsp://cam/live"),
    ("rtsp://admin:12/hunter2@192.168.1.9/live", "rtsp://***@192.168.1.9/live"),
    ("rtsp://me:hunter2@s/s@camera/1?x=a@b", "rtsp://camera/1"),
    ("rtsp://cam:554/user=admin_password=hunter2_channel=1_stream=0.sdp?real_stream",
     "rtsp://cam:554/user=***_password=***_channel=1_stream=0.sdp"),
    ("rtsp://cam:554/user=admin&password=hunter2&channel=1&stream=0.sdp?",
     "rtsp://cam:554/user=***&password=***&channel=1&stream=0.sdp"),
    ("http://cam/videostream.cgi?loginuse=admin&loginpas=hunter2", "http://cam/videostream.cgi"),
    ("http://cam/img/video.mjpeg?u=admin&p=hunter2", "http://cam/img/video.mjpeg"),
    ("rtsp://cam/live;password=hunter2", "rtsp://cam/live;password=***"),
    ("rtsp://cam/av0_0?sid=hunter2", "rtsp://cam/av0_0"),
    ("rtsp://10.0.0.9:8554/hunter2?pin=hunter2", "rtsp://10.0.0.9:8554/***"),
    ("http://cam/token/hunter2/live", "http://cam/token/***/live"),
    ("http://cam/admin:hunter2/live", "http://cam/admin:***/live"),
    ("http://cam/user%3Dme%26password%3Dhunter2/1", "http://cam/user=***&password=***/1"),
    ("http://proxy:8080/rtsp://admin:hunter2@cam/live", "http://proxy:8080/rtsp://cam/live"),
    ("rtsp://admin:hunter2", "rtsp://admin:***"),
    ("admin:hunter2@cam/live", "cam/live"),
    ("//admin:hunter2@cam/live", "cam/live"),
    ("http://cam/pw/hunter2/1", "http://cam/pw/***/1"),
]
KEYS = [
    ("rtsps://192.168.1.1:7441/AbCdEfGhIjKlMnOp?enableSrtp", "rtsps://192.168.1.1:7441/***"),
    ("http://cam/5f4dcc3b5aa765d61d8327deb882cf99/live", "http://cam/***/live"),
    ("http://cam/550e8400-e29b-41d4-a716-446655440000", "http://cam/***"),
    ("http://cam/YWRtaW46aHVudGVyMg==", "http://cam/***"),
    ("rtmp://cam/app/bm6r8owxe4mx2ela", "rtmp://cam/app/***"),
    ("https://cam/RrDwSpl2xUMZHTqk/live", "https://cam/***/live"),
    ("rtmp://a.rtmp.youtube.com/live2/mkqz-wvtb-xrpd-jhgn-cfsl", "rtmp://a.rtmp.youtube.com/live2/***"),
    ("rtmp://a.rtmp.youtube.com/live2/x3f9-k2ud-7h4m-p0qz-1r8s", "rtmp://a.rtmp.youtube.com/live2/***"),
    ("rtmp://live.twitch.tv/app/live_123456789_AbCdEf0123GhIjKlMnOpQr", "rtmp://live.twitch.tv/app/***"),
    ("rtmps://live-api-s.facebook.com:443/rtmp/FB-1234567890-0-AbwXyZ", "rtmps://live-api-s.facebook.com:443/rtmp/***"),
    ("rtmp://live.restream.io/live/re_1234567_abcdef0123456789", "rtmp://live.restream.io/live/***"),
    ("http://nvr:8080/hEFRwJCnRYsVbT9x/mjpeg/2Df5hBE/cam1", "http://nvr:8080/***/mjpeg/***/cam1"),
    ("rtsps://stream-ue1.dropcam.com:443/sdm_live_stream/CiUA2vuxr_zoChpekrBmo?auth=x",
     "rtsps://stream-ue1.dropcam.com:443/sdm_live_stream/***"),
    ("https://hooks.slack.com/services/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",
     "https://hooks.slack.com/services/***/***/***"),
    ("https://discord.com/api/webhooks/123456789012345678/sadfkjh32kjsdhf-KJH", "https://discord.com/api/webhooks/***/***"),
    ("https://api.telegram.org/bot123456:ABC-DEF1234ghIkl/sendMessage", "https://api.telegram.org/bot123456:***/sendMessage"),
    ("http://ha:8123/api/webhook/my-door", "http://ha:8123/api/webhook/***"),
    ("https://maker.ifttt.com/trigger/face/with/key/hunter2", "https://maker.ifttt.com/trigger/face/with/key/***"),
    ("http://cam/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N/live", "http://cam/***/live"),
    ("http://cam/MFRGGZDFMZTWQ2LK", "http://cam/***"),
    ("rtsp://cam/live/qzvkxwjtbnmr", "rtsp://cam/live/***"),
    ("rtsp://cam/live/a1b2c3d4", "rtsp://cam/live/***"),
    ("rtsp://cam/live/k3y9x2", "rtsp://cam/live/***"),
    ("rtsp://cam/live-x7k2m9qp/main", "rtsp://cam/***/main"),
    ("rtsp://cam/5.hunter2.mp2", "rtsp://cam/5.***.mp2"),
    ("rtsp://cam/0/admin:pwd/main", "rtsp://cam/0/admin:***/main"),
]
# What cameras' manuals and streaming servers have there, with what people name a stream or a recording.
PATHS = [
    "Streaming/Channels/101", "ISAPI/Streaming/channels/102/picture", "h264/ch1/main/av_stream", "cam/realmonitor",
    "live/ch00_0", "live/ch0", "onvif1", "onvif-media/media.amp", "axis-cgi/mjpg/video.cgi", "videoMain", "11", "12",
    "live.sdp", "h264Preview_01_main", "h265Preview_01_sub", "unicast/c12/s1/live", "profile2/media.smp",
    "MediaInput/h264/stream_1", "mpeg4/1/media.amp", "rtsp_tunnel", "video1+audio1", "ucast/11", "tcp/av0_0",
    "ipcam_mjpeg.sdp", "nphMotionJpeg", "nphMpeg4/g726-640x480", "oneshotimage1", "Jpeg/CamImg.jpg",
    "mjpg/1/video.mjpg", "tmpfs/auto.jpg", "cgi-bin/hi3510/snap.cgi", "defaultSecondary", "ch0_unicast_firststream",
    "ch01.264", "rtph2641080p", "LowResolutionVideo", "trackID=1", "0/1:1/main", "StdCh1", "wfov", "stream.m3u8",
    "access_code", "access_name_for_stream_1_to_5", "AVStream1_1", "gnz_media/main", "videoinput_1/h264_1/media.stm",
    "udp/unicast/aiphone_H264", "api/camera_proxy/camera.garage_hd", "cgi-bin/nph-zms", "LiveApp", "WebRTCAppEE",
    "vod/mp4:sample.mp4", "go2rtc", "esp32-cam", "wyze-cam-v3", "ov2640", "picam-hq-imx477", "UVC-G4-Pro",
    "cam2b-4k-hd", "b1-f2-cam3", "schlafzimmerfenster", "treppenhaus", "cocina", "stairs-b2-east",
    "cam_garage_720p_15fps", "ipcam/h264_1080p_30fps_main", "VID_20241130_101500.mp4", "2024-11-30T10:15:00.mp4",
    "front-door-2024-11-30T10-15-00.mp4", "IMG_1234.jpg", "clip0001.mp4",
]
WITHOUT = [
    "rtsp://cam/Streaming/Channels/101", "rtsp://cam:554/cam/realmonitor", "rtsp://cam/h264Preview_01_main",
    "rtsp://[fe80::1]:554/live/ch00_0", "http://ha:8123/api/camera_proxy_stream/camera.front_door",
    "rtsp://cam/MediaProfile1Stream", "rtsp://cam/H265MainStream1080p", "http://cam/rec_20241130T101500Z.mp4",
    "http://cam/axis-media/media.amp;resolution=640x480", "http://10.0.0.9/@me/live",
    "http://cam/cgi-bin/CGIProxy.fcgi", "http://cam/snapshotJPEG", "http://cam/", "http://cam", "clip.mp4",
    "/videos/password=1.mp4", "demo", "/dev/video0", "photos/**/*.jpg", "a:b.mp4",
]


@pytest.mark.parametrize(("address", "shown"), WITH_SECRETS + KEYS)
def test_what_lets_others_in_is_hidden_and_nothing_else(address: str, shown: str) -> None:
    assert redacted(address) == shown
    assert has_secret(address)
    assert has_secret(f"--source={address}") or "://" not in address


@pytest.mark.parametrize("address", WITHOUT + [f"rtsp://cam/{path}" for path in PATHS])
def test_an_address_without_secrets_stays_as_it_is(address: str) -> None:
    assert redacted(address) == address
    assert not has_secret(address)


@pytest.mark.parametrize("address", [
    "mqtt://me@broker", "rtsp://cam/cam/realmonitor?channel=1&subtype=0", "http://cam/v?resolution=640x480",
    "rtsp://cam/live?enableSrtp", "http://cam/v?user=me",
])
def test_a_name_or_a_setting_is_no_secret(address: str) -> None:
    assert not has_secret(address)


@pytest.mark.parametrize(("signs", "length", "least"), [
    (ascii_lowercase, 16, 0.95), (ascii_lowercase + digits, 8, 0.8), (ascii_lowercase + digits, 16, 0.99),
    (ascii_letters + digits, 12, 0.95), (ascii_letters + digits + "-_", 24, 0.99), (hexdigits[:16], 32, 1.0),
])
def test_drawn_keys_are_hidden(signs: str, length: int, least: float) -> None:
    rng = random.Random(length)
    drawn = ("".join(rng.choices(signs, k=length)) for _ in range(500))
    assert sum(redacted(f"rtsp://cam/live/{key}") == "rtsp://cam/live/***" for key in drawn) >= 500 * least


words = st.text("abcdefgh", min_size=1, max_size=8)
names = st.text("abcdefgh0123._-", min_size=1, max_size=10).filter(lambda name: name[0].isalpha())
hosts = st.one_of(
    words, st.tuples(words, words).map(".".join), st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)
ports = st.one_of(st.just(""), st.integers(1, 65535).map(lambda port: f":{port}"))
paths = st.lists(words, max_size=3).map(lambda parts: "".join(f"/{part}" for part in parts))
passwords = st.tuples(st.text("ab1#/@:?& =%;ü", max_size=6), st.text("ab1#/@:?& =%;ü", max_size=6)).map(MARK.join)
queries = st.lists(st.tuples(words, st.text("ab1.,-_%@", max_size=6)), max_size=3).map(
    lambda pairs: "?" + "&".join(f"{key}={value}{MARK}" for key, value in pairs) if pairs else ""
)


@given(st.sampled_from(["rtsp", "http", "https", "rtsps", "mqtt"]), names, passwords, hosts, ports, paths, queries)
def test_no_password_is_shown_however_it_is_written(
    scheme: str, name: str, password: str, host: str, port: str, path: str, query: str
) -> None:
    place = f"{scheme}://{host}{port}{path}"
    for written in (quote(password, safe=""), password):
        address = f"{scheme}://{name}:{written}@{host}{port}{path}{query}"
        assert MARK not in redacted(address)
        assert MARK not in redacted_text(f"cannot open {address}: refused", address)
        assert has_secret(address)
    if path or "@" not in query:     # else it may be a password with a '?' in it
        assert redacted(f"{scheme}://{name}:{quote(password, safe='')}@{host}{port}{path}{query}") == place
        assert redacted(f"{place}{query}") == place
    assert redacted(place) == place


@given(hosts, ports, paths, st.sampled_from("#/@: ?%ü;="), words)
def test_a_password_with_a_sign_hides_neither_host_nor_path(
    host: str, port: str, path: str, sign: str, rest: str
) -> None:
    assume(not host[0].isdigit() or sign not in "/?#")
    assert redacted(f"rtsp://admin:{rest}{sign}{MARK}@{host}{port}{path}") == f"rtsp://{host}{port}{path}"


def test_a_program_that_repeats_a_part_of_an_address_does_not_give_it_away() -> None:
    address = "rtsp://admin:pa hunter2@cam/live?token=sesame1"
    said = "cannot resolve pa hunter2@cam, tried rtsp://admin:pa hunter2@cam/live?token=sesame1 and sesame1."
    text = redacted_text(said, address)
    assert "hunter2" not in text
    assert "sesame1" not in text
    assert "tried rtsp://cam/live and" in text
    assert redacted_text("see http://cam/a?b=c, or 'rtsp://me:secret@camera/1': no") == \
        "see http://cam/a, or 'rtsp://camera/1': no"


def said_of(look: Callable[[], str]) -> str:
    """What it gives, or the text of its error."""
    try:
        return look()
    except EdgefaceError as error:
        return str(error)


@pytest.mark.parametrize("address", [address for address, _ in WITH_SECRETS])
def test_no_error_and_no_line_of_a_source_repeats_a_secret(address: str) -> None:
    assert MARK not in said_of(lambda: make_spec(address).shown)
    assert MARK not in said_of(lambda: Address.parse(address.replace("rtsp://", "mqtt://")).host)


def test_commands_do_not_repeat_a_secret(tmp_path: Path) -> None:
    run = CliRunner().invoke
    address = "rtsp://admin:hunter2@cam/live?pin=hunter2"
    for words in (
        ["detect", address],
        ["detect", address, f"{address}x"],
        ["camera", "demo", address],
        ["camera", "demo", "x", address],
        ["service", "install", "--print", "--source", address],
        ["service", "install", "--print", f"--source={address}"],
        ["camera", "demo", "--mqtt", "mqtt://me:hun/hunter2@broker", "--check"],
    ):
        done = run(main, words)
        assert done.exit_code != 0, words
        assert MARK not in done.output, words
    checked = run(main, ["camera", address, "--check", "--json", str(tmp_path / "a.jsonl")])
    assert (checked.exit_code, checked.output.split(" by ")[0]) == (0, "rtsp://cam/live")


@pytest.mark.parametrize("host", ["a..b", "a" * 64, "b\udce9"])
def test_a_name_that_no_resolver_takes_is_refused_before_it_is_asked(host: str) -> None:
    for refuse in (
        lambda: Address.parse(f"mqtt://{host}"), lambda: Webhook(f"http://{host}/"),
        lambda: HttpClient(SourceSpec(kind="http", address=f"http://{host}/")),
        lambda: Server([], bind=host, port=0, token=None),
    ):
        with pytest.raises(EdgefaceError):
            refuse()


@pytest.mark.parametrize("address", ["rtsp://cam/b\udce9", "http://cam/\0", "rtsp://cam/a\nb"])
def test_signs_that_are_no_text_are_refused(address: str) -> None:
    with pytest.raises(OptionError, match="%XX"):
        make_spec(address)


def test_a_file_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:password=b@c.mp4").write_bytes(b"")
    assert make_spec("a:password=b@c.mp4").shown == "a:password=b@c.mp4"
    with pytest.raises(InputError, match="no such file"):
        make_spec("./none.mp4")
    json.dumps(redacted("\udcff://\udcff:\udcff@\udcff"))
