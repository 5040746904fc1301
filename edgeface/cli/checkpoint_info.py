"""What ``edgeface models info`` says of a checkpoint: reading one takes torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeface.cli.running import require_torch


def checkpoint_record(path: Path) -> dict[str, Any]:
    """All but the weights, for JSON. Raises MissingExtraError without torch, and CheckpointError."""
    require_torch("reading a checkpoint")

    from edgeface.models.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    return {
        "checkpoint": str(path),
        "model": checkpoint.model,
        "options": checkpoint.options,
        "parameters": sum(t.numel() for t in checkpoint.state.values() if t.is_floating_point()),
        "quantisation": None if checkpoint.quantisation is None else asdict(checkpoint.quantisation),
        "licence": checkpoint.licence,
        "metrics": checkpoint.metrics,
        "made": checkpoint.made,
        "size_bytes": path.stat().st_size,
    }


def checkpoint_description(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A record of ``checkpoint_record`` as pairs of a label and a text."""
    quantisation = record["quantisation"]
    options = ", ".join(f"{name} {value}" for name, value in record["options"].items())
    yield "checkpoint", record["checkpoint"]
    yield "model", f"{record['model']}{f', {options}' if options else ''}"
    yield "weights", f"{record['parameters']:,} numbers, {record['size_bytes'] / 1e6:.2f} MB"
    if quantisation is None:
        yield "precision", "float: converts to fp16 or fp32; 'edgeface quantize' makes an int8 one of it"
    else:
        how = "trained with int8's rounding" if quantisation["trained"] else "by calibration alone"
        yield "precision", f"quantised {how}: converts to int8"
    yield "licence", record["licence"]
