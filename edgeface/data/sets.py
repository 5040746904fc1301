"""What a set of annotated pictures is: ``set.toml`` in its folder, and the sets that a data folder holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edgeface.data.annotations import ANNOTATIONS, Picture, read_annotations
from edgeface.errors import DataError
from edgeface.regular_files import LARGEST_SETTINGS_BYTES, open_regular, read_regular
from edgeface.toml_reasons import NOT_TOML

DESCRIPTION = "set.toml"
HELD_OUT_SHARE = 0.1
_KNOWN = "known_sets.toml"


class SetDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a set may be used.

    ``boxes``: how its boxes are drawn; those that do not go from forehead to chin place a face but are not regressed
    to. ``measure``: whether its dev part chooses the weights, and int8 is calibrated on its training part; false for
    labels that detectors put there. ``paste``: whether its faces, the first of each picture, are pasted into scenes.
    ``weight``: how often it is drawn from where the configuration does not say; None draws each picture as often as
    the average one of the others. ``licence``: what its terms allow, for the weights to say.
    """

    boxes: Literal["forehead-to-chin", "other"] = "forehead-to-chin"
    measure: bool = True
    paste: bool = False
    weight: Annotated[float, msgspec.Meta(ge=0)] | None = None
    licence: str | None = None

    @property
    def regress(self) -> bool:
        """Whether its boxes are in the style that models learn."""
        return self.boxes == "forehead-to-chin"


def describe(directory: Path) -> SetDescription:
    """What the set in ``directory`` is: its set.toml, else what is known of a public set of this name, else defaults.

    Raises DataError when set.toml cannot be read or says something unknown.
    """
    file = directory / DESCRIPTION
    try:
        content = read_regular(file, LARGEST_SETTINGS_BYTES)
    except FileNotFoundError:
        return _known().get(directory.name, SetDescription())
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    try:
        return msgspec.toml.decode(content, type=SetDescription)
    except msgspec.ValidationError as error:
        keys = ", ".join(SetDescription.__struct_fields__)
        raise DataError(f"{file}: {error}: it may say {keys}") from None
    except NOT_TOML as error:
        raise DataError(f"{file}: not TOML: {error}") from None


def _known() -> dict[str, SetDescription]:
    content = resources.files("edgeface.data").joinpath(_KNOWN).read_bytes()
    return msgspec.toml.decode(content, type=dict[str, SetDescription])


@dataclass(frozen=True)
class DataFolder:
    """The sets below ``root``, by name in order. ``held_out``: the sets whose dev part is a share of their training
    part, because no set of the folder has one to measure on."""

    root: Path
    sets: Mapping[str, SetDescription]
    held_out: frozenset[str] = frozenset()

    def directory(self, name: str) -> Path:
        """The folder of a set, whether it is there or not."""
        return self.root / name

    def pictures(self, name: str, split: str) -> list[Picture]:
        """A set's pictures of ``split``, as ``read_annotations``, with its errors; what is held out is ``dev``.

        A tenth of the pictures is held out, by the hash of their names, so that it is the same in every run.
        """
        if name not in self.held_out or split == "test":
            return read_annotations(self.directory(name), split)
        pictures = read_annotations(self.directory(name), "train")
        ordered = sorted(pictures, key=lambda p: hashlib.sha256(p.path.name.encode()).digest())
        dev = {p.path for p in ordered[: round(HELD_OUT_SHARE * len(pictures)) or int(len(pictures) > 1)]}
        return [p for p in pictures if (p.path in dev) == (split == "dev")]

    def has_part(self, name: str, split: str) -> bool:
        """Whether the set is there with a picture of ``split``, held out or annotated so."""
        if name in self.held_out and split == "dev":
            return True
        return name in self.sets and split in _splits(self.directory(name))

    def dev_part(self, name: str) -> list[Picture]:
        """The pictures that a set is measured on; none where its labels are not for that, or it has no dev part."""
        if name not in self.sets or not self.sets[name].measure or not self.has_part(name, "dev"):
            return []
        return self.pictures(name, "dev")

    def remark(self) -> str | None:
        """That pictures are held out, in words; None where none are."""
        if not self.held_out:
            return None
        names = ", ".join(sorted(self.held_out))
        return (
            f"{self.root}: no dev part to choose the weights by: a tenth of the training pictures of {names} is held "
            'out (mark pictures with "split": "dev" to choose them yourself)'
        )


def open_data(data: Path) -> DataFolder:
    """The sets of a data folder, or the one set that ``data`` itself is.

    Raises DataError when there is none, and as ``describe``.
    """
    if (data / ANNOTATIONS).is_file():
        whole = data.resolve()
        root, names = whole.parent, [whole.name]
    else:
        root, names = data, _names(data)
    sets = {name: describe(root / name) for name in names}
    parts = {name: _splits(root / name) for name, description in sets.items() if description.measure}
    lacking = () if any("dev" in splits for splits in parts.values()) else parts
    return DataFolder(root, sets, frozenset(name for name in lacking if "train" in parts[name]))


def _names(data: Path) -> list[str]:
    try:
        names = sorted(p.name for p in data.iterdir() if (p / ANNOTATIONS).is_file())
    except OSError as error:
        raise DataError(f"{data}: {error.strerror}: give the folder that has a folder a set") from None
    if not names:
        raise DataError(
            f"{data}: no set in it: give a folder with {ANNOTATIONS}, or one of such folders; "
            "edgeface data import makes one of another tool's export"
        )
    return names


class _Split(msgspec.Struct):
    split: str


def _splits(directory: Path) -> frozenset[str]:
    """The parts that a set's lines name; a bad line is left to ``read_annotations``, which says what is wrong.

    Raises DataError for a set in which no line names one: it would be left out without a word.
    """
    decoder = msgspec.json.Decoder(_Split)
    found = set()
    try:
        with open_regular(directory / ANNOTATIONS) as stream:
            for line in stream:
                try:
                    found.add(decoder.decode(line).split)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue
    except OSError:
        return frozenset()
    if not found:
        raise DataError(f"{directory / ANNOTATIONS}: no pictures in it: fill the file, or remove the folder")
    return frozenset(found)


def settled_weights(
    weights: Mapping[str, float], folder: DataFolder, overrides: Iterable[str] = ()
) -> dict[str, float]:
    """The weights of the sets that are there, from a configuration's.

    Sets that the folder lacks are left out, unless one of ``overrides`` (``data.weights.NAME=...``) asks for them by
    name. Sets that the configuration does not name get their own set.toml's weight, or one by which each of their
    pictures is drawn as often as the average picture of the others; none are added where an override gives all
    weights. Raises DataError when no set is left.
    """
    keys = [override.partition("=")[0] for override in overrides]
    asked = {key.removeprefix("data.weights.") for key in keys}
    if "data.weights" in keys:
        return dict(weights)
    kept = {name: weight for name, weight in weights.items() if name in folder.sets or name in asked}
    counts = {
        name: len(folder.pictures(name, "train")) for name in folder.sets if folder.has_part(name, "train")
        and (name in kept or folder.sets[name].weight is None)
    }
    pictures = sum(counts[name] for name in kept if name in counts and kept[name] > 0)
    each = sum(weight for name, weight in kept.items() if name in counts) / pictures if pictures else None
    for name, description in folder.sets.items():
        if name in weights or not folder.has_part(name, "train"):
            continue
        if description.weight is not None:
            kept[name] = description.weight
        else:
            kept[name] = counts[name] * (each if each is not None else 1 / sum(counts.values()))
    if not any(weight > 0 for weight in kept.values()):
        raise DataError(f"{folder.root}: no set to train on: it has {', '.join(folder.sets)}: set data.weights.NAME=1")
    return kept


def remark_on_weights(weights: Mapping[str, float], settled: Mapping[str, float]) -> str | None:
    """Which sets are drawn from and how often, in words, where that is not what the configuration's ``weights`` say."""
    drawn = {name: weight for name, weight in settled.items() if weight > 0}
    if drawn == {name: weight for name, weight in weights.items() if weight > 0}:
        return None
    whole = sum(drawn.values())
    shares = ", ".join(f"{name} {weight / whole:.0%}" for name, weight in drawn.items())
    return f"draws its pictures from {shares} (data.weights.NAME=... changes that)"


def licence_of(folder: DataFolder, names: Iterable[str], default: str) -> str:
    """What weights trained on these sets may say of their licence: the sets' own, or ``default`` for research sets."""
    licences = {name: folder.sets[name].licence for name in names if name in folder.sets}
    if "research only" in licences.values():
        return default
    said = dict.fromkeys(f"{licence} (data of {name})" for name, licence in licences.items() if licence)
    silent = [name for name, licence in licences.items() if not licence]
    if silent:
        said[f"not stated (data of {', '.join(silent)}: licence in {DESCRIPTION})"] = None
    return "; ".join(said)
