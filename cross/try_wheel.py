"""Install an aarch64 wheel with what it needs into an emulated board, find faces there, and compare with the host."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from edgeface.convert.face_parity import IOU
from edgeface.devices import boards
from edgeface.devices.emulation import ensure_root

from edgeface.bundle import read_bundle
from edgeface.errors import DeviceError, MissingExtraError, ParityError
from edgeface.faces import Faces
from edgeface.matching import match
from edgeface.runtime import catalog
from edgeface.runtime.engines.tflite import interpreter_class
from edgeface.wording import counted
from reporting import Script, progress

MODELS = ("mos_s-int8-ncnn", "mos_s-fp16-ncnn", "mos_s-int8-tflite")
_DETECT_TIMEOUT_S = 300.0


def detect(
    where: str, start: Sequence[str], environment: Mapping[str, str], photo: Path, model: str, out: Path
) -> Faces:
    """The boxes and scores that ``edgeface detect`` finds when it is started with ``start``; it draws into ``out``.

    Raises DeviceError with the last line that it said.
    """
    with tempfile.TemporaryDirectory() as scratch:
        found = Path(scratch) / "faces.jsonl"
        # By its folder: a board's wheel does not have every bundle.
        options = ["--model", str(catalog.find(model)), "--out", str(out), "--json", str(found)]
        argv = [*start, "-m", "edgeface", "detect", str(photo), *options]
        try:
            done = subprocess.run(argv, env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True,
                                  text=True, errors="replace", timeout=_DETECT_TIMEOUT_S, cwd=scratch, check=False)
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{where}: edgeface detect did not end within {_DETECT_TIMEOUT_S:.0f} s") from None
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [f"signal {-done.returncode}"]
            raise DeviceError(f"{where}: edgeface detect ended with {done.returncode}: {said[-1]}")
        records: list[dict[str, Any]] = [msgspec.json.decode(line) for line in found.read_bytes().splitlines()]
    faces = records[0]["faces"]
    return Faces(
        boxes=np.array([face["box"] for face in faces], np.float32).reshape(-1, 4),
        scores=np.array([face["score"] for face in faces], np.float32),
    )


def check_engines(models: Sequence[str]) -> None:
    """Raise MissingExtraError for a bundle whose engine is not installed here, before a root takes its minutes."""
    for model in models:
        if read_bundle(catalog.find(model), verify=False).engine == "tflite":
            try:
                interpreter_class()
            except MissingExtraError as error:
                others = " ".join(f"--model {other}" for other in models if other != model)
                raise MissingExtraError(f"{model}: {error}{f', or leave it out: {others}' if others else ''}") from None


def compare(host: Faces, board: Faces) -> tuple[bool, str]:
    """Whether both are the same faces, each box with a partner of IoU 0.9, and a line that says how alike they are."""
    pairs = match(host.boxes, board.boxes, IOU)
    same = len(pairs) == len(host) == len(board)
    line = f"{counted(len(board), 'face')}, {len(host)} on this machine"
    if pairs:
        apart = max(abs(float(host.scores[i] - board.scores[j])) for i, j, _ in pairs)
        line += f", least IoU {min(overlap for _, _, overlap in pairs):.4f}, scores at most {apart:.4f} apart"
    return same, line


@click.command(cls=Script)
@click.argument("wheel", type=click.Path(path_type=Path))
@click.argument("photo", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--board", "name", default="rk3399", show_default=True, help="The board to emulate.")
@click.option("--model", "models", multiple=True, default=MODELS, show_default=True,
              help="A bundle; more than one may be given.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("edgeface-try"),
              show_default=True, help="Folder for the pictures that are drawn on the emulated board.")
def command(wheel: Path, photo: Path, name: str, models: tuple[str, ...], out: Path) -> None:
    """Find the faces in PHOTO with WHEEL on every processor of an emulated board; exits with 8 when they differ."""
    board = boards.find(name)
    check_engines(models)
    root = ensure_root(board, wheel=wheel, progress=progress)
    differing = []
    for model in models:
        with tempfile.TemporaryDirectory() as scratch:
            here = detect("this machine", [sys.executable], os.environ, photo.resolve(), model, Path(scratch))
        for cpu in board.emulated_cpus:
            started_s = time.monotonic()
            drawn = out.resolve() / f"{model}-{cpu}"
            there = detect(cpu, root.command(cpu, []), root.environment, photo.resolve(), model, drawn)
            same, line = compare(here, there)
            click.echo(f"{model} on {cpu}: {line} ({time.monotonic() - started_s:.1f} s emulated)")
            if not same:
                differing.append(f"{model} on {cpu}")
    click.echo(f"drawn in {out}")
    if differing:
        raise ParityError(f"{', '.join(differing)}: not the faces that this machine finds: compare what is in {out}")


if __name__ == "__main__":
    command()
