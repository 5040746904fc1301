"""The page that shows what the camera sees, live, in a browser."""

from __future__ import annotations

from edgeface.stream.preview.access import choose_token, is_loopback
from edgeface.stream.preview.board import Board
from edgeface.stream.preview.server import PreviewServer

__all__ = ["Board", "PreviewServer", "choose_token", "is_loopback"]
