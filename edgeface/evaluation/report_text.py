"""An evaluation's report as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgeface.evaluation.attributes import AttributeReport, BinaryFigures, MaskRecall
from edgeface.evaluation.classes import class_lines
from edgeface.evaluation.close_ups import CloseUpFigures, CloseUpReport
from edgeface.evaluation.fit import Fit
from edgeface.evaluation.landmarks import LandmarkReport
from edgeface.evaluation.operating import OperatingPoint, OperatingReport
from edgeface.evaluation.pose import PoseReport
from edgeface.evaluation.report import FalseAlarmReport, Measures, Report
from edgeface.evaluation.wider import AveragePrecision, DetectionReport


def report_lines(report: Report) -> Iterator[str]:
    """The lines of a report, without line ends."""
    part = "" if report.pictures == report.pictures_of_split else f" of {report.pictures_of_split}"
    yield f"{report.model} ({report.engine}) on {report.data}, {report.split} part, {report.pictures}{part} pictures"
    yield f"longest side {report.size_px} px, score >= {report.score:g}, NMS at IoU {report.nms_iou:g}"
    if report.merge is not None:
        sizes = ", ".join(f"{report.size_px * scale:.0f}" for scale in report.scales)
        yield f"shown at {sizes} px{', each mirrored too' if report.flip else ''}, merged by {report.merge}"
    yield from measure_lines(report.measures)


def measure_lines(measures: Measures) -> Iterator[str]:
    """The lines of all that was measured, and of what was not and why."""
    if measures.detection:
        yield from _detection(measures.detection)
    if measures.operating:
        yield from _operating(measures.operating)
    if measures.landmarks:
        yield from _landmarks("five landmarks, error in % of the distance between the eyes", measures.landmarks)
    if measures.landmarks68:
        title = "68 landmarks, error in % of the distance between the outer eye corners"
        yield from _landmarks(title, measures.landmarks68)
    if measures.pose:
        yield from _pose("head pose", measures.pose)
    if measures.pose_from_landmarks:
        yield from _pose("head pose from the five landmarks", measures.pose_from_landmarks)
    for name, attribute in (measures.attributes or {}).items():
        yield from _attribute(name, attribute)
    for name, told in (measures.classes or {}).items():
        yield from class_lines(name, told)
    if measures.mask_recall:
        yield from _mask_recall(measures.mask_recall)
    if measures.false_alarms:
        yield from _false_alarms(measures.false_alarms)
    if measures.close_ups:
        yield from _close_ups(measures.close_ups)
    if measures.not_measured:
        yield ""
    for name, reason in measures.not_measured.items():
        yield f"{name.replace('_', ' ')} not measured: {reason}"


def _detection(report: DetectionReport) -> Iterator[str]:
    protocol = "WIDER FACE's protocol and subsets" if "all" not in report.ap else "WIDER FACE's protocol, all faces"
    yield ""
    yield from _table(f"AP ({protocol}, IoU 0.5)", report.ap)
    yield ""
    yield from _table("AP by face height in the picture, px", report.ap_by_height_px)


def _table(title: str, rows: Mapping[str, AveragePrecision]) -> Iterator[str]:
    yield f"{title:<52}{'AP':>6}{'recall':>8}{'faces':>7}"
    for name, row in rows.items():
        yield f"  {name:<50}{row.ap:>6.3f}{row.recall:>8.3f}{row.faces:>7}"


def _landmarks(title: str, report: LandmarkReport) -> Iterator[str]:
    yield ""
    yield f"{title}, {report.found} of {report.faces} faces found"
    if report.nme_percent is not None and report.over_10_share is not None:
        yield (
            f"  NME {report.nme_percent:.2f} %, median {report.median_percent:.2f} %, "
            f"over 10 %: {report.over_10_share:.1%} (of the faces found)"
        )
    yield (
        f"  not found {report.missed_share:.1%}, not found or over 10 %: {report.failure_share:.1%}, "
        f"AUC to 10 % {report.auc_10:.3f} (of all faces)"
    )
    if report.nose_ratio is not None:
        yield f"  nose height between eyes (0) and mouth (1): {_fit(report.nose_ratio, 3)}"


def _fit(one: Fit, places: int) -> str:
    return (
        f"error {one.error:.{places}f} (a constant {one.constant_error:.{places}f}), "
        f"correlation {_share(one.correlation)}, slope {_share(one.slope)}"
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _operating(report: OperatingReport) -> Iterator[str]:
    points = [("the model's own", report.at_default), ("0.5", report.at_half)]
    if report.suggested is not None:
        points.append((f"precision {report.wanted_precision:g}", report.suggested))
    names = list(report.at_default.recall)
    yield ""
    title = "from a score on"
    yield f"{title:<36}{'score':>7}{'precision':>11}{'false':>7}" + "".join(f"{'recall ' + n:>15}" for n in names)
    for name, point in points:
        yield _operating_point(name, point)
    if report.wanted_precision is not None and report.suggested is None:
        yield f"  no score has a precision of {report.wanted_precision:g}"


def _operating_point(name: str, point: OperatingPoint) -> str:
    recall = "".join(f"{share:>15.3f}" for share in point.recall.values())
    precision = "-" if point.precision is None else f"{point.precision:.3f}"
    return f"  {name:<34}{point.score:>7.3f}{precision:>11}{point.false_faces:>7}{recall}"


def _pose(title: str, report: PoseReport) -> Iterator[str]:
    yield ""
    yield f"{title}, mean absolute error in degrees, {report.found} of {report.faces} faces found"
    if report.mean_deg is not None:
        for name, angle in report.by_angle.items():
            yield f"  {name:<6}{_fit(angle, 2)}"
        yield f"  mean  {report.mean_deg:.2f}; not found {report.missed_share:.1%}"


def _mask_recall(report: Mapping[str, MaskRecall]) -> Iterator[str]:
    yield ""
    score = next(iter(report.values())).score
    title = f"found at score >= {score:g}, by the mask"
    yield f"{title:<52}{'faces':>7}{'recall':>8}"
    for state, one in report.items():
        yield f"  {state:<50}{one.faces:>7}{one.share:>8.3f}"
        for band, (faces, share) in one.by_side_px.items():
            yield f"    {'longer side ' + band + ' px':<48}{faces:>7}{share:>8.3f}"


def _attribute(name: str, report: AttributeReport) -> Iterator[str]:
    yield ""
    title = f"{name}, yes from {report.threshold:g}, {report.found} of {report.faces} faces found"
    yield f"{title:<52}{'faces':>7}{'yes':>6}{'accuracy':>10}{'balanced':>10}{'AUC':>7}"
    yield _binary("all", report.overall)
    for band, figures in report.by_side_px.items():
        yield _binary(f"longer side {band} px", figures)
    if report.incorrect_as_worn is not None:
        yield f"  of {report.incorrect} masks worn wrongly, {report.incorrect_as_worn:.1%} of those found count as worn"


def _binary(name: str, figures: BinaryFigures) -> str:
    shares = [(figures.accuracy, 10), (figures.balanced_accuracy, 10), (figures.auc, 7)]
    cells = "".join(f"{'-' if share is None else f'{share:.3f}':>{width}}" for share, width in shares)
    return f"  {name:<50}{figures.faces:>7}{figures.positives:>6}{cells}"


def _false_alarms(report: FalseAlarmReport) -> Iterator[str]:
    yield ""
    yield (
        f"false faces at score >= {report.score:g}: {report.false_faces} in {report.pictures} pictures without faces, "
        f"{report.per_100_pictures:.1f} in 100; at the model's own {report.default_score:g}: "
        f"{report.per_100_at_default:.1f} in 100"
    )


def _close_ups(report: CloseUpReport) -> Iterator[str]:
    yield ""
    title = f"the face's height in the frame, score >= {report.score:g}"
    yield f"{title:<46}{'pictures':>9}{'one box':>9}{'several':>9}{'none':>7}{'recall':>8}"
    for share, figures in report.by_share.items():
        yield _close_up(f"{share} %", figures)
    yield _close_up("all", report.overall)
    yield _close_up(f"all, at the model's own score {report.default_score:g}", report.at_default)


def _close_up(name: str, row: CloseUpFigures) -> str:
    return f"  {name:<44}{row.pictures:>9}{row.one:>9.3f}{row.several:>9.3f}{row.none:>7.3f}{row.recall:>8.3f}"
