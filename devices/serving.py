"""Which of a model's bundles serves a board best, by how long each takes there and what it finds; and keeping that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgeface import weights
from edgeface.atomic import refused, write_bytes
from edgeface.bundle import FAST, Bundle, read_bundle
from edgeface.errors import OptionError
from edgeface.runtime import catalog

from .boards import Board, find, own_description, with_table

# What a bundle may find less than the best one, in AP, and still be chosen for its time.
AP_LESS = 0.01
# Times that differ by less decide nothing: an estimate is off by so much on average, a measurement varies so much.
SAME_TIME = {"estimate": 0.10, "board": 0.03, "host": 0.03}
_SUBSET = "medium"
_HEAD = "# Written by 'edgeface bench MODEL --all': the bundle that serves best, then the best one of another engine."


class Candidate(msgspec.Struct, frozen=True):
    """A bundle and what it takes: ``ms`` a picture, or a face where it looks at faces that others found. ``ap`` is AP
    on WIDER FACE's medium subset, by the bundle itself or by ``weights.figures``; None where nobody measured it."""

    name: str
    engine: str
    precision: str
    ms: float
    ap: float | None


class Choice(msgspec.Struct, frozen=True):
    """The candidates of a model, the fastest first; the names of ``best`` in the order in which they serve, one for
    each engine; and ``why`` the first is the first."""

    model: str
    candidates: list[Candidate]
    best: list[str]
    why: str


def bundles_of(model: str) -> list[str]:
    """Every bundle that there is of a model, as ``catalog.find`` takes it: those that come with edgeface for its name,
    or those in a folder.

    Raises OptionError where there are none or, in a folder, of several models.
    """
    folder = Path(model)
    if folder.is_dir():
        found = sorted(path.parent for path in folder.glob("*/bundle.json"))
        if not found:
            raise OptionError(f"{model}: no bundles in this folder: give the folder that holds them, or a model's name")
        models = sorted({read_bundle(path, verify=False).model for path in found})
        if len(models) > 1:
            raise OptionError(f"{model}: has bundles of several models ({', '.join(models)}): one can be compared")
        return [str(path) for path in found]
    name = model.removeprefix(weights.SHIPPED)
    shipped = [weights.SHIPPED + entry.name for entry in catalog.shipped() if entry.read().model == name]
    if not shipped:
        known = ", ".join(sorted(weights.DEFAULTS))
        raise OptionError(f"{model}: no bundles of a model of that name come with edgeface: choose of {known}")
    return shipped


def average_precision(bundle: Bundle) -> float | None:
    """AP on the medium subset, as the bundle's own metrics say it; else as it was measured of the shipped one."""
    own = [each[_SUBSET] for each in bundle.metrics.values() if isinstance(each, dict) and _SUBSET in each]
    if own:
        return float(own[0])
    measured: float | None = weights.figures().get(bundle.name, {}).get("measured", {}).get("ap", {}).get(_SUBSET)
    return measured


def choose(model: str, candidates: Sequence[Candidate], place: str) -> Choice:
    """The fastest of those whose AP is at most ``AP_LESS`` below the best, or the model's default where it is as fast,
    by ``SAME_TIME`` of ``place``. An unknown AP counts as that of another bundle in the same precision, and where there
    is none it is held against nobody."""
    ordered = sorted(candidates, key=lambda each: each.ms)
    known = [each.ap for each in ordered if each.ap is not None]
    least = max(known) - AP_LESS if known else 0.0
    left = [each for each in ordered if (least if (ap := _ap(each, ordered)) is None else ap) >= least]
    default = weights.DEFAULTS.get(model)
    order: list[Candidate] = []
    while left:
        alike = [each for each in left if each.ms <= left[0].ms * (1 + SAME_TIME[place])]
        taken = next((each for each in alike if each.name == default), alike[0])
        order.append(taken)
        left = [each for each in left if each.engine not in {one.engine for one in order}]
    return Choice(model, ordered, [each.name for each in order], _why(order[0], ordered, place))


def _ap(candidate: Candidate, among: Sequence[Candidate]) -> float | None:
    # The fast form of int8 is the same network, and rounds a little otherwise.
    plain = candidate.precision.removesuffix(FAST)
    same = (each.ap for each in among if each.precision.removesuffix(FAST) == plain and each.ap is not None)
    return candidate.ap if candidate.ap is not None else next(same, None)


def _why(taken: Candidate, ordered: Sequence[Candidate], place: str) -> str:
    fastest = ordered[0]
    if taken is fastest:
        return "the fastest"
    if taken.ms <= fastest.ms * (1 + SAME_TIME[place]):
        return f"the model's default, and within {SAME_TIME[place]:.0%} of the fastest"
    return f"the fastest of those that find as many faces: AP at most {AP_LESS} below the best"


def keep_best(board: Board, choice: Choice) -> Path:
    """Write ``choice`` into the user's own description of ``board``, beside what that says already; the file.

    Raises DeviceError for a description that is wrong, and OutputError.
    """
    path = own_description(board.name)
    try:
        before = path.read_text() if path.is_file() else ""
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(path, error) from None
    own = msgspec.toml.decode(before.encode(), type=dict[str, Any]).get("best", {}) if before else {}
    write_bytes(path, with_best(before, own | {choice.model: choice.best}).encode())
    find(board.name)
    return path


def with_best(text: str, best: dict[str, list[str]]) -> str:
    """A description's TOML with ``best`` in the place of what it said of it, and all else as it was."""
    # A list of plain names is written alike in JSON and in TOML.
    lines = [f"{model} = {json.dumps(names)}" for model, names in best.items()]
    return with_table(text, "best", ["[best]", _HEAD, *lines])

