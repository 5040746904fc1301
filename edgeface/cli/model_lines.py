"""What every line of ``edgeface models`` says of a bundle: what it gives, and how large it is."""

from __future__ import annotations

from collections.abc import Iterator

from edgeface.bundle import Bundle


def size_bytes(bundle: Bundle) -> int:
    """Of all its files, those of its parts included."""
    return sum(entry.size_bytes for entry in bundle.files)


def predicts(bundle: Bundle) -> Iterator[str]:
    """What it finds of a face; attributes with their thresholds, classes with their names or the range of their values.
    """
    yield "boxes"
    if bundle.gives_landmarks:
        yield "five landmarks"
    if bundle.gives_landmarks68:
        yield "68 landmarks"
    if bundle.gives_pose:
        yield "head pose"
    yield from (f"{name} from {threshold:g}" for name, threshold in bundle.attributes.items())
    for name, each in bundle.classes.items():
        if each.values is None:
            yield f"{name}: {' or '.join(each.names)}"
        else:
            yield f"{name} from {min(each.values):g} to {max(each.values):g}"
