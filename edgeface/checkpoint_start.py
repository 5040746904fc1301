"""What a file that is given as a checkpoint seems to be, by its first bytes: torch takes seconds to be imported."""

from __future__ import annotations

from pathlib import Path

from edgeface.regular_files import open_regular

# What torch.save writes, a zip archive, and before version 1.6 a pickle.
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
# The first bytes of an ONNX file: its version, then its producer's name, or one of the fields that may stand there.
_ONNX_VERSION_FIELD, _ONNX_NEXT_FIELDS = 0x08, (0x12, 0x1A, 0x22, 0x3A, 0x42)
_STARTS_BYTES = 16


def is_of_torch(path: Path) -> bool:
    """Whether a file begins as PyTorch's do. Raises OSError."""
    return _start(path).startswith((_ZIP, _PICKLE))


def why_no_checkpoint(path: Path) -> str:
    """What a file is that cannot be a checkpoint, and what to do. Raises OSError."""
    start = _start(path)
    if len(start) > 2 and start[0] == _ONNX_VERSION_FIELD and start[1] < 0x20 and start[2] in _ONNX_NEXT_FIELDS:
        return "an ONNX model, and no checkpoint: 'edgeface import' makes a bundle of a detector that it knows"
    return "damaged, or not a checkpoint: copy it again"


def _start(path: Path) -> bytes:
    with open_regular(path) as stream:
        return stream.read(_STARTS_BYTES)
