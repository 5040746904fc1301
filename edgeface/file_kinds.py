"""What a file is, from its first bytes and what the system says of it."""

from __future__ import annotations

_BYTES_OF_TEXT = frozenset((*b"\t\n\f\r\x1b", *range(0x20, 0x7F), *range(0x80, 0x100)))


def is_text(start: bytes) -> bool:
    """Whether the first bytes of a file are those of a text, such as a web page or a playlist; no bytes are none."""
    return bool(start) and _BYTES_OF_TEXT.issuperset(start.removeprefix(b"\xef\xbb\xbf"))
