"""Reading pictures: what is seen, what is refused, and before what; Pillow is the oracle for EXIF and odd formats."""

from __future__ import annotations

import io
import os
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgeface.errors import ImageTooLargeError, InputError, OutputError
from edgeface.image_headers import is_picture, read_header
from edgeface.images import TRANSPARENT_GREY, read_image, write_image

LOSSLESS = ("png", "bmp", "tiff", "ppm")
ALL = (*LOSSLESS, "jpg", "webp", "gif")


def smooth(height: int = 48, width: int = 64) -> NDArray[Any]:
    """A picture without symmetry, uint8 (H, W, 3) BGR."""
    rng = np.random.default_rng(3)
    return cv2.resize(rng.integers(0, 255, (5, 6, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(image: NDArray[Any], suffix: str) -> bytes:
    done, data = cv2.imencode(f".{suffix}", image)
    assert done
    return data.tobytes()


def pillow_bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def saved(folder: Path, data: bytes, name: str = "picture") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def huge_png(width_px: int, height_px: int) -> bytes:
    """A whole PNG file whose header promises far more than it holds."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(100))) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_formats_are_read_exactly(tmp_path: Path, suffix: str) -> None:
    image = smooth()
    assert np.array_equal(read_image(saved(tmp_path, encoded(image, suffix))), image)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "gif"])
def test_lossy_formats_are_read_closely(tmp_path: Path, suffix: str) -> None:
    image = smooth()
    read = read_image(saved(tmp_path, encoded(image, suffix)))
    assert read.shape == image.shape
    assert np.abs(read.astype(int) - image).mean() < 20


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_orientation_is_applied(tmp_path: Path, kind: str, orientation: int, mode: str) -> None:
    if kind == "JPEG" and mode == "RGBA":
        mode = "L"
    picture = Image.fromarray(smooth()[:, :, ::-1]).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"tiffinfo": exif} if kind == "TIFF" else {"exif": exif.tobytes()}
    options |= {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = pillow_bytes(picture, kind, **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    read = read_image(saved(tmp_path, data))
    assert read.shape == np.asarray(upright).shape
    assert read.flags.c_contiguous
    assert np.abs(read[:, :, ::-1].astype(int) - np.asarray(upright)).mean() < 3


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_keep_the_upper_eight(tmp_path: Path, suffix: str) -> None:
    deep = smooth().astype(np.uint16) * 256 + 37
    slack = suffix == "tiff"  # libtiff divides by 257 where libpng drops the lower byte
    read = read_image(saved(tmp_path, encoded(deep, suffix)))
    assert np.abs(read.astype(int) - smooth()).max() <= slack
    read = read_image(saved(tmp_path, encoded(deep[:, :, 0], suffix)))
    assert np.abs(read.astype(int) - smooth()[:, :, :1]).max() <= slack


def test_sixteen_bits_with_alpha(tmp_path: Path) -> None:
    deep = np.dstack([smooth().astype(np.uint16) * 256, np.full((48, 64), 65535, np.uint16)])
    assert np.array_equal(read_image(saved(tmp_path, encoded(deep, "png"))), smooth())


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = smooth()[:, :, 1]
    assert np.array_equal(read_image(saved(tmp_path, encoded(grey, "png"))), np.dstack([grey] * 3))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparent_pixels_lie_on_grey(tmp_path: Path, kind: str) -> None:
    alpha = np.zeros((48, 64), np.uint8)
    alpha[:, 20:40], alpha[:, 40:] = 128, 255
    picture = Image.fromarray(np.dstack([smooth()[:, :, ::-1], alpha]))
    data = pillow_bytes(picture, kind, **{"lossless": True, "exact": True} if kind == "WEBP" else {})
    read = read_image(saved(tmp_path, data)).astype(int)
    assert (read[:, :20] == TRANSPARENT_GREY).all()
    assert np.array_equal(read[:, 40:], smooth()[:, 40:])
    assert np.abs(read[:, 20:40] - (smooth()[:, 20:40].astype(int) + TRANSPARENT_GREY) / 2).max() <= 1


def test_a_palette_may_be_transparent(tmp_path: Path) -> None:
    picture = Image.new("P", (8, 6), 1)
    picture.putpalette([255, 0, 0, 10, 20, 30])
    picture.putpixel((2, 1), 0)
    read = read_image(saved(tmp_path, pillow_bytes(picture, "PNG", transparency=0)))
    assert read[1, 2].tolist() == [TRANSPARENT_GREY] * 3
    assert read[0, 0].tolist() == [30, 20, 10]


def test_cmyk_becomes_bgr(tmp_path: Path) -> None:
    picture = Image.fromarray(smooth()[:, :, ::-1]).convert("CMYK")
    read = read_image(saved(tmp_path, pillow_bytes(picture, "JPEG", quality=95)))
    assert np.abs(read.astype(int) - smooth()).mean() < 6


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1)])
@pytest.mark.parametrize("suffix", ALL)
def test_a_picture_may_be_one_pixel_wide(tmp_path: Path, shape: tuple[int, int], suffix: str) -> None:
    read = read_image(saved(tmp_path, encoded(np.full((*shape, 3), 200, np.uint8), suffix)))
    assert read.shape == (*shape, 3)
    # OpenCV writes GIFs with few colours.
    assert np.abs(read.astype(int) - 200).max() < (60 if suffix == "gif" else 8)


@pytest.mark.parametrize("part", [0.05, 0.5, 0.9, 0.99, None])
@pytest.mark.parametrize("suffix", ALL)
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, suffix: str, part: float | None) -> None:
    data = encoded(smooth(200, 300), suffix)
    # GIF's decoder is content without the last byte, which only says that no more pictures follow.
    cut = data[: int(len(data) * part)] if part else data[: -2 if suffix == "gif" else -1]
    path = saved(tmp_path, cut, f"photo.{suffix}")
    with pytest.raises(InputError, match=r"photo\.\w+: .*(cut short|damaged)") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_a_jpeg_cut_inside_its_preview_or_its_scans_is_refused(tmp_path: Path) -> None:
    picture = Image.fromarray(smooth(200, 300)[:, :, ::-1])
    exif = Image.Exif()
    exif[0x0110] = "camera"
    preview = pillow_bytes(picture.resize((60, 40)), "JPEG")
    data = pillow_bytes(picture, "JPEG", progressive=True, exif=exif.tobytes() + preview)
    assert read_image(saved(tmp_path, data)).shape == (200, 300, 3)
    for cut in range(2, len(data), max(1, len(data) // 60)):
        with pytest.raises(InputError):
            read_image(saved(tmp_path, data[:cut]))
        with pytest.raises(InputError):
            read_image(saved(tmp_path, data[:cut] + bytes(len(data) - cut)))


def test_bytes_after_the_end_do_no_harm(tmp_path: Path) -> None:
    for suffix in ("jpg", "png", "webp"):
        assert read_image(saved(tmp_path, encoded(smooth(), suffix) + b"\xff\xd8more")).shape == (48, 64, 3)


def test_a_png_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    data = bytearray(encoded(smooth(), "png"))
    data[len(data) // 2] ^= 1
    with pytest.raises(InputError, match="checksum of its chunk IDAT"):
        read_image(saved(tmp_path, bytes(data)))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"these are words, and no picture", "not a picture"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC pictures are not read here"),
        (b"\xff\xd8\xff\xd9", "holds no picture"),
        (b"P6\nmany colours", "damaged"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read_image(saved(tmp_path, data, "notes.jpg"))
    assert "notes.jpg" in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(InputError, match="is a folder and no file"):
        read_image(tmp_path)


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", decode)
    path = saved(tmp_path, huge_png(15_000, 15_000), "wall.png")
    with pytest.raises(ImageTooLargeError, match=r"wall\.png: 15000 x 15000 is 225 megapixels.* 100"):
        read_image(path)
    with pytest.raises(AssertionError, match="decoded"):
        read_image(path, max_megapixels=225)


@pytest.mark.parametrize("suffix", ALL)
def test_every_format_tells_its_size(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path, encoded(smooth(100, 110), suffix))
    with pytest.raises(ImageTooLargeError, match="110 x 100"):
        read_image(path, max_megapixels=0.01)
    assert read_image(path, max_megapixels=0.011).shape == (100, 110, 3)


def test_too_many_bytes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.jpg"
    with path.open("wb") as stream:
        stream.truncate(3 << 30)
    with pytest.raises(ImageTooLargeError, match="3221 MB"):
        read_image(path)


def test_opencvs_own_limit_is_a_second_wall(tmp_path: Path) -> None:
    path = saved(tmp_path, huge_png(400, 300))
    code = f"from pathlib import Path; from edgeface.images import read_image; read_image(Path({str(path)!r}))"
    limits = os.environ | {"OPENCV_IO_MAX_IMAGE_PIXELS": "1000"}
    done = subprocess.run([sys.executable, "-c", code], env=limits, capture_output=True, text=True, check=False)
    assert "ImageTooLargeError" in done.stderr
    assert "more than OpenCV decodes" in done.stderr


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_headers_raise_only_input_errors(data: st.DataObject) -> None:
    """Whatever bytes are changed, the header is read or refused, and never anything else happens."""
    suffix = data.draw(st.sampled_from(ALL))
    content = bytearray(encoded(smooth(12, 14), suffix))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, min(len(content) - 1, 400)))
        content[at] = data.draw(st.integers(0, 255))
    try:
        header = read_header(bytes(content), 100.0)
    except InputError:
        return
    assert 0 < header.width_px * header.height_px <= 100e6


@settings(max_examples=200, deadline=None)
@given(tail=st.binary(max_size=200), start=st.sampled_from([b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"GIF89a", b"P5\n"]))
def test_arbitrary_bytes_raise_only_input_errors(start: bytes, tail: bytes) -> None:
    assert is_picture(start + tail)
    try:
        read_header(start + tail, 100.0)
    except InputError:
        return


@pytest.mark.parametrize("name", ["drawn.png", "drawn.bmp", "drawn.tiff"])
def test_a_written_picture_reads_back(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / name, smooth())
    assert np.array_equal(read_image(tmp_path / name), smooth())
    assert names(tmp_path) == [name]


def test_written_pictures_obey_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_image(tmp_path / "drawn.png", smooth())
    finally:
        os.umask(before)
    assert (tmp_path / "drawn.png").stat().st_mode & 0o777 == 0o640


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"drawn\.xyz: OpenCV .* cannot write"):
        write_image(tmp_path / "drawn.xyz", smooth())


def test_a_refused_write_leaves_what_was_there(tmp_path: Path) -> None:
    """A real refusal in the middle of a file: a limit on file sizes, in a process of its own."""
    path = saved(tmp_path, b"what was there", "drawn.bmp")
    code = (
        "import numpy as np; from pathlib import Path; from edgeface.images import write_image\n"
        f"write_image(Path({str(path)!r}), np.zeros((100, 100, 3), np.uint8))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "OutputError" in done.stderr
    assert "drawn.bmp: cannot be written: File too large" in done.stderr
    assert path.read_bytes() == b"what was there"
    assert names(tmp_path) == ["drawn.bmp"]
