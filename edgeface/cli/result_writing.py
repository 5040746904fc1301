"""Everything that ``edgeface detect`` writes of a picture's faces, beside the drawing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.bundle import Bundle
from edgeface.cli.embedding import Embedder
from edgeface.cli.result_targets import ResultTargets, output_folder
from edgeface.cli.results import JsonLines, json_lines, picture_record
from edgeface.cli.writing import ResultsLostError, complain
from edgeface.errors import OptionError, OutputError
from edgeface.faces import Faces
from edgeface.frames import as_frame
from edgeface.regular_files import real_path
from edgeface.result_files.coco import CocoFile, coco_file
from edgeface.result_files.csv_table import CsvTable, csv_table
from edgeface.result_files.cutouts import AlignedFaces, Crops
from edgeface.result_files.labels import VocFolder, YoloFolder
from edgeface.result_files.picture import DetectedPicture, ResultFiles, Stems
from edgeface.runtime.clock import Timing
from edgeface.runtime.seen_faces import SeenFaces
from edgeface.videos import Frame


class Results:
    """Made by ``results``. ``tables`` have one file a run, ``files`` have their own about each picture; ``pictures``,
    frames too, are in them so far."""

    def __init__(
        self, sources: frozenset[Path], lines: JsonLines | None, tables: list[CsvTable | CocoFile],
        files: list[ResultFiles], embedder: Embedder | None,
    ) -> None:
        self._sources = sources
        self._lines = lines
        self._tables = tables
        self._files = files
        self._embedder = embedder
        self._stems = Stems()
        self._renamed: set[Path] = set()
        self.pictures = 0

    def write(
        self, path: Path, image: NDArray[np.uint8], faces: Faces, timing: Timing, frame: Frame | None = None
    ) -> None:
        """Write the faces of a picture (H, W, 3), or of a ``frame`` of a video.

        Raises ResultsLostError where a file of the run can no longer be written, OutputError for one of the picture's
        own, and EngineError where the embedding fails; then nothing of the picture is in the files of the run.
        """
        picture = self._picture(path, image, faces, frame)
        for each in self._files:
            for target in each.targets(picture):
                if real_path(target) in self._sources:
                    raise OutputError(f"{path}: its results would replace the source {target}: choose another folder")
            each.write(picture)
        try:
            for table in self._tables:
                table.write(picture)
        except OutputError as error:
            raise ResultsLostError(str(error)) from None
        if self._lines is not None:
            record = picture_record(path, image, faces, timing)
            if picture.embeddings is not None:
                for face, embedding in zip(record["faces"], picture.embeddings.tolist(), strict=True):
                    face["embedding"] = [round(value, 6) for value in embedding]
            if frame is not None:
                record |= {"frame": frame.index, "time_s": round(frame.time_s, 3)}
            self._lines.write(record)
        self.pictures += 1

    def _picture(
        self, path: Path, image: NDArray[np.uint8], faces: Faces, frame: Frame | None
    ) -> DetectedPicture:
        seen = SeenFaces.of(faces, as_frame(image))
        stem = self._stems.of(path)
        if self._files and stem != path.stem and path not in self._renamed:
            self._renamed.add(path)
            complain(f"{path}: its results are called {stem}, since another source has its name")
        known: dict[str, Any] = {} if self._embedder is None else {"embeddings": self._embedder(seen.align())}
        if frame is None:
            return DetectedPicture(path, stem, seen, **known)
        return DetectedPicture(path, f"{stem}-{frame.index:06}", seen, frame.index, frame.time_s, **known)


@contextmanager
def results(
    targets: ResultTargets, json: str | None, bundle: Bundle, sources: frozenset[Path]
) -> Iterator[Results]:
    """What writes to all of ``targets`` and to ``json`` for the detector of ``bundle``; files of the run appear when
    the block ends without an error, and ``sources`` (real paths) are never replaced.

    Raises OptionError for what the bundle cannot give, OutputError when a place cannot be written, and ResultsLostError
    when a file cannot be finished.
    """
    upright = [option for option, given in (("--aligned", targets.aligned), ("--embed", targets.embed)) if given]
    if upright and not bundle.gives_landmarks:
        raise OptionError(
            f"{upright[0]} turns faces upright by their landmarks, and {bundle.name} gives none: choose a model with "
            "landmarks, or add --refine tcnn"
        )
    embedder = None if targets.embed is None else Embedder(targets.embed)
    with ExitStack() as stack:
        for option, folder in targets.folders().items():
            stack.enter_context(output_folder(folder, option))
        tables: list[CsvTable | CocoFile] = []
        if targets.csv is not None:
            tables.append(stack.enter_context(csv_table(_file(targets.csv, "--csv"))))
        if targets.coco is not None:
            said = f"faces that edgeface found with {bundle.name}"
            tables.append(stack.enter_context(coco_file(_file(targets.coco, "--coco"), said)))
        yield Results(sources, stack.enter_context(json_lines(json)), tables, _files(targets), embedder)


def _files(targets: ResultTargets) -> list[ResultFiles]:
    files: list[ResultFiles] = []
    if targets.yolo is not None:
        files.append(YoloFolder(targets.yolo))
    if targets.voc is not None:
        files.append(VocFolder(targets.voc))
    if targets.crops is not None:
        files.append(Crops(targets.crops, targets.crop_margin or 0.0))
    if targets.aligned is not None:
        files.append(AlignedFaces(targets.aligned))
    return files


def _file(path: Path, option: str) -> Path:
    if path.is_dir():
        raise OutputError(f"{path}: is a folder: give a file's name to {option}")
    return path
