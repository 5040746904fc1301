"""What ``edgeface bench --device`` says of a board that is emulated: estimates, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgeface.cli.tables import table
from edgeface.wording import counted

if TYPE_CHECKING:
    from edgeface.devices.estimate.estimates import BundleEstimate, EstimateReport

# Of what the costs of a stage rest on, the share below which the table says so.
_COVERED = 0.995
_THREADLESS = ("preprocessing", "decoding")
_ON_FACES = ("pose", "regions", "crops")


def estimate_lines(report: EstimateReport, layers: int) -> Iterator[str]:
    """The report as lines of tables; every time is in ms. ``layers``: how many of each bundle's slowest are shown."""
    size = report.size_px if isinstance(report.size_px, int) else "{} x {}".format(*report.size_px)
    side = "longest side " if isinstance(report.size_px, int) else ""
    width, height = report.picture_px
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    yield (
        f"Estimate for {report.board}, {report.core} at {report.mhz:g} MHz, {counted(report.threads, 'thread')}: "
        "no time was measured"
    )
    which = "published networks" if report.measured is None else f"networks timed on it on {report.measured}"
    yield (
        f"Instructions counted under emulation, costed by the core's model, x {report.factor:.3f}; off by "
        f"{report.mean_error:.1%} on average over {report.calibration_networks} {which}"
    )
    for kind, error in (("int8", report.int8_error), ("float", report.float_error)):
        if error is not None:
            yield (
                f"Of these {counted(error.networks, 'network')} in {kind}: off by {error.mean:.1%}, on average "
                f"{abs(error.bias):.1%} too {'slow' if error.bias > 0 else 'fast'}"
            )
    if report.threads > 1:
        known = "published for ncnn" if report.measured is None else "timed there"
        how = f"as {known}"
        if report.threads_from is not None:
            how = f"by Amdahl's law from what is {known} with {report.threads_from} threads"
        yield (
            f"{report.threads} threads: networks {report.speedup:.2f} times as fast as by one, {how} "
            f"(off by {report.threads_error:.1%} on average{'' if report.threads_from is None else ' there'})"
        )
    yield f"{versions}"
    yield f"Input {side}{size} px; picture {width} x {height}: {report.picture}; ms"
    yield ""
    detectors = [bundle for bundle in report.bundles if bundle.stages]
    if detectors:
        yield from table([
            ["", "", "", "", "", "PREPROCESSING", "", "DECODING", "", "NETS ON", "", ""],
            ["BUNDLE", "ENGINE", "PRECISION", "MB", "NETWORK", "all", "in C", "all", "in C", "FACES", "TOTAL", "FACES"],
            *(_row(bundle) for bundle in detectors),
        ], words=3)
    if any(bundle.crops for bundle in report.bundles):
        yield from [""] if detectors else []
        yield from _crop_lines(report)
    yield from _notes(report, detectors)
    for bundle in report.bundles:
        yield from _layer_lines(bundle, layers)


def _row(bundle: BundleEstimate) -> list[str]:
    preprocessing, decoding = (bundle.stage(name) for name in _THREADLESS)
    on_faces_ms = sum(bundle.stage(name).ms for name in _ON_FACES)
    times_ms = (
        bundle.stage("network").ms, preprocessing.ms, preprocessing.kernels_ms, decoding.ms, decoding.kernels_ms,
        on_faces_ms, bundle.total_ms,
    )
    return [
        bundle.name, bundle.engine, bundle.precision, f"{bundle.size_bytes / 1e6:.2f}",
        *(f"{time_ms:.2f}" for time_ms in times_ms), str(bundle.faces),
    ]


def _crop_lines(report: EstimateReport) -> Iterator[str]:
    """What nets on crops take of so many faces, whatever was found in the picture."""
    rows = [
        [
            bundle.name, bundle.engine, bundle.precision, f"{each.size_px} px", str(each.crops),
            *(f"{ms:.2f}" for ms in (
                each.network_ms, each.preprocessing_ms, each.decoding_ms, each.total_ms, each.total_ms / each.crops
            )),
        ]
        for bundle in report.bundles
        for each in bundle.crops
    ]
    yield from table([
        ["NETS ON CROPS", "ENGINE", "PRECISION", "CROPS OF", "FACES", "NET", "CUTTING", "REST", "ALL", "A FACE"], *rows,
    ], words=4)


def _notes(report: EstimateReport, detectors: Sequence[BundleEstimate]) -> Iterator[str]:
    """What a reader of the table must know to read it right."""
    yield "The factor is that of networks in ncnn; what is not in C is Python, which may be slower than its estimate."
    if detectors and not any(bundle.faces for bundle in detectors):
        yield "No face was found: nets that run on faces alone, such as head pose, have no part in this."
    for bundle in detectors:
        regions = bundle.stage("regions")
        if regions.ms and bundle.faces:
            yield f"{bundle.name}: the net on regions takes {regions.ms / bundle.faces:.2f} ms a face"
    for bundle in report.bundles:
        for stage in bundle.stages:
            if stage.covered < _COVERED or stage.unknown > (1 - _COVERED) * stage.instructions:
                yield (
                    f"{bundle.name}, {stage.name}: {stage.covered:.1%} of the instructions were costed, "
                    f"{stage.unknown} of those without a model"
                )


def _layer_lines(bundle: BundleEstimate, most: int) -> Iterator[str]:
    if not bundle.layers or not most:
        return
    slowest = sorted(bundle.layers, key=lambda layer: -layer.ms)[:most]
    off = bundle.layers_ms / bundle.network_1_thread_ms - 1
    yield ""
    yield (
        f"{bundle.name}, {counted(len(bundle.layers), 'layer')} by one thread: {bundle.layers_ms:.2f} ms, "
        f"{off:+.1%} from the network as a whole"
    )
    kinds: dict[str, list[float]] = {}
    for layer in bundle.layers:
        kinds.setdefault(layer.kind, []).append(layer.ms)
    rows = sorted(kinds.items(), key=lambda item: -sum(item[1]))
    yield from table([
        ["KIND", "LAYERS", "ms", "SHARE"],
        *([kind, str(len(ms)), f"{sum(ms):.2f}", f"{sum(ms) / bundle.layers_ms:.1%}"] for kind, ms in rows),
    ], words=1)
    yield ""
    yield from table([
        ["SLOWEST", "KIND", "CHANNELS", "ms", "SHARE"],
        *(
            [layer.name, layer.kind, layer.detail, f"{layer.ms:.2f}", f"{layer.ms / bundle.layers_ms:.1%}"]
            for layer in slowest
        ),
    ], words=3)
