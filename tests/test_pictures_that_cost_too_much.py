"""Pictures whose bytes cost more time or memory than their pixels are worth, and what is no file at all."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from edgeface.errors import ImageTooLargeError, InputError
from edgeface.image_headers import read_header
from edgeface.images import TRANSPARENT_GREY, read_image

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"


def case(name: str) -> Path:
    path = CASES / name
    if not path.exists():
        pytest.skip(f"no ../shared/cases/{name} beside the repository")
    return path


def grey_values() -> np.ndarray:
    return np.linspace(0, 1, 60).reshape(6, 10)


@pytest.mark.parametrize("max_value", [1, 7, 15, 100, 255, 256, 1023, 4095, 40000, 65535])
@pytest.mark.parametrize("kind", [2, 3, 5, 6])
def test_white_is_what_a_pnm_says(tmp_path: Path, max_value: int, kind: int) -> None:
    wanted = np.rint(grey_values() * max_value).astype(int)
    channels = np.repeat(wanted[:, :, None], 3, 2) if kind in (3, 6) else wanted
    if kind < 4:
        body = " ".join(map(str, channels.ravel())).encode()
    else:
        body = channels.astype(">u2" if max_value > 255 else np.uint8).tobytes()
    path = tmp_path / "picture.pnm"
    path.write_bytes(f"P{kind}\n# a remark\n10 6\n{max_value}\n".encode() + body)
    read = read_image(path)
    assert read.shape == (6, 10, 3)
    assert np.abs(read.astype(float) - (wanted * 255 / max_value)[:, :, None]).max() <= 1


def test_every_largest_value_gives_the_same_brightness() -> None:
    pictures = {path.name: read_image(path).astype(int) for path in sorted(case("pnm_maxval").glob("*.p?m"))}
    assert len(pictures) >= 4
    for name, picture in pictures.items():
        assert np.abs(picture - pictures["max255.pgm"]).max() <= 1, name


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pgm", b"P2\n2 2\n100\n1 2 3 101\n"), ("a.pgm", b"P2 2 2 255\n1 2 # 9999\n3 256"),
        ("a.ppm", b"P3 1 1 1000 0 0 1001"), ("a.pgm", b"P5 2 1 100\n\x64\x65"), ("a.pgm", b"P5 1 1 300\n\x01\x2d"),
    ],
)
def test_a_pnm_with_values_over_its_white_is_damaged(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"has values over \d+, which it says is white: it is damaged"):
        read_image(path)
    path.write_bytes(b"P2 2 2 100\n1 2 # 9999\n3 100")
    assert read_image(path)[1, 1, 0] == 255


def test_a_size_reads_without_an_exponent() -> None:
    with pytest.raises(ImageTooLargeError, match="is 10000 megapixels, more than the limit of 100: shrink it"):
        read_header(b"P5 100000 100000 255\n", 100.0)


@pytest.mark.parametrize(
    "header",
    [
        b"P5\n" + b"9" * 5000 + b" 3\n255\n", b"P6 3 " + b"1" * 11 + b" 255\n", b"P5 3 3 0\n", b"P5 3 3 70000\n",
        b"P2 3 3", b"P6" + b" " * (1 << 17) + b"3 3 255\n", b"P5\n" + b"#\n" * (1 << 16) + b"3 3 255\n",
    ],
)
def test_a_pnm_header_without_sense_is_damaged(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "picture.ppm"
    path.write_bytes(header + bytes(100))
    with pytest.raises(InputError, match="damaged"):
        read_image(path)


def test_the_picture_with_5000_digits_is_damaged() -> None:
    with pytest.raises(InputError, match="damaged"):
        read_image(case("pictures/pnm_digits.ppm"))


def test_many_scans_are_refused_by_what_they_cost(tmp_path: Path) -> None:
    with pytest.raises(ImageTooLargeError, match="scans take too long"):
        read_image(case("pictures/scans.jpg"))


def test_a_progressive_jpeg_of_usual_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "progressive.jpg"
    Image.fromarray(np.full((900, 1200, 3), 90, np.uint8)).save(path, progressive=True)
    assert read_header(path.read_bytes(), 2.0).scans >= 6
    assert read_image(path, max_megapixels=2.0).shape == (900, 1200, 3)
    with pytest.raises(ImageTooLargeError, match="scans take too long"):
        read_header(path.read_bytes()[:-2] + path.read_bytes()[2:-2] * 9 + b"\xff\xd9", 1.1)


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\xd0", b"\xff\x01", b"\xff\x00", b"\xff\xe0\x00\x02"])
def test_fifty_megabytes_of_markers_are_gone_through_at_once(filling: bytes) -> None:
    # A loop over bytes or markers took 43 s; what is left takes about 0.2 s.
    data = b"\xff\xd8\xff\xe0\x00\x02" + filling * (50_000_000 // len(filling))
    code = (
        "import sys; from edgeface.image_headers import read_header; from edgeface.errors import InputError\n"
        "try: read_header(sys.stdin.buffer.read(), 100)\nexcept InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, timeout=20, check=True)
    assert re.search(rb"cut short|damaged", done.stdout)


def test_png_of_nothing_but_chunks_is_damaged() -> None:
    chunk = struct.pack(">I4sI", 0, b"teXt", zlib.crc32(b"teXt"))
    head = b"IHDR" + struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    with pytest.raises(InputError, match="too many parts"):
        read_header(start + chunk * 300_000, 100)


@pytest.mark.parametrize(("bits", "limit"), [(8, 3), (16, 3)])
def test_transparency_takes_at_most_three_times_the_decoded_picture(tmp_path: Path, bits: int, limit: int) -> None:
    side = 3000
    rgba = np.zeros((side, side, 4), np.uint8 if bits == 8 else np.uint16)
    path = tmp_path / "clear.png"
    assert cv2.imwrite(str(path), rgba)
    code = """
import re, sys; from pathlib import Path; from edgeface.images import read_image
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before = peak(); image = read_image(Path(sys.argv[1])); print(peak() - before, image[0, 0].tolist())
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    taken, pixel = done.stdout.split(" ", 1)
    assert int(taken) < limit * rgba.nbytes
    assert pixel.strip() == str([TRANSPARENT_GREY] * 3)


def test_bytes_are_budgeted_and_not_pixels_alone(tmp_path: Path) -> None:
    for dtype, refused in ((np.uint8, False), (np.uint16, True)):
        path = tmp_path / f"{np.dtype(dtype).name}.png"
        assert cv2.imwrite(str(path), np.zeros((3000, 3000, 4), dtype))
        if refused:
            with pytest.raises(ImageTooLargeError, match=r"MB to decode"):
                read_image(path, max_megapixels=9)
        else:
            assert read_image(path, max_megapixels=9).shape == (3000, 3000, 3)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link in a circle"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "picture.jpg"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path.name)
    with pytest.raises(InputError, match=r"picture\.jpg: .*(is a (pipe|device|folder) and no file|symbolic links)"):
        read_image(path)


def test_a_pipe_is_refused_even_with_somebody_who_writes(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = threading.Thread(target=lambda: path.write_bytes(b"\xff\xd8\xff"), daemon=True)
    writer.start()
    with pytest.raises(InputError, match="is a pipe"):
        read_image(path)
    os.close(reader)
