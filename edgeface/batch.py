"""Faces in more pictures than one machine can do: a class for Ray Data's ``map_batches``, with Arrow columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeface.errors import InputError, MissingExtraError, OptionError
from edgeface.faces import face_records
from edgeface.frames import Picture, as_frame
from edgeface.pictures import as_picture
from edgeface.runtime.loading import load
from edgeface.weights import DEFAULT_MODEL

if TYPE_CHECKING:
    import pyarrow as pa

PATH, CONTENT = "path", "bytes"


class Faces:
    """Finds faces in batches of pictures: ``ds.map_batches(edgeface.batch.Faces, fn_constructor_kwargs={"model":
    "mos_s"}, concurrency=2, batch_size=16)``.

    A batch has a column ``path``, ``bytes``, or both: then the bytes are read and the path is the picture's name. It
    comes as a pyarrow.Table or as Ray's numpy form, a dictionary of arrays. ``model`` to ``refine`` are those of
    ``edgeface.load``, which raises for what cannot be; one thread, since a worker of Ray's has one processor. Raises
    MissingExtraError without pyarrow.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        engine: str | None = None,
        threads: int | None = 1,
        size: int | None = None,
        score: float | None = None,
        nms: float | None = None,
        refine: str | Path | None = None,
    ) -> None:
        self._columns = columns()
        self._detector = load(
            model, engine=engine, threads=threads, size=size, score=score, nms=nms, refine=refine
        )

    def __call__(self, batch: pa.Table | Mapping[str, Any]) -> pa.Table:
        """The batch as a pyarrow.Table without its bytes and with the columns of ``columns``, a row a picture.

        Raises OptionError for a batch without pictures' columns; a picture that cannot be read is no error here, but
        has its reason in the column ``error``.
        """
        import pyarrow as pa

        table = batch if isinstance(batch, pa.Table) else pa.table({name: _listed(batch[name]) for name in batch})
        if not {PATH, CONTENT} & {*table.column_names}:
            raise OptionError(f"a batch of {', '.join(table.column_names)} has no pictures: give {PATH} or {CONTENT}")
        names = table[PATH].to_pylist() if PATH in table.column_names else ["a picture"] * len(table)
        contents = table[CONTENT].to_pylist() if CONTENT in table.column_names else [None] * len(table)
        rows = self.look(names, contents)
        kept = table.drop_columns([name for name in (CONTENT, *self._columns.names) if name in table.column_names])
        for column in self._columns:
            kept = kept.append_column(column, pa.array([row[column.name] for row in rows], column.type))
        return kept

    def look(self, names: Sequence[str], contents: Sequence[bytes | None]) -> list[dict[str, Any]]:
        """A row a picture, of its content, or where that is None of the file of its name: ``width`` and ``height`` in
        pixels, ``faces`` as ``face_records``, ``error``; the first three are None where the last is not."""
        rows: list[dict[str, Any]] = []
        pictures: list[Picture] = []
        for name, content in zip(names, contents, strict=True):
            row = dict.fromkeys(("width", "height", "faces", "error"))
            try:
                picture = _picture(name, content)
            except InputError as error:
                row["error"] = str(error)
            else:
                frame = as_frame(picture)
                row["width"], row["height"] = frame.width, frame.height
                pictures.append(picture)
            rows.append(row)
        found = iter(self._detector.batch(pictures))
        for row in rows:
            if row["error"] is None:
                row["faces"] = [_arrow_record(face) for face in face_records(next(found))]
        return rows


def columns() -> pa.Schema:
    """What is said of each picture, as Arrow types: ``width``, ``height``, ``faces``, a list of structures, and
    ``error``. Of a face: box, score, landmarks (five points), pose in degrees, and attributes, name -> probability.
    Raises MissingExtraError."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingExtraError(f'Arrow columns need pyarrow ({error}): pip install "edgeface[batch]"') from None
    point = pa.list_(pa.float32(), 2)
    face = pa.struct({
        "box": pa.list_(pa.float32(), 4),
        "score": pa.float32(),
        "landmarks": pa.list_(point),
        "pose": pa.struct({"pitch": pa.float32(), "yaw": pa.float32(), "roll": pa.float32()}),
        "attributes": pa.map_(pa.string(), pa.float32()),
    })
    return pa.schema({"width": pa.int32(), "height": pa.int32(), "faces": pa.list_(face), "error": pa.string()})


def _arrow_record(record: dict[str, Any]) -> dict[str, Any]:
    told = {name: record[name] for name in ("box", "score", "landmarks", "pose")}
    return {**told, "attributes": list(record["attributes"].items())}


def _picture(name: str, content: bytes | None) -> Picture:
    if content is None:
        return as_picture(name)
    stream = BytesIO(content)
    stream.name = name
    return as_picture(stream)


def _listed(column: Any) -> Any:
    # Of Ray's numpy form: bytes are objects, texts may be numpy's own.
    return column.tolist() if hasattr(column, "tolist") else column
