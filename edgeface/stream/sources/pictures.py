"""Pictures that cameras send as files, one a frame: decoded where they are whole, and refused one by one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeface.errors import DamagedFrameError, ImageTooLargeError, InputError, SourceError
from edgeface.image_headers import read_header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


MAX_MEGAPIXELS = 8192 * 8192 / 1e6
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# Some cameras end none of their pictures: after so many without an end it is taken for granted.
_ENDLESS_LEFT_OUT = 5
# Damaged frames in a row, after which the source is opened anew.
MOST_DAMAGED = 30

_log = logging.getLogger("edgeface.stream")


class Damage:
    """Frames of one source that were left out since they were damaged: counted, and said ever more seldom. ``last``:
    why the newest of them was."""

    def __init__(self) -> None:
        self.total = 0
        self.last: DamagedFrameError | None = None
        self._in_a_row = 0
        self._said_at = 1
        self._listener: Callable[[], None] = lambda: None

    def tell(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` for every damaged frame, those so far among them."""
        self._listener = listener
        for _ in range(self.total):
            listener()

    def count(self, error: DamagedFrameError) -> None:
        """One more. Raises SourceError when too many came in a row."""
        self.total += 1
        self.last = error
        self._in_a_row += 1
        self._listener()
        if self.total >= self._said_at:
            _log.warning("%s: left out, %d so far", error, self.total)
            self._said_at *= 10
        if self._in_a_row >= MOST_DAMAGED:
            raise SourceError(f"{error}: {self._in_a_row} in a row")

    def end(self) -> None:
        """A frame was whole."""
        self._in_a_row = 0


class PictureDecoder:
    """Decodes one picture after the other of one camera; ``shown`` is its name in errors."""

    def __init__(self, shown: str) -> None:
        self.shown = shown
        self._has_ended = False
        self._endless = 0

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """A JPEG, PNG or whatever else ``edgeface.images`` reads, as uint8 (H, W, 3) BGR, turned as its EXIF data say.

        Padding after its end is left out. Raises DamagedFrameError when it is empty, cut short or damaged, or says that
        it is larger than any frame may be.
        """
        import cv2
        import numpy as np

        try:
            data = self._whole(data)
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except InputError as error:
            raise self._refused(error) from None
        except (cv2.error, MemoryError):
            image = None
        if image is None:
            raise self._refused(None)
        return np.asarray(image, np.uint8)

    def check(self, data: bytes) -> None:
        """Raise what ``decode`` raises, as far as that can be told without decoding."""
        try:
            self._whole(data)
        except InputError as error:
            raise self._refused(error) from None

    def _refused(self, error: InputError | None) -> DamagedFrameError:
        if isinstance(error, ImageTooLargeError):
            # Four damaged bytes are enough for that.
            return DamagedFrameError(f"{self.shown}: a picture cannot be used: {error}")
        return DamagedFrameError(f"{self.shown}: a picture came damaged, check the cable or the network")

    def _whole(self, data: bytes) -> bytes:
        """The data, with the end that the pictures of some cameras lack. Raises InputError."""
        try:
            read_header(data, MAX_MEGAPIXELS)
        except ImageTooLargeError:
            raise
        except InputError:
            if self._has_ended or not data.startswith(_JPEG_START):
                raise
            ended = data + _JPEG_END
            read_header(ended, MAX_MEGAPIXELS)
            self._endless += 1
            if self._endless <= _ENDLESS_LEFT_OUT:
                raise
            return ended
        self._has_ended = True
        return data
