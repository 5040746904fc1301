"""Write edgeface/weights/figures.json, which 'edgeface models list' shows, from what docs/results keeps.

    python docs/make_figures.py                 from the reports as they are
    python docs/make_figures.py --check         whether the file is what the reports say
    python docs/make_figures.py --estimate      the time on a Cortex-A72 of every bundle that ships, again: minutes

AP and the share of masked faces that are found are those of docs/make_results.py's reports.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from edgeface import weights
from edgeface.atomic import write_bytes
from edgeface.bundle import MANIFEST
from edgeface.runtime import catalog

RESULTS = Path(__file__).parent / "results"
ESTIMATES = RESULTS / "estimates" / "rk3399.json"
FIGURES = weights.directory() / weights.FIGURES
COMMAND = "edgeface bench BUNDLES --device rk3399 --core cortex-a72 --size 320x256 --frame 640x480 --layers 0"
SIZE_PX = 640

Record = dict[str, Any]


def figures() -> Record:
    """The file's content: of each bundle by name what was measured and estimated, and the bundle's hash then."""
    found: dict[str, Record] = {}
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text())
        reports = [report for run in record["runs"] for report in run["reports"]]
        measured = _accuracy(reports)
        if measured:
            found[record["model"]] = {"measured": measured | {"bundle_sha256": record["bundle_sha256"]}}
    for name, estimate in json.loads(ESTIMATES.read_text())["bundles"].items():
        found.setdefault(name, {})["estimate"] = estimate
    return {"made_by": "docs/make_figures.py", "bundles": dict(sorted(found.items()))}


def _accuracy(reports: list[Record]) -> Record:
    measured: Record = {}
    for report in reports:
        if report["size_px"] != SIZE_PX:
            continue
        measures = report["measures"]
        if report["data"] == "wider":
            subsets = measures["detection"]["ap"]
            measured |= {
                "ap": {name: round(subsets[name]["ap"], 3) for name in ("easy", "medium", "hard")},
                "size_px": SIZE_PX,
                "pictures": f"{report['pictures']} pictures, {report['split']} part of WIDER FACE val",
            }
        if report["data"] == "masks":
            worn = measures["mask_recall"]["worn"]
            measured["mask_recall"] = {key: round(worn[key], 3) if key == "share" else worn[key]
                                       for key in ("share", "faces", "score")}
    return measured


def estimate() -> Record:
    """What ``COMMAND`` says of every bundle that ships: ms for a picture with one face, and for each face more."""
    names = [entry.name for entry in catalog.shipped()]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "report.json"
        typed = shlex.split(COMMAND.replace("BUNDLES", " ".join(names)))
        subprocess.run([sys.executable, "-m", *typed, "--json", str(target)], check=True)
        report = json.loads(target.read_text())
    return kept_estimate(report)


def kept_estimate(report: Record) -> Record:
    """Of a report of ``COMMAND`` what is shown."""
    bundles = {}
    for bundle in report["bundles"]:
        each = [crop for crop in bundle["crops"] if crop["crops"] == 1]
        fields = ("network_ms", "preprocessing_ms", "decoding_ms")
        manifest = catalog.find(weights.SHIPPED + bundle["name"]) / MANIFEST
        bundles[bundle["name"]] = {
            "a72_ms": round(bundle["total_ms"], 1) if bundle["stages"] else None,
            "a72_ms_a_face": round(sum(crop[field] for crop in each for field in fields), 1) if each else None,
            "size_px": report["size_px"],
            "bundle_sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(),
        }
    return {"command": COMMAND, "core": report["core"], "mhz": report["mhz"], "threads": 1, "bundles": bundles}


def _text(content: Record) -> bytes:
    return json.dumps(content, indent=1).encode() + b"\n"


@click.command(help=__doc__)
@click.option("--check", "is_checked", is_flag=True, help="Write nothing; fail where the file is not what it would be.")
@click.option("--estimate", "is_estimated", is_flag=True, help="First estimate the times again.")
def main(is_checked: bool, is_estimated: bool) -> None:
    if is_estimated:
        write_bytes(ESTIMATES, _text(estimate()))
    content = _text(figures())
    if not is_checked:
        write_bytes(FIGURES, content)
    elif not FIGURES.is_file() or FIGURES.read_bytes() != content:
        raise click.ClickException(f"{FIGURES.name} is not what the reports say: python docs/make_figures.py")


if __name__ == "__main__":
    main()
