"""A bar for each layer of what was estimated; matplotlib, which only the bench has, is imported when it is drawn."""

from __future__ import annotations

import io

from edgeface.devices.estimate.estimates import EstimateReport

from edgeface.errors import MissingExtraError, OptionError

_BAR_IN = 0.17      # inches of a layer
_LONGEST_NAME = 40


def require_plots() -> None:
    """Raises MissingExtraError without matplotlib, before what is to be drawn takes its time."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(f'a plot needs matplotlib ({error}): pip install "edgeface[train]"') from None


def layer_bars(report: EstimateReport) -> bytes:
    """A PNG with a panel for each bundle, side by side, and in it a bar of ms for each layer, the first one on top.

    Raises OptionError when no bundle has layers, and MissingExtraError.
    """
    require_plots()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bundles = [bundle for bundle in report.bundles if bundle.layers]
    if not bundles:
        raise OptionError("no layers were estimated, so there is nothing to plot: leave --plot out")
    kinds = list(dict.fromkeys(layer.kind for bundle in bundles for layer in bundle.layers))
    most = max(len(bundle.layers) for bundle in bundles)
    figure = Figure(figsize=(8 * len(bundles), 1.6 + _BAR_IN * most), layout="constrained")
    FigureCanvasAgg(figure)
    size = report.size_px if isinstance(report.size_px, int) else "{} x {}".format(*report.size_px)
    for axes, bundle in zip(figure.subplots(1, len(bundles), squeeze=False, sharex=True)[0], bundles, strict=True):
        places = range(len(bundle.layers))
        axes.barh(
            places, [layer.ms for layer in bundle.layers],
            color=[f"C{kinds.index(layer.kind) % 10}" for layer in bundle.layers],
        )
        axes.set_yticks(places, [layer.name[-_LONGEST_NAME:] for layer in bundle.layers], fontsize=6)
        axes.set_ylim(most - 0.5, -0.5)
        axes.set_xlabel("ms, estimate")
        axes.grid(axis="x", alpha=0.3)
        axes.set_title(f"{bundle.name}: {bundle.layers_ms:.1f} ms in {len(bundle.layers)} layers", fontsize=10)
        for kind in dict.fromkeys(layer.kind for layer in bundle.layers):
            axes.barh([0], [0], color=f"C{kinds.index(kind) % 10}", label=kind)
        axes.legend(fontsize=7, loc="lower right")
    figure.suptitle(f"Estimate: {report.board}, one {report.core} at {report.mhz:g} MHz, input {size} px", fontsize=11)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=100)
    return out.getvalue()
