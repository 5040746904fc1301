"""What TFN's choices cost: multiply-adds of the nets on a face's regions, of the forms in docs/tfn.md.

The picture's net is MaskFace's light one (benchmarks/maskface_costs.py).

    python benchmarks/tfn_costs.py
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import torch
from torch import nn

from edgeface.int8.modules import FoldedConv, convolutions
from edgeface.models.deploy import deploy
from edgeface.models.tfn import TFN, tfn

FORMS: dict[str, dict[str, Any]] = {
    "tfn (default)": {},
    "tfn, points as heatmaps": {"landmarks": "heatmaps"},
    "tfn, all four maps for every task": {
        name: [4, 8, 16, 32] for name in ("detection_maps", "landmark_maps", "attribute_maps")
    },
    "tfn, nets of 48 and 128 channels": {"head_channels": 48, "head_width": 128},
    "srmm": {"variant": "srmm"}, "trmm": {"variant": "trmm"}, "ormm": {"variant": "ormm"},
}


def multiply_adds(net: TFN) -> Iterator[tuple[str, int]]:
    """Of each of a deployed network's nets on regions, for one face, by its name."""
    counts: list[int] = []

    def count(conv: nn.Module, _inputs: Any, output: Any) -> None:
        assert isinstance(conv, FoldedConv)
        counts.append(output.numel() * conv.weight[0].numel())

    for group in net.design.groups:
        own, counts = net.regions[group.name], []
        handles = [conv.register_forward_hook(count) for _, conv in convolutions(own)]
        with torch.no_grad():
            own(torch.zeros(1, net.region_channels(group), group.size, group.size))
        for handle in handles:
            handle.remove()
        yield group.name, sum(counts)


@click.command()
def main() -> None:
    """Print the table, in millions."""
    click.echo("million multiply-adds of a face")
    for name, options in FORMS.items():
        net = deploy(tfn(**options).eval()).eval()
        assert isinstance(net, TFN)
        parts = dict(multiply_adds(net))
        told = ", ".join(f"{group} {count / 1e6:.1f}" for group, count in parts.items())
        click.echo(f"  {name:<36}{sum(parts.values()) / 1e6:>7.1f}  ({told})")


if __name__ == "__main__":
    main()
