"""The tables of docs/results.md: what stands in each, and which figures of a report its cells are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "-"
STALE = " (of an earlier bundle)"

Record = dict[str, Any]
Row = tuple[str, list[str]]


@dataclass(frozen=True)
class Result:
    """One model's reports: the file's content, ``record``, and whether the bundle has changed since."""

    record: Record
    is_stale: bool

    @property
    def name(self) -> str:
        return f"{self.record['model']}{STALE if self.is_stale else ''}"

    def report(self, data: str, size_px: int) -> Record | None:
        """The measures on a set at a size; None where that was not measured."""
        for run in self.record["runs"]:
            for report in run["reports"]:
                if (report["data"], report["size_px"]) == (data, size_px):
                    measures: Record = report["measures"]
                    return measures
        return None

    def command(self, data: str, size_px: int) -> str | None:
        """The command that printed that report, with MODEL for the model's name."""
        for run in self.record["runs"]:
            if any((report["data"], report["size_px"]) == (data, size_px) for report in run["reports"]):
                return str(run["command"]).replace(self.record["model"], "MODEL")
        return None


@dataclass(frozen=True)
class Table:
    """A table of the page: a row a model of the figures that ``cells`` takes from its measures of ``sources``.

    Those are (set, size in pixels), and their measures are given in that order, None where one was not measured."""

    title: str
    text: str
    head: Sequence[str]
    sources: Sequence[tuple[str, int]]
    cells: Callable[..., list[str]]

    def lines(self, results: Sequence[Result]) -> Iterator[str]:
        rows: list[Row] = []
        commands: dict[str, None] = {}
        for result in results:
            measures = [result.report(*source) for source in self.sources]
            if any(one is not None for one in measures):
                rows.append((result.name, self.cells(*measures)))
                commands |= dict.fromkeys(c for s in self.sources if (c := result.command(*s)) is not None)
        rows = [row for row in rows if set(row[1]) != {MISSING}]
        if not rows:
            return
        yield from ("", f"## {self.title}", "", self.text, "")
        yield "| model | " + " | ".join(self.head) + " |"
        yield "| --- |" + " ---: |" * len(self.head)
        for name, cells in rows:
            yield f"| {name} | " + " | ".join(cells) + " |"
        yield ""
        yield from (f"    {command}" for command in commands)


def number(value: float | None, places: int = 3) -> str:
    """A figure of the page: a share without its leading 0."""
    if value is None:
        return MISSING
    text = f"{value:.{places}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def at(record: Any, *keys: str) -> Any:
    """What lies below ``keys`` in nested objects; None where one of them is missing or null."""
    for key in keys:
        if record is None or key not in record:
            return None
        record = record[key]
    return record


SUBSETS = ("easy", "medium", "hard")
BINS_PX = ("8-16", "16-32", "32-64", "64-128", ">=128")


def ap_cells(large: Record | None, small: Record | None) -> list[str]:
    return [number(at(one, "detection", "ap", name, "ap")) for one in (large, small) for name in SUBSETS]


def height_cells(scenes: Record | None) -> list[str]:
    return [number(at(scenes, "detection", "ap_by_height_px", name, "ap")) for name in BINS_PX]


def score_cells(scenes: Record | None) -> list[str]:
    cells = []
    for name in ("at_default", "suggested"):
        point = at(scenes, "operating", name)
        cells += [number(at(point, "score"), 2), number(at(point, "precision"))]
        cells += [number(at(point, "recall", subset)) for subset in SUBSETS]
    return cells


def false_cells(*empty: Record | None) -> list[str]:
    keys = ("per_100_pictures", "per_100_at_default")
    return [number(at(one, "false_alarms", key), 1) for one in empty for key in keys]


def close_up_cells(shown: Record | None) -> list[str]:
    shares = [number(at(shown, "close_ups", "by_share", share, "one"), 2) for share in ("50", "70", "90", "120")]
    overall = [number(at(shown, "close_ups", "overall", key), 2) for key in ("one", "several", "recall")]
    return [*shares, *overall, number(at(shown, "close_ups", "at_default", "one"), 2)]


def landmark_cells(crops: Record | None) -> list[str]:
    report = at(crops, "landmarks")
    share = at(report, "over_10_share")
    return [
        number(at(report, "nme_percent"), 1), number(at(report, "median_percent"), 1),
        MISSING if share is None else f"{share:.0%}", number(at(report, "nose_ratio", "correlation"), 2),
        number(at(report, "nose_ratio", "slope"), 2),
    ]


def landmark68_cells(crops: Record | None) -> list[str]:
    report = at(crops, "landmarks68")
    errors = [number(at(report, key), 2) for key in ("nme_percent", "median_percent")]
    return [*errors, *(number(at(report, key), 3) for key in ("failure_share", "auc_10"))]


def pose_cells(which: str) -> Callable[[Record | None], list[str]]:
    def cells(crops: Record | None) -> list[str]:
        report = at(crops, which)
        found = []
        for angle in ("pitch", "yaw", "roll"):
            one = at(report, "by_angle", angle)
            if one is None:
                found.append(MISSING)
                continue
            follows = f"{number(one['correlation'], 2)}, {number(one['slope'], 2)}"
            found.append(f"{one['error']:.1f} ({one['constant_error']:.1f}); {follows}")
        return [*found, number(at(report, "mean_deg"), 1)]

    return cells


def mask_cells(masks: Record | None) -> list[str]:
    bands = ("16-32", "over 32")
    accuracy = [number(at(masks, "attributes", "mask", "by_side_px", band, "accuracy")) for band in bands]
    recall = [at(masks, "mask_recall", "worn", "by_side_px", band) for band in bands]
    return [*accuracy, *(MISSING if one is None else number(one[1]) for one in recall)]


def class_cells(portraits: Record | None) -> list[str]:
    """Of faces that were found: shares told right, of all and of the group of which the fewest are, and years off."""
    told = at(portraits, "classes")
    cells = []
    for name in ("gender", "ethnicity"):
        groups = at(told, name, "by_group") or {}
        least = min(((one["accuracy"], group) for group, one in groups.items() if one["accuracy"] is not None),
                    default=(None, ""))
        cells += [number(at(told, name, "overall", "accuracy")), f"{number(least[0])} {least[1]}".strip()]
    age = at(told, "age", "overall")
    return [*cells, number(at(age, "error_years"), 1), number(at(age, "accuracy"))]


ANGLES = ["pitch", "yaw", "roll", "mean"]
FOLLOWS = "Error in degrees, in brackets that of the best constant; then correlation and slope against the annotation."
SCORE_HEAD = [f"{at_score} {one}" for at_score in ("own", ".95") for one in ("score", "precision", *SUBSETS)]
TABLES = (
    Table(
        "Finding faces",
        "AP by WIDER FACE's protocol on the dev part of WIDER val, at 640 px and at 320 px of the longest side. It is "
        "a part of the validation set with all its pictures made small, so no published AP compares with it.",
        [f"{name} {size}" for size in (640, 320) for name in SUBSETS],
        [("wider", 640), ("wider", 320)],
        ap_cells,
    ),
    Table(
        "By the face's height",
        "AP at 640 px by the height of the face in the picture, pixels.",
        BINS_PX,
        [("wider", 640)],
        height_cells,
    ),
    Table(
        "At a score",
        "At the score from which the model counts a face by itself, and at the least score with a precision of .95: "
        "score, precision and recall of the easy, medium and hard faces.",
        SCORE_HEAD,
        [("wider", 640)],
        score_cells,
    ),
    Table(
        "False faces",
        "Detections in 100 pictures without any face, at 0.5 and at the model's own score: ordinary pictures and "
        "animals (`backgrounds`), and things that small detectors took for faces (`negatives`).",
        [f"{name} {at_score}" for name in ("backgrounds", "negatives") for at_score in ("0.5", "own")],
        [("backgrounds", 640), ("negatives", 640)],
        false_cells,
    ),
    Table(
        "Faces that fill the frame",
        "Share of the close-ups with exactly one box at 0.5, by the face's height in % of the frame's; of all with "
        "one, with several, and with the face found; with exactly one at the model's own score.",
        ["50 %", "70 %", "90 %", "120 %", "all, one", "several", "found", "own score, one"],
        [("close-ups of landmarks68, attributes", 640)],
        close_up_cells,
    ),
    Table(
        "Landmarks",
        "Five points, error in % of the distance between the eyes, and the share of faces over 10 %; and whether the "
        "nose's height between eyes and mouth follows the annotation.",
        ["NME", "median", "over 10 %", "nose: correlation", "slope"],
        [("landmarks68", 320)],
        landmark_cells,
    ),
    Table(
        "68 landmarks",
        "Error in % of the distance between the outer eye corners over the faces found, its median; the share of all "
        "faces that are not found or over 10 %, and the area under the curve of errors up to 10 %, as a share.",
        ["NME", "median", "failures", "AUC"],
        [("landmarks68", 320)],
        landmark68_cells,
    ),
    Table("Head pose", f"The pose that the model gives. {FOLLOWS}", ANGLES, [("landmarks68", 320)], pose_cells("pose")),
    Table(
        "Head pose from the five landmarks",
        f"`edgeface.pose_from_points` of the model's landmarks. {FOLLOWS}",
        ANGLES,
        [("landmarks68", 320)],
        pose_cells("pose_from_landmarks"),
    ),
    Table(
        "Apparent age, gender and ethnicity",
        "The share of found faces whose gender (of two) and ethnicity (of FairFace's seven) is what people wrote down, "
        "in all and in the group that fares worst; how many years the expected age is off where a number of years is "
        "known, and the share whose bin it lies in. Pictures of 128 px; what that is worth: [tfn.md](tfn.md).",
        ["gender", "worst group", "ethnicity", "worst group", "age, years off", "in its bin"],
        [("attributes", 128)],
        class_cells,
    ),
    Table(
        "Masks",
        "Accuracy on the faces found, and the share of masked faces found at the model's own score, by the longer side "
        "of the face in pixels.",
        ["accuracy 16-32", "over 32", "masked found 16-32", "over 32"],
        [("masks", 640)],
        mask_cells,
    ),
)
