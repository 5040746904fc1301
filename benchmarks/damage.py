"""Damaged inputs for ``attack.py``: each function takes a source of randomness and writes one damaged thing.

Hashes are made anew, so that the damage reaches what lies behind them.
"""

from __future__ import annotations

import functools
import io
import json
import pickle
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgeface import weights
from edgeface.bundle import MANIFEST, describe_file, read_bundle
from edgeface.bundle.files import whole
from edgeface.errors import EdgefaceError

Damage = Callable[[random.Random, Path], Path]

NUMBERS = (0, 1, -1, 2, 3, 7, 255, -2, 9999, 65535, 1_000_000, 2**31 - 1, -(2**31), 2**32, 2**63, 10**30)
_FLOATS = (0.0, -1.0, 1e-30, 1e30, 0.5, 1e6, -1e6)


def damage_bytes(rng: random.Random, content: bytes) -> bytes:
    """Some bytes changed, cut out, put in, repeated or overwritten by a number."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5, 40))):
        at, kind = rng.randrange(max(1, len(data))), rng.randrange(7)
        length = rng.choice((1, 2, 4, 16, 300, 5000))
        if kind == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            data[at : at + 4] = struct.pack("<i", rng.choice(NUMBERS[:13]))
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = rng.randbytes(length)
        elif kind == 5:
            data[at:at] = data[at : at + length]
        else:
            # Headers are where most numbers are that are believed.
            data[rng.randrange(min(len(data), 64) or 1) :][:1] = b""
            data[at % 64 : at % 64 + 1] = bytes([rng.randrange(256)])
    return bytes(data[:at]) if rng.random() < 0.05 else bytes(data)


def damage_param(rng: random.Random, text: str) -> str:
    """A .param with another number, kind, blob or line, or its lines in another order."""
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(1, len(lines))
        fields = lines[at].split()
        kind = rng.randrange(8)
        if kind < 4:
            spots = [i for i, field in enumerate(fields) if "=" in field] or [len(fields) - 1]
            spot = rng.choice(spots)
            key, _, value = fields[spot].rpartition("=")
            values = value.split(",")
            values[rng.randrange(len(values))] = str(rng.choice((*NUMBERS, rng.randrange(300))))
            fields[spot] = f"{key}{'=' if key else ''}{','.join(values)}"
        elif kind == 4 and len(fields) > 4:
            fields.append(f"{rng.randrange(32)}={rng.choice(NUMBERS)}")
        elif kind == 5:
            fields[0] = rng.choice((rng.choice(lines[2:]).split()[0], "Noop", "Crop", "Interp", "Permute"))
        elif kind == 6 and len(fields) > 5:
            other = rng.choice(lines[2:]).split()
            fields[4] = other[4] if len(other) > 4 else fields[4]
        else:
            swap = rng.randrange(1, len(lines))
            lines[at], lines[swap] = lines[swap], lines[at]
            continue
        lines[at] = " ".join(fields)
    return "\n".join(lines) + "\n"


def damage_tflite(rng: random.Random, content: bytes) -> bytes:
    """A .tflite whose objects have other numbers: shapes, tensors, buffers, codes, options. Whole as a flatbuffer."""
    while True:
        try:
            return _with_other_objects(rng, content)
        except (TypeError, ValueError, struct.error, AttributeError):
            continue        # a number that a flatbuffer cannot hold there


def _with_other_objects(rng: random.Random, content: bytes) -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for _ in range(rng.choice((1, 1, 2, 4))):
        graph = model.subgraphs[0]
        operators = rng.sample(graph.operators, min(4, len(graph.operators)))
        target = rng.choice([graph, *rng.sample(graph.tensors, 4), *operators, *model.operatorCodes])
        if getattr(target, "builtinOptions", None) is not None and rng.random() < 0.5:
            target = target.builtinOptions
        if getattr(target, "quantization", None) is not None and rng.random() < 0.3:
            target = target.quantization
        names = [name for name, value in vars(target).items() if isinstance(value, int | float | np.ndarray | list)]
        if not names:
            continue
        name = rng.choice(names)
        value = getattr(target, name)
        if isinstance(value, int | float):
            setattr(target, name, rng.choice(NUMBERS[:12]) if isinstance(value, int) else rng.choice(_FLOATS))
        elif len(value) and isinstance(value[0], int | float | np.number):
            changed = np.array(value)
            changed[rng.randrange(len(changed))] = rng.choice(NUMBERS[:12])
            setattr(target, name, changed)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def damage_json(rng: random.Random, document: Any) -> None:
    """One value somewhere in a document replaced by another number, type, text or nothing."""
    spots: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            spots.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    for part in ("stages", "stages", "defaults", "files", "scales"):
        if part in document:
            walk([document[part]])
    walk({key: document[key] for key in document})
    node, key = rng.choice(spots)
    if rng.random() < 0.15:
        del node[key]
    else:
        node[key] = rng.choice((*NUMBERS, *_FLOATS, None, True, "", "a" * 5000, [], {}, [node[key]] * 3, "\u001b[2J"))


def bundle(rng: random.Random, folder: Path, *, what: str) -> Path:
    """A bundled model with one file damaged, and its hashes made anew; ``what``: param, bin, tflite, objects, json.

    One that takes files from bundles beside it has them in it, or beside it where its bundle.json is damaged."""
    engine = {"param": "ncnn", "bin": "ncnn", "tflite": "tflite", "objects": "tflite"}.get(what, "")
    source = rng.choice(sorted(weights.directory().glob(f"*{engine}/{MANIFEST}"))).parent
    directory = folder / "bundle"
    if what == "json":
        shutil.copytree(source, directory)
        for part in read_bundle(source, verify=False).parts:
            shutil.copytree(source.parent / part, folder / part)
    else:
        with whole(source) as complete:
            shutil.copytree(complete, directory)
    manifest = json.loads((directory / MANIFEST).read_text())
    if what == "json":
        damage_json(rng, manifest)
    else:
        path = rng.choice(sorted(directory.glob("*.tflite" if engine == "tflite" else f"*.{what}")))
        if what == "param":
            path.write_text(damage_param(rng, path.read_text()))
        else:
            damage = damage_tflite if what == "objects" else damage_bytes
            path.write_bytes(damage(rng, path.read_bytes()))
        for entry in manifest["files"]:
            described = describe_file(directory / entry["name"])
            entry.update(sha256=described.sha256, size_bytes=described.size_bytes)
    (directory / MANIFEST).write_text(json.dumps(manifest))
    return directory


@functools.cache
def _pictures() -> list[tuple[str, bytes]]:
    from PIL import Image
    from skimage.data import astronaut

    face = np.ascontiguousarray(astronaut()[:256, 100:356])
    made = []
    for name in ("jpg", "png", "webp", "tif", "bmp", "gif", "ppm", "pgm"):
        made.append((name, cv2.imencode(f".{name}", face[:, :, 0] if name == "pgm" else face[:, :, ::-1])[1].tobytes()))
    made.append(("png", cv2.imencode(".png", np.dstack([face, face[:, :, :1]]).astype(np.uint16) * 257)[1].tobytes()))
    others = (("JPEG", {"progressive": True}), ("TIFF", {"compression": "tiff_lzw"}), ("GIF", {}), ("PNG", {}))
    for kind, options in others:
        stream = io.BytesIO()
        Image.fromarray(face).convert("P" if kind in ("GIF", "PNG") else "RGB").save(stream, kind, **options)
        made.append((kind.lower(), stream.getvalue()))
    return made


def picture(rng: random.Random, folder: Path) -> Path:
    """A picture of some format with damaged bytes, most often in its header."""
    name, content = rng.choice(_pictures())
    if rng.random() < 0.5:
        head = rng.choice((64, 200, 700))
        content = damage_bytes(rng, content[:head]) + content[head:]
    else:
        content = damage_bytes(rng, content)
    if name == "png" and rng.random() < 0.7:
        content = _with_checksums(content)
    path = folder / f"picture.{name}"
    path.write_bytes(content)
    return path


def _with_checksums(png: bytes) -> bytes:
    out, at = bytearray(png[:8]), 8
    while at + 12 <= len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        body = png[at + 4 : at + 8 + length]
        if len(body) < 4 + length:
            break
        out += png[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out + png[at:])


@functools.cache
def _checkpoint(path: Path) -> bytes:
    return path.read_bytes()


def checkpoint(rng: random.Random, folder: Path) -> Path:
    """A checkpoint with damaged bytes; with a damaged part of its archive; or with other values, its hash made anew."""
    source = rng.choice(sorted(weights.directory().glob("*.pt")))
    path, kind = folder / source.name, rng.randrange(3)
    if kind == 0:
        path.write_bytes(damage_bytes(rng, _checkpoint(source)))
    elif kind == 1:
        _damage_archive(rng, _checkpoint(source), path)
    else:
        _damage_values(rng, source, path)
    return path


def _damage_archive(rng: random.Random, content: bytes, path: Path) -> None:
    """The pickle in the archive damaged, the archive whole with right checksums."""
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            part = old.read(entry)
            is_hit = entry.filename.endswith("data.pkl") or rng.random() < 0.05
            new.writestr(entry.filename, damage_bytes(rng, part) if is_hit else part)


def _damage_values(rng: random.Random, source: Path, path: Path) -> None:
    import torch

    from edgeface.models.checkpoint import write_atomically

    content = torch.load(source, map_location="cpu", weights_only=True)
    for _ in range(rng.choice((1, 1, 2))):
        # What an earlier round put in the place of a part may be no part any more.
        named = (content[name] for name in ("options", "state", "quantisation"))
        part = rng.choice([content, *(each for each in named if isinstance(each, dict) and each)])
        key = rng.choice(sorted(part, key=str))
        tensors = torch.zeros(3), torch.zeros(1).expand(10**12)
        part[key] = rng.choice((*NUMBERS, *_FLOATS, None, "", "x", [], {}, True, *tensors))
    try:
        write_atomically(path, content)
    except (TypeError, RuntimeError, OverflowError, pickle.PicklingError, EdgefaceError):
        path.write_bytes(damage_bytes(rng, _checkpoint(source)))


@functools.cache
def _videos() -> list[tuple[str, bytes]]:
    import tempfile

    from skimage.data import astronaut

    face = np.ascontiguousarray(astronaut()[:240, 100:420, ::-1])
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix, code in ((".mp4", "mp4v"), (".avi", "MJPG"), (".mkv", "mp4v"), (".avi", "XVID")):
            name = str(Path(folder) / f"video{suffix}")
            writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*code), 10, (320, 240))
            for i in range(8):
                writer.write(np.roll(face, 4 * i, 1))
            writer.release()
            made.append((suffix, Path(name).read_bytes()))
    jpeg = cv2.imencode(".jpg", face)[1].tobytes()
    made.append((".mjpeg", jpeg * 5))
    return made


def stream(rng: random.Random, folder: Path) -> Path:
    """A recording, in a container or JPEG after JPEG, with damaged bytes."""
    suffix, content = rng.choice(_videos())
    path = folder / f"stream{suffix}"
    path.write_bytes(damage_bytes(rng, content))
    return path


BUNDLES = ("param", "bin", "tflite", "objects", "json")
DAMAGES: dict[str, Damage] = {
    **{f"bundle-{what}": functools.partial(bundle, what=what) for what in BUNDLES},
    "picture": picture,
    "checkpoint": checkpoint,
    "stream": stream,
}
