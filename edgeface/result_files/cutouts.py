"""Every face as a picture of its own: cut out, or turned upright for networks that compare faces."""

from __future__ import annotations

from pathlib import Path

from edgeface.atomic import make_folder
from edgeface.images import write_image
from edgeface.result_files.picture import DetectedPicture


class Crops:
    """``STEM-1.jpg`` and so on, in the order of the faces: each box, larger by ``margin`` times its sides on every
    side, as much of it as lies in the picture. A face outside the picture has no file."""

    def __init__(self, folder: Path, margin: float) -> None:
        self._folder = folder
        self._margin = margin

    def targets(self, picture: DetectedPicture) -> list[Path]:
        """The files that ``write`` may write, one a face."""
        return [self._folder / f"{picture.stem}-{i + 1}.jpg" for i in range(len(picture.seen))]

    def write(self, picture: DetectedPicture) -> None:
        for target, crop in zip(self.targets(picture), picture.seen.crop(self._margin), strict=True):
            if crop.size:
                make_folder(self._folder)
                write_image(target, crop)


class AlignedFaces:
    """``STEM-1.png`` and so on, 112 x 112 pixels, as ``edgeface.runtime.align`` has them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def targets(self, picture: DetectedPicture) -> list[Path]:
        """The files that ``write`` writes, one a face."""
        return [self._folder / f"{picture.stem}-{i + 1}.png" for i in range(len(picture.seen))]

    def write(self, picture: DetectedPicture) -> None:
        """Raises InputError for faces without landmarks."""
        if len(picture.seen):
            for target, face in zip(self.targets(picture), picture.seen.align(), strict=True):
                make_folder(self._folder)
                write_image(target, face)
