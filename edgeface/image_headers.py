"""What a picture file says of itself, read from its bytes before any decoder sees them.

Two things are wanted of it: the number of pixels, so that a picture too large is refused before memory is spent on it,
and whether the file is whole, because some decoders fill what is missing with grey instead of failing.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from edgeface.errors import ImageTooLargeError, InputError

# 15,000 x 15,000 pixels would take 675 MB once decoded; 100 megapixels take 300.
MAX_MEGAPIXELS = 100.0
_EXIF_ORIENTATION = 0x0112
# What decoding may take, file and OpenCV's own copies together, for each pixel of the limit: 900 MB at 100 megapixels.
_DECODING_BYTES_A_PIXEL = 9
_NEVER_TOO_MUCH = 64 << 20
# OpenCV holds a picture twice while it decodes it: 8 bits in three channels, as nearly everywhere.
_USUAL_BYTES = 6.0
# A progressive JPEG is gone through once a scan; encoders write about ten.
_MOST_SCANS = 20
# Far more than encoders write: a file of nothing but empty parts would keep a loop over them busy for a minute.
_MOST_PARTS = 200_000
# With all of its comments. What looks for numbers between them takes a hundred bytes for each of a comment's.
_LONGEST_PNM_HEADER = 1 << 16
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
# FF may be repeated before a marker; FF 00 is none, and 01 and D0..D8 stand alone.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
# Inside a scan, FF 00 is a data byte FF and FF D0..D7 are restart markers: anything else after FF ends the scan.
_JPEG_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_PNM_TOKEN = re.compile(rb"(?:\s|#[^\n]*\n)*(\d{1,9})(?=[\s#])")
_HEIF_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC", b"avif": "AVIF", b"avis": "AVIF"}


@dataclass(frozen=True)
class ImageHeader:
    """A picture's format, its size as the decoder gives it, the EXIF orientation still to be applied (1..8; 1 = none)
    and, for PNG and WebP, whether pixels can be transparent. ``max_value`` is what PNM says white is, and ``body_at``
    where its values begin.

    ``bytes_a_pixel`` is what OpenCV takes to decode it, its own copies included; ``scans`` how often a JPEG's pixels
    are gone through.
    """

    format: str
    width_px: int
    height_px: int
    orientation: int = 1
    has_alpha: bool = False
    max_value: int = 255
    bytes_a_pixel: float = _USUAL_BYTES
    scans: int = 1
    body_at: int = 0

    @property
    def displayed_px(self) -> tuple[int, int]:
        """(width, height) once the orientation is applied."""
        size_px = (self.width_px, self.height_px)
        return size_px if self.orientation < 5 else size_px[::-1]


class _CutShortError(Exception):
    """The file ends before its content does."""


class _DamagedError(Exception):
    """The file contradicts itself; the text says where."""


def read_header(data: bytes, max_megapixels: float) -> ImageHeader:
    """The header of a whole picture file.

    Raises ImageTooLargeError as soon as the size is known to be above ``max_megapixels`` (millions of pixels), and
    InputError when the file is empty, of no format known here, cut short or damaged. The texts start after the file's
    name, which the caller knows.
    """
    if not data:
        raise InputError("the file is empty: copy it again")
    for magic, parse in _PARSERS:
        if re.match(magic, data, re.DOTALL):
            try:
                return _affordable(parse(data, max_megapixels), len(data), max_megapixels)
            except (_CutShortError, struct.error, IndexError):
                raise InputError("the file is cut short: copy it again") from None
            except _DamagedError as error:
                raise InputError(f"the file is damaged ({error}): copy it again") from None
    if is_heif(data):
        raise InputError(f"{_HEIF_BRANDS[data[8:12]]} pictures are not read here: save it as JPEG or PNG")
    raise InputError("not a picture: give JPEG, PNG, WebP, TIFF, BMP, GIF or PNM")


def is_picture(start: bytes) -> bool:
    """Whether the first 16 bytes or more of a file are those of a picture format read here."""
    return any(re.match(magic, start, re.DOTALL) for magic, _ in _PARSERS)


def is_heif(start: bytes) -> bool:
    """Whether the first 12 bytes or more of a file are those of a HEIC or AVIF picture, which are not read here."""
    return start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS


def _number(value: float) -> str:
    """To four digits, without an exponent."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


def _sized(header: ImageHeader, max_megapixels: float) -> ImageHeader:
    if header.width_px < 1 or header.height_px < 1:
        raise _DamagedError(f"its size is {header.width_px} x {header.height_px}")
    megapixels = header.width_px * header.height_px / 1e6
    if megapixels > max_megapixels:
        raise ImageTooLargeError(
            f"{header.width_px} x {header.height_px} is {_number(megapixels)} megapixels, more than the limit of "
            f"{_number(max_megapixels)}: shrink it, or raise --max-megapixels"
        )
    return header


def _affordable(header: ImageHeader, file_bytes: int, max_megapixels: float) -> ImageHeader:
    pixels = header.width_px * header.height_px
    needed_bytes = file_bytes + pixels * header.bytes_a_pixel
    limit_bytes = max_megapixels * 1e6 * _DECODING_BYTES_A_PIXEL
    if needed_bytes > max(limit_bytes, _NEVER_TOO_MUCH):
        raise ImageTooLargeError(
            f"{header.width_px} x {header.height_px} of this kind of {header.format} take "
            f"{_number(needed_bytes / 1e6)} MB to decode, more than the limit of {_number(limit_bytes / 1e6)}: shrink "
            "it, or raise --max-megapixels"
        )
    if header.scans * pixels > _MOST_SCANS * max_megapixels * 1e6:
        raise ImageTooLargeError(
            f"{header.width_px} x {header.height_px} in {header.scans} scans take too long to decode: save it again, "
            "as a JPEG that is not progressive"
        )
    return header


def _jpeg(data: bytes, max_megapixels: float) -> ImageHeader:
    orientation, at, header, scans = 1, 2, None, 0
    for _ in range(_MOST_PARTS):
        found = _JPEG_MARKER.search(data, at)
        if found is None:
            raise _CutShortError
        marker, at = found[1][0], found.end()
        if marker == 0xD9:
            break
        (length,) = struct.unpack_from(">H", data, at)
        segment = data[at + 2 : at + length]
        if len(segment) != length - 2:
            raise _CutShortError
        if marker in _JPEG_FRAMES:
            height_px, width_px = struct.unpack_from(">HH", segment, 1)
            held = _jpeg_held(segment) if marker in _JPEG_PROGRESSIVE else _USUAL_BYTES
            header = _sized(ImageHeader("JPEG", width_px, height_px, bytes_a_pixel=held), max_megapixels)
        elif marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            orientation = _exif_orientation(segment)
        at += length
        if marker == 0xDA:
            scans += 1
            found = _JPEG_AFTER_SCAN.search(data, at)
            if found is None:
                raise _CutShortError
            at = found.start()
    else:
        raise _DamagedError("it has too many parts")
    if header is None:
        raise _DamagedError("it holds no picture")
    return replace(header, orientation=orientation, scans=scans)


def _jpeg_held(frame: bytes) -> float:
    """Bytes a pixel while a progressive JPEG is decoded: all coefficients, two bytes each, and the picture."""
    samplings = [(frame[i] >> 4, frame[i] & 15) for i in range(7, 6 + 3 * frame[5], 3)]
    most = max((h for h, _ in samplings), default=0) * max((v for _, v in samplings), default=0)
    if not most:
        raise _DamagedError("its frame has no components")
    return max(_USUAL_BYTES, 3 + 2 * sum(h * v for h, v in samplings) / most)


def _png(data: bytes, max_megapixels: float) -> ImageHeader:
    width_px, height_px, bits, colour_type = struct.unpack_from(">IIBB", data, 16)
    if data[12:16] != b"IHDR":
        raise _DamagedError("its first chunk is not IHDR")
    _sized(ImageHeader("PNG", width_px, height_px), max_megapixels)
    orientation, has_alpha = 1, colour_type in (4, 6)
    view, at = memoryview(data), 8
    for _ in range(_MOST_PARTS):
        length, name = struct.unpack_from(">I4s", data, at)
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(view[at + 4 : at + 8 + length]) != checksum:
            raise _DamagedError(f"the checksum of its chunk {name.decode('ascii', 'replace')} is wrong")
        if name == b"tRNS":
            has_alpha = True
        elif name == b"eXIf":
            orientation = _exif_orientation(data[at + 8 : at + 8 + length])
        elif name == b"IEND":
            # Where there is transparency the picture is decoded as it is, else to 8 bits in three channels.
            held = 16.0 if has_alpha and bits == 16 else 8.0 if has_alpha else _USUAL_BYTES
            return ImageHeader("PNG", width_px, height_px, orientation, has_alpha, bytes_a_pixel=held)
        at += 12 + length
    raise _DamagedError("it has too many parts")


def _webp(data: bytes, max_megapixels: float) -> ImageHeader:
    (riff_bytes,) = struct.unpack_from("<I", data, 4)
    end = 8 + riff_bytes
    header, orientation, at, parts = None, 1, 12, 0
    while at + 8 <= min(end, len(data)):
        parts += 1
        if parts > _MOST_PARTS:
            raise _DamagedError("it has too many parts")
        name, length = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + length]
        if header is None and name in (b"VP8X", b"VP8L", b"VP8 "):
            header = _sized(_webp_frame(name, body), max_megapixels)
        elif name == b"EXIF":
            orientation = _exif_orientation(body)
        at += 8 + length + length % 2
    if end > len(data):
        raise _CutShortError
    if header is None:
        raise _DamagedError("it holds no picture")
    held = 8.0 if header.has_alpha else _USUAL_BYTES
    return replace(header, orientation=orientation, bytes_a_pixel=held)


def _webp_frame(name: bytes, body: bytes) -> ImageHeader:
    if name == b"VP8X":
        width_px, height_px = (int.from_bytes(body[i : i + 3], "little") + 1 for i in (4, 7))
        return ImageHeader("WebP", width_px, height_px, has_alpha=bool(body[0] & 0x10))
    if name == b"VP8L":
        (bits,) = struct.unpack_from("<I", body, 1)
        return ImageHeader("WebP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, has_alpha=bool(bits >> 28 & 1))
    width_px, height_px = struct.unpack_from("<HH", body, 6)
    return ImageHeader("WebP", width_px & 0x3FFF, height_px & 0x3FFF)


def _bmp(data: bytes, max_megapixels: float) -> ImageHeader:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    width_px, height_px = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", data, 18)
    return _sized(ImageHeader("BMP", width_px, abs(height_px)), max_megapixels)


def _gif(data: bytes, max_megapixels: float) -> ImageHeader:
    width_px, height_px = struct.unpack_from("<HH", data, 6)
    # OpenCV draws its pictures on a canvas in four channels.
    return _sized(ImageHeader("GIF", width_px, height_px, bytes_a_pixel=12.0), max_megapixels)


def _pnm(data: bytes, max_megapixels: float) -> ImageHeader:
    numbers, at = [], 2
    # A bitmap, P1 or P4, has no largest value.
    for what in ("width", "height") if data[1] in b"14" else ("width", "height", "largest value"):
        found = _PNM_TOKEN.match(data, at, _LONGEST_PNM_HEADER)
        if found is None:
            raise _DamagedError(f"its header has no {what}")
        numbers.append(int(found[1]))
        at = found.end()
    width_px, height_px, max_value = (*numbers, 255)[:3]
    if not 1 <= max_value < 1 << 16:
        raise _DamagedError(f"its largest value is {max_value}")
    held = 12.0 if max_value > 255 else _USUAL_BYTES
    # The values of a text are looked at once more, as float32.
    held += {b"2": 4.0, b"3": 12.0}.get(data[1:2], 0.0)
    header = ImageHeader("PNM", width_px, height_px, max_value=max_value, bytes_a_pixel=held, body_at=at)
    return _sized(header, max_megapixels)


def _tiff(data: bytes, max_megapixels: float) -> ImageHeader:
    tags = _tiff_tags(data)
    if 256 not in tags or 257 not in tags:
        raise _DamagedError("its header has no size")
    # OpenCV's TIFF decoder turns the picture itself, whatever it is told: so the displayed size is what it will give.
    width_px, height_px = (tags[256], tags[257]) if tags.get(_EXIF_ORIENTATION, 1) < 5 else (tags[257], tags[256])
    header = _sized(ImageHeader("TIFF", width_px, height_px), max_megapixels)
    # What is decoded at a time: a tile, whose size the picture's does not bound, or a strip.
    is_tiled = 322 in tags and 323 in tags
    tile_px = tags[322] * tags[323] if is_tiled else tags[256] * min(tags.get(278, tags[257]), tags[257])
    tile_bytes = tile_px * max(1, tags.get(258, 1) // 8) * max(1, tags.get(277, 1))
    return replace(header, bytes_a_pixel=_USUAL_BYTES + tile_bytes / (width_px * height_px))


def _tiff_tags(data: bytes) -> dict[int, int]:
    """First values of the integer tags of a TIFF block's first directory."""
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    tags = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", data, entry)
        code, width = {3: ("H", 2), 4: ("I", 4)}.get(kind, ("", 0))
        if not code or not number:
            continue
        where = entry + 8 if number * width <= 4 else struct.unpack_from(f"{order}I", data, entry + 8)[0]
        (tags[tag],) = struct.unpack_from(f"{order}{code}", data, where)
    return tags


def _exif_orientation(exif: bytes) -> int:
    """Orientation 1..8 of an EXIF block; 1 when it says none, or says nonsense, as viewers take it."""
    block = exif[6:] if exif.startswith(b"Exif\0\0") else exif
    try:
        orientation = _tiff_tags(block).get(_EXIF_ORIENTATION, 1)
    except (KeyError, struct.error):
        return 1
    return orientation if 1 <= orientation <= 8 else 1


_PARSERS: tuple[tuple[bytes, Callable[[bytes, float], ImageHeader]], ...] = (
    (rb"\xff\xd8\xff", _jpeg),
    (rb"\x89PNG\r\n\x1a\n", _png),
    (rb"RIFF.{4}WEBP", _webp),
    (rb"II\*\0|MM\0\*", _tiff),
    (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", _bmp),
    (rb"GIF8[79]a", _gif),
    (rb"P[1-6]\s", _pnm),
)
