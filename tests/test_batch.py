"""``edgeface.batch.Faces``: rows of batches, and the example on a local Ray where Ray is installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import edgeface
from edgeface import batch
from edgeface.errors import MissingExtraError, OptionError
from edgeface.faces import face_records

ROOT = Path(edgeface.__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, astronaut: NDArray[np.uint8]) -> Path:
    """Three pictures, one damaged, one that is text, and a file of another kind."""
    folder = tmp_path_factory.mktemp("pictures")
    small = cv2.resize(astronaut[0:256, 96:352], (128, 128), interpolation=cv2.INTER_AREA)
    (folder / "deeper").mkdir()
    for name in ("a.jpg", "deeper/b.png", "c.jpg"):
        cv2.imwrite(str(folder / name), small if name != "c.jpg" else small[64:])
    (folder / "cut.jpg").write_bytes((folder / "a.jpg").read_bytes()[:700])
    (folder / "words.png").write_text("no picture")
    (folder / "notes.txt").write_text("not listed")
    return folder


def without_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)


def test_a_row_a_picture_and_a_reason_for_the_damaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "columns", lambda: None)
    faces = batch.Faces("mos_s", size=128)
    names = [str(folder / name) for name in ("a.jpg", "cut.jpg", "words.png", "nowhere.jpg", "c.jpg")]
    rows = faces.look(names, [None, None, None, None, (folder / "c.jpg").read_bytes()])
    assert [(row["width"], row["height"]) for row in rows] == [(128, 128), *[(None, None)] * 3, (128, 64)]
    assert [row["error"] is None for row in rows] == [True, False, False, False, True]
    assert [row["faces"] is None for row in rows] == [False, True, True, True, False]
    for row, name in zip(rows[1:4], names[1:4], strict=True):
        assert name in row["error"]
    [face] = rows[0]["faces"]
    [wanted] = face_records(edgeface.load("mos_s", size=128, threads=1)(names[0]))
    assert face == {name: wanted[name] for name in ("box", "score", "landmarks", "pose")} | {"attributes": []}


def test_without_pyarrow_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    without_arrow(monkeypatch)
    with pytest.raises(MissingExtraError, match=r'pip install "edgeface\[batch\]"'):
        batch.Faces("mos_s")


def test_columns_are_arrow_s_and_bytes_are_not_kept(folder: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "edgeface[batch]"')
    faces = batch.Faces("mhcnn", size=128)
    paths = np.array([str(folder / "a.jpg"), str(folder / "words.png")], dtype=object)
    contents = np.array([Path(path).read_bytes() for path in paths], dtype=object)
    table = faces({"path": paths, "bytes": contents, "shot": np.array([1, 2])})
    assert table.column_names == ["path", "shot", "width", "height", "faces", "error"]
    assert table.schema.field("faces").type == batch.columns().field("faces").type
    first, second = table.to_pylist()
    assert len(first["faces"][0]["landmarks"]) == 5
    assert dict(first["faces"][0]["attributes"]).keys() >= {"mask", "quality"}
    assert second["faces"] is None
    again = faces(pa.table({"path": [str(folder / "a.jpg")]}))
    assert again["faces"].to_pylist() == [first["faces"]]
    with pytest.raises(OptionError, match="a batch of picture has no pictures: give path or bytes"):
        faces({"picture": paths})


def example() -> Any:
    spec = importlib.util.spec_from_file_location("ray_folder", ROOT / "examples" / "ray_folder.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not (ROOT / "examples").is_dir(), reason="needs the source tree")
def test_a_folder_becomes_parquet_and_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example on a local Ray with two workers; it takes half a minute, most of it Ray's start."""
    ray = pytest.importorskip("ray", reason='needs Ray: pip install "edgeface[batch]"')
    pq = pytest.importorskip("pyarrow.parquet", reason='needs pyarrow: pip install "edgeface[batch]"')
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        run, out = example().main, tmp_path / "faces"
        run([str(folder), str(out), "--model", "mos_s", "--workers", "2", "--part", "3"])
        assert "0 pictures were done, 5 are new, 2 of them cannot be read" in capsys.readouterr().out
        parts = sorted(out.iterdir())
        assert [part.name for part in parts] == ["part-000000.parquet", "part-000001.parquet"]
        rows = {Path(row["path"]).name: row for part in parts for row in pq.read_table(part).to_pylist()}
        assert rows.keys() == {"a.jpg", "b.png", "c.jpg", "cut.jpg", "words.png"}
        assert {name for name, row in rows.items() if row["error"]} == {"cut.jpg", "words.png"}
        [wanted] = face_records(edgeface.load("mos_s", threads=1)(str(folder / "a.jpg")))
        assert rows["a.jpg"]["faces"][0]["box"] == pytest.approx(wanted["box"], abs=0.01)
        parts[0].unlink()
        run([str(folder), str(out), "--model", "mos_s", "--workers", "2"])
        assert "2 pictures were done, 3 are new" in capsys.readouterr().out
        run([str(folder), str(out), "--model", "mos_s", "--workers", "2"])
        assert "5 pictures were done, 0 are new" in capsys.readouterr().out
    finally:
        ray.shutdown()
