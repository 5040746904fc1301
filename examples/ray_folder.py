"""Faces in all pictures of a folder or a bucket, into Parquet, on as many machines as a Ray cluster has.

    python examples/ray_folder.py photos faces --model mos_s --workers 2
    python examples/ray_folder.py s3://bucket/photos faces

Each part of some thousand pictures becomes one file of the folder OUT, whole or not at all; started again, it goes on
with the pictures that are in none. A picture that cannot be read has its reason in the column "error".
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from pyarrow import fs

from edgeface.batch import Faces
from edgeface.media_files import PICTURE_SUFFIXES

UNFINISHED = ".unfinished"


def pictures_of(source: str) -> Iterator[str]:
    """The paths of all pictures below a folder, or a bucket's address, as pyarrow names them."""
    system, root = fs.FileSystem.from_uri(source if "://" in source else Path(source).resolve().as_uri())
    for each in system.get_file_info(fs.FileSelector(root, recursive=True)):
        if each.is_file and Path(each.path).suffix.lower() in PICTURE_SUFFIXES:
            yield each.path


def done(out: Path) -> set[str]:
    """The paths that the parts of ``out`` have."""
    parts = [pq.read_table(part, columns=["path"]) for part in out.glob("*.parquet")]
    return {path for part in parts for path in part["path"].to_pylist()}


def write_part(paths: Sequence[str], source: str, target: Path, model: str, workers: int) -> int:
    """Look at these pictures and write them as one file; how many could not be read."""
    system = fs.FileSystem.from_uri(source)[0] if "://" in source else None
    contents = ray.data.read_binary_files(list(paths), include_paths=True, filesystem=system, ignore_missing_paths=True)
    found = contents.map_batches(
        Faces, fn_constructor_kwargs={"model": model}, concurrency=workers, batch_size=16, batch_format="pyarrow"
    )
    table = pa.concat_tables(found.iter_batches(batch_size=None, batch_format="pyarrow"))
    unfinished = target.with_suffix(UNFINISHED)
    pq.write_table(table, unfinished)
    unfinished.replace(target)
    return len(table) - table["error"].null_count


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a folder, or an address such as s3://bucket/photos")
    parser.add_argument("out", type=Path, help="the folder of the Parquet files")
    parser.add_argument("--model", default="mhcnn")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--part", type=int, default=5000, help="pictures a file")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    before = done(given.out)
    left = sorted(path for path in pictures_of(given.source) if path not in before)
    number = len(list(given.out.glob("*.parquet")))
    damaged = 0
    for start in range(0, len(left), given.part):
        target = given.out / f"part-{number:06d}.parquet"
        damaged += write_part(left[start : start + given.part], given.source, target, given.model, given.workers)
        number += 1
    print(f"{len(before)} pictures were done, {len(left)} are new, {damaged} of them cannot be read")  # noqa: T201


if __name__ == "__main__":
    main()
