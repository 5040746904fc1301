"""The pictures that ``edgeface bench`` and ``edgeface deploy`` look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeface.cli.demo import photograph
from edgeface.errors import InputError, MissingExtraError
from edgeface.media_files import PICTURE_SUFFIXES, expand

if TYPE_CHECKING:
    from edgeface.runtime.benchmark import Pictures


def choose_pictures(source: str | None, limit: int, frame_px: tuple[int, int] | None = None) -> Pictures:
    """At most ``limit`` pictures of a folder or pattern, spread evenly; without one, what is at hand. With ``frame_px``
    each is fitted into a frame of that (width, height).

    Raises InputError for a source without pictures, and for a picture that cannot be read.
    """
    from edgeface.images import read_image
    from edgeface.runtime.benchmark import Pictures, synthetic_scene

    if source is None:
        try:
            return _framed(Pictures("scikit-image's astronaut", [photograph()]), frame_px)
        except MissingExtraError:
            return _framed(Pictures("a drawn scene without faces", [synthetic_scene()]), frame_px)
    found = [path for path in expand(source) if path.suffix.lower() in PICTURE_SUFFIXES]
    if not found:
        raise InputError(f"{source}: no pictures in it: give another folder")
    count = min(len(found), limit)
    chosen = [found[i * len(found) // count] for i in range(count)]
    return _framed(
        Pictures(f"{count} of {len(found)} pictures, {source}", [read_image(path) for path in chosen]), frame_px
    )


def _framed(pictures: Pictures, frame_px: tuple[int, int] | None) -> Pictures:
    from edgeface.runtime.benchmark import Pictures
    from edgeface.runtime.preprocess import letterbox

    if frame_px is None:
        return pictures
    fitted = [letterbox(image, frame_px, 1).pixels for image in pictures.images]
    return Pictures("{}, in a frame of {} x {}".format(pictures.source, *frame_px), fitted)
