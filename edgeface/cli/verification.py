"""What a bundle's parity report, kept in its manifest, says of this very bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgeface.bundle import Bundle

_SUBSETS = ("easy", "medium", "hard", "all")


def parity_ap(bundle: Bundle) -> dict[str, Any] | None:
    """The bundle's own AP at the first size that it was compared at, with ``pictures`` and ``size_px``; None where its
    pictures had no annotations, and for what finds no faces by itself."""
    return next(_measured(bundle), None)


def verification(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """Pairs of a label and a text: whether and against what it was verified, with its own AP there."""
    parity = _mapping(bundle.made, "parity")
    imported = _mapping(bundle.made, "imported")
    source = imported or _mapping(bundle.made, "checkpoint")
    if not bundle.verified:
        yield "verified", f"no: see 'edgeface {'import' if imported else 'convert'}'"
    elif not parity:
        yield "verified", "each of its parts was, before they were combined: see the parts"
    else:
        yield "verified", f"against {source.get('file', 'its checkpoint')} by {parity.get('reference', 'torch')}"
        yield "", f"on {parity.get('pictures', 'pictures')}"
        for size in parity.get("sizes", ()):
            if "faces_matched" in size:
                yield "", f"{size['size_px']} px: {size['faces_matched']} of {size['faces']} faces the same"
    for found in _measured(bundle):
        figures = (f"{name} {found[name]:.3f}" for name in _SUBSETS if name in found)
        yield "", f"{found['size_px']} px: AP {', '.join(figures)} there"


def _measured(bundle: Bundle) -> Iterator[dict[str, Any]]:
    parity = _mapping(bundle.made, "parity")
    for size in parity.get("sizes", ()):
        # Pairs: the checkpoint's, the bundle's.
        own = {name: pair[1] for name, pair in (size.get("ap") or {}).items()}
        if own:
            yield {"size_px": size["size_px"], "pictures": parity.get("pictures")} | own


def _mapping(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key)
    return value if isinstance(value, Mapping) else {}
