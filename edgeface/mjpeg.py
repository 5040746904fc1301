"""Pictures in a stream of bytes: multipart as cameras write it, or one JPEG after the other.

Standards are not of much help here: cameras leave out the first boundary, the dashes before it, the types of parts and
their lengths, or the boundaries altogether. All send JPEGs, and a JPEG says itself where it ends. So it is walked from
marker to marker, and is out as soon as its last byte is in; boundaries and lengths decide only where it is damaged.
"""

from __future__ import annotations

import re

from edgeface.errors import SourceError

MAX_PICTURE_BYTES = 64 << 20
JPEG_START = b"\xff\xd8\xff"

# Inside a scan FF 00 is a data byte FF, and FF D0 to D7 are restart markers: anything else after FF ends the scan.
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_FILL = re.compile(rb"\xff+")
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"^content-length[ \t]*:[ \t]*(\d{1,12})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_TYPE = re.compile(rb"^content-type[ \t]*:[ \t]*([^\s;]+)", re.IGNORECASE | re.MULTILINE)
_END, _START, _SCAN = 0xD9, 0xD8, 0xDA
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))
# Of one picture; with 60 scans it has a few hundred. More would only take time.
_MOST_SEGMENTS = 1 << 12
# Between two pictures there is little else than a part's headers.
_MOST_BETWEEN_BYTES = 1 << 16


class PictureSplitter:
    """Takes the bytes of a stream as they come and gives out its pictures, damaged ones too, for a decoder to refuse.

    ``boundary`` is the one that the stream announces, b"" where it announces none.
    """

    def __init__(self, boundary: bytes = b"") -> None:
        name = boundary.strip(b"-")
        self._token = name or b"--"
        # How a boundary may be written, dashes or not; the longest that is looked for.
        self._boundary = re.compile(rb"(?:\r?\n)?-*" + re.escape(name) if name else rb"(?:\r?\n)?--")
        self._most_boundary_bytes = len(name) + 12
        self._buffer = bytearray()
        self._is_in_picture = False
        self._length: int | None = None     # of the part, as its headers say
        self._skip = 0                      # bytes of a part that are no picture, or follow its end
        self._at = 0                        # how far the picture is walked
        self._resume = 0                    # where to look for the next one, should this one prove to be broken
        self._segments = 0
        self._is_in_scan = False

    def feed(self, data: bytes) -> list[bytes]:
        """The pictures that end in ``data``. Raises SourceError when one is larger than any may be."""
        self._buffer += data
        found: list[bytes] = []
        while True:
            before = len(self._buffer), self._is_in_picture, self._skip
            picture = self._in_picture() if self._is_in_picture else self._between()
            if picture:
                found.append(picture)
            elif before == (len(self._buffer), self._is_in_picture, self._skip):
                break
        if len(self._buffer) > MAX_PICTURE_BYTES:
            raise SourceError(f"a picture of more than {MAX_PICTURE_BYTES >> 20} MiB is too large")
        return found

    def flush(self) -> list[bytes]:
        """What is left when the stream ends: a picture without its end."""
        rest = bytes(self._buffer) if self._is_in_picture else b""
        self._buffer.clear()
        self._is_in_picture = False
        return [rest] if rest else []

    def _between(self) -> bytes | None:
        """Pass over what is between two pictures; a part that is a picture and no JPEG is given out."""
        buffer = self._buffer
        if self._skip:
            self._pass_over()
            return None
        start = buffer.find(JPEG_START)
        limit = start if start >= 0 else len(buffer)
        # Of all headers only those that tell a length are of use.
        length = _LENGTH.search(buffer, 0, limit)
        blank = length and _BLANK_LINE.search(buffer, length.end() - 1, limit)
        if length and blank:
            first = max(buffer.rfind(b"\n\n", 0, length.start()), buffer.rfind(b"\n\r\n", 0, length.start()), 0)
            return self._part(int(length[1]), _TYPE.search(buffer, first, blank.start()), blank.end())
        if start >= 0:
            self._begin(start, None)
        elif len(buffer) > _MOST_BETWEEN_BYTES:
            del buffer[: -_MOST_BETWEEN_BYTES // 2]
        return None

    def _part(self, length: int, kind: re.Match[bytes] | None, at: int) -> bytes | None:
        """What the part is that begins at ``at`` and has so many bytes, of the type in ``kind``."""
        buffer = self._buffer
        is_picture = kind is None or kind[1].lower().startswith((b"image/", b"application/octet", b"video/"))
        if not is_picture:
            del buffer[:at]
            self._skip = length
            return None
        if length > MAX_PICTURE_BYTES:
            raise SourceError(f"a picture of {length} bytes is too large")
        if length and len(buffer) < at + min(length, len(JPEG_START)):
            return None
        if buffer.startswith(JPEG_START, at) and length > len(JPEG_START):
            self._begin(at, length)
            return None
        if len(buffer) < at + length:
            return None
        picture = bytes(buffer[at : at + length])
        del buffer[: at + length]
        return picture or None

    def _pass_over(self) -> None:
        """Drop what follows a picture in its part, up to the next boundary if that comes sooner."""
        found = self._buffer.find(self._token, 0, self._skip + len(self._token))
        # The end may be the beginning of a boundary.
        drop = min(self._skip, max(0, len(self._buffer) - len(self._token) + 1)) if found < 0 else found
        del self._buffer[:drop]
        self._skip = 0 if found >= 0 else self._skip - drop

    def _begin(self, at: int, length: int | None) -> None:
        del self._buffer[:at]
        self._is_in_picture, self._is_in_scan = True, False
        self._length, self._at, self._resume, self._segments = length, 2, 2, 0

    def _finish(self, end: int) -> bytes:
        picture = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._is_in_picture = False
        self._skip = max(0, self._length - end) if self._length is not None else 0
        return picture

    def _in_picture(self) -> bytes | None:
        """The picture that the buffer begins with, once it is known where it ends."""
        buffer = self._buffer
        while self._at + 1 < len(buffer):
            if self._is_in_scan:
                found = _AFTER_SCAN.search(buffer, self._at)
                if found is None:
                    self._at = max(self._at, len(buffer) - 1)
                    break
                self._at = self._resume = found.start()
                self._is_in_scan = False
            marker = buffer[self._at + 1]
            if buffer[self._at] != 0xFF or marker in (0, _START):
                return self._broken()
            if marker == _END:
                return self._finish(self._at + 2)
            if marker == 0xFF:
                fill = _FILL.match(buffer, self._at)
                assert fill is not None     # two of them are there
                self._at = fill.end() - 1
            elif marker in _ALONE:
                self._at += 2
            elif self._segments == _MOST_SEGMENTS:
                return self._broken()
            elif self._at + 3 < len(buffer):
                self._segments += 1
                self._resume = self._at + 4
                self._at += 2 + int.from_bytes(buffer[self._at + 2 : self._at + 4], "big")
                self._is_in_scan = marker == _SCAN
            else:
                break
        return self._cut_short()

    def _broken(self) -> bytes:
        """A picture that contradicts itself, up to where another one begins."""
        end = self._buffer.find(JPEG_START, self._resume)
        if end < 0:
            end = len(self._buffer)
            # The end may be the beginning of the next one.
            end -= next((n for n in (2, 1) if n < end and self._buffer.endswith(JPEG_START[:n])), 0)
        self._length = None if self._length is None else min(self._length, end)
        return self._finish(end if self._length is None else self._length)

    def _cut_short(self) -> bytes | None:
        """A picture whose part is over before it is; None while that is not known, or the length was wrong."""
        if self._length is None or len(self._buffer) < self._length + self._most_boundary_bytes:
            return None
        if self._boundary.match(self._buffer, self._length):
            return self._finish(self._length)
        self._length = None
        return None
