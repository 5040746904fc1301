"""What ``edgeface models list`` shows: a row a model with its figures, its bundles, and the checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeface import weights
from edgeface.bundle import MANIFEST, Bundle
from edgeface.cli.model_lines import predicts, size_bytes
from edgeface.cli.tables import table
from edgeface.cli.verification import parity_ap
from edgeface.errors import EdgefaceError
from edgeface.runtime import catalog

Row = dict[str, Any]

_SUBSETS = ("easy", "medium", "hard")
# Marks figures of a bundle that was replaced since.
_OLD = "*"


def listed() -> tuple[list[Row], list[EdgefaceError]]:
    """A row a bundle, a row a checkpoint, and what is wrong with bundles that cannot be read."""
    rows: list[Row] = []
    failures: list[EdgefaceError] = []
    kept = weights.figures()
    for entry in (*catalog.shipped(), *catalog.deployed()):
        try:
            bundle = entry.read()
        except EdgefaceError as error:
            failures.append(error)
            continue
        rows.append(_bundle_row(entry, bundle, kept.get(entry.name, {})))
    rows += [_checkpoint_row(model, path) for model, path in catalog.shipped_checkpoints().items()]
    return rows, failures


def measured_lines(directory: Path) -> Iterator[tuple[str, str]]:
    """Pairs of a label and a text: what was measured of the bundle in ``directory``, where it came with edgeface and is
    still the one that was measured."""
    if directory.parent.resolve() != weights.directory().resolve():
        return
    kept = weights.figures().get(directory.name, {})
    measured = kept.get("measured")
    if not measured or measured["bundle_sha256"] != _sha256_of_manifest(directory):
        return
    if "ap" in measured:
        figures = ", ".join(f"{name} {measured['ap'][name]:.3f}" for name in _SUBSETS)
        yield "AP", f"{figures} at {measured['size_px']} px on {measured['pictures']}"
    if "mask_recall" in measured:
        recall = measured["mask_recall"]
        yield "masked", f"{recall['share']:.0%} of {recall['faces']} faces in masks found"


def _sha256_of_manifest(directory: Path) -> str:
    return hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()


def _bundle_row(entry: catalog.Named, bundle: Bundle, kept: Mapping[str, Any]) -> Row:
    is_now = _sha256_of_manifest(entry.directory)
    measured, estimate = (
        None if kept.get(key) is None else
        {name: value for name, value in kept[key].items() if name != "bundle_sha256"}
        | {"of_this_bundle": kept[key]["bundle_sha256"] == is_now}
        for key in ("measured", "estimate")
    )
    default = weights.DEFAULT_MODEL.removeprefix(weights.SHIPPED)
    return {
        "name": entry.name,
        "model": bundle.model,
        "purpose": weights.PURPOSES.get(bundle.model),
        "precision": bundle.form,
        "engine": bundle.engine,
        "size_bytes": size_bytes(bundle),
        "default": entry.default and bundle.model == default,
        "default_of_model": entry.default,
        "verified": bundle.verified,
        "finds": list(predicts(bundle)),
        "refines": bundle.is_refinement,
        "licence": bundle.licence,
        "measured": measured,
        "estimate": estimate,
        "parity_ap": parity_ap(bundle),
    }


def _checkpoint_row(model: str, path: Path) -> Row:
    # What is in it, a checkpoint says inside, and reading one takes torch: 'models info' does.
    nothing = dict.fromkeys(
        ("purpose", "precision", "verified", "finds", "refines", "licence", "measured", "estimate", "parity_ap")
    )
    return {
        "name": path.name, "model": model, "engine": "torch", "size_bytes": path.stat().st_size,
        "default": False, "default_of_model": False,
    } | nothing


def list_lines(rows: Sequence[Row]) -> Iterator[str]:
    """The rows of ``listed`` as text."""
    bundles = [row for row in rows if row["engine"] != "torch"]
    yield from _model_lines(bundles)
    yield ""
    yield from _form_lines(bundles)
    checkpoints = [row for row in rows if row["engine"] == "torch"]
    if checkpoints:
        names = ", ".join(f"{row['name']} ({row['size_bytes'] / 1e6:.2f} MB)" for row in checkpoints)
        yield ""
        yield f"Checkpoints, to convert or to train on, with torch: {names}"
    if any(row["licence"] and row["licence"].startswith("research only") for row in bundles):
        yield "Research only, by the terms of the pictures trained on: 'edgeface models info NAME' says the rest."


def _model_lines(bundles: Sequence[Row]) -> Iterator[str]:
    """A row a model, of the bundle that its name alone means, or of its first; the default model comes first."""
    chosen: dict[str, Row] = {}
    for row in sorted(bundles, key=lambda row: (not row["default"], row["model"], not row["default_of_model"])):
        chosen.setdefault(row["model"], row)
    cells = [("MODEL", "FINDS", "AP", "MASKED", "A72 ms", "SIZE")]
    for model, row in chosen.items():
        # 'models info' says an attribute's threshold and a class's names.
        finds = ", ".join(found.partition(" from ")[0].partition(": ")[0] for found in row["finds"])
        cells.append((
            model, finds, _ap(row), _masked(row), _time(row), f"{row['size_bytes'] / 1e6:.2f} MB",
        ))
    yield from table(cells, words=2)
    yield ""
    width = max(map(len, chosen))
    for model, row in chosen.items():
        if row["purpose"]:
            yield f"{model:<{width}}  for {row['purpose']}"
    default = next((row["model"] for row in chosen.values() if row["default"]), None)
    if default is not None:
        yield f"The default is {default}: {weights.WHY_DEFAULT}."
    yield from _legend(list(chosen.values()))


def _legend(rows: Sequence[Row]) -> Iterator[str]:
    measured = next((row["measured"] for row in rows if row["measured"] and "ap" in row["measured"]), None)
    if measured is not None:
        yield f"AP: easy, medium, hard of {measured['pictures']}, at {measured['size_px']} px."
        yield "MASKED: share of the faces in masks that are found, at the model's own score."
    estimate = next((row["estimate"] for row in rows if row["estimate"]), None)
    if estimate is not None:
        width_px, height_px = estimate["size_px"]
        yield (
            f"A72: one Cortex-A72 of an RK3399, {width_px}x{height_px}, one face: an estimate, "
            "see 'edgeface bench --device rk3399'."
        )
    if any(kept and not kept["of_this_bundle"] for row in rows for kept in (row["measured"], row["estimate"])):
        yield f"{_OLD} of a bundle of that name that was replaced since."


def _form_lines(bundles: Sequence[Row]) -> Iterator[str]:
    """A row a bundle; the one that a model's name alone means says so."""
    cells = [("BUNDLE", "PRECISION", "ENGINE", "SAME AS", "LICENCE", "SIZE", "A72 ms")]
    for row in bundles:
        name = row["model"] if row["default_of_model"] else "" if row["verified"] else "not verified"
        licence = row["licence"].partition(":")[0]
        cells.append((
            row["name"], row["precision"], row["engine"], name, licence, f"{row['size_bytes'] / 1e6:.2f} MB",
            _time(row),
        ))
    yield from table(cells, words=5)


def _ap(row: Row) -> str:
    measured = row["measured"]
    if not measured or "ap" not in measured:
        return "-"
    return _marked(" ".join(f"{measured['ap'][name]:.3f}".removeprefix("0") for name in _SUBSETS), measured)


def _masked(row: Row) -> str:
    measured = row["measured"]
    if not measured or "mask_recall" not in measured:
        return "-"
    return _marked(f"{measured['mask_recall']['share']:.0%}", measured)


def _time(row: Row) -> str:
    estimate = row["estimate"]
    if not estimate:
        return "-"
    if estimate["a72_ms"] is None:
        return _marked(f"{estimate['a72_ms_a_face']:.1f} a face", estimate)
    return _marked(f"{estimate['a72_ms']:.0f}", estimate)


def _marked(text: str, kept: Mapping[str, Any]) -> str:
    return text if kept["of_this_bundle"] else text + _OLD
