"""What MaskFace's choices cost: multiply-adds of the whole picture's net at one input size, and of its keypoint head
for one face, of the forms in docs/maskface.md.

    python benchmarks/maskface_costs.py --width 640 --height 480
"""

from __future__ import annotations

from typing import Any

import click
import torch
from torch import Tensor, nn

from edgeface.int8.modules import FoldedConv, convolutions
from edgeface.models.deploy import deploy
from edgeface.models.maskface import MaskFace, maskface

PUBLISHED = {"pyramid": "published", "channels": 256, "head_channels": 256, "upsampling": "deconvolution"}
FORMS: dict[str, dict[str, Any]] = {
    "light (default)": {},
    "light, 48 channels": {"channels": 48},
    "light, 128 channels": {"channels": 128},
    "published levels, 64 channels": {"pyramid": "published"},
    "published levels, 256 channels": {"pyramid": "published", "channels": 256},
}
HEADS: dict[str, dict[str, Any]] = {
    "8 x 48, shuffle (default)": {},
    "8 x 48, deconvolution": {"upsampling": "deconvolution"},
    "8 x 64, shuffle": {"head_channels": 64},
    "4 x 64, shuffle": {"head_channels": 64, "head_depth": 4},
    "8 x 32, shuffle": {"head_channels": 32},
    "8 x 256 on 256, deconvolution (published)": PUBLISHED,
}


def multiply_adds(net: MaskFace, part: str, x: Tensor) -> int:
    """Of the deployed network's convolutions, on the picture or on a region ``x``; a deconvolution counts as it was
    before it became a convolution, whose other taps are zeros."""
    total = 0

    def count(conv: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal total
        assert isinstance(conv, FoldedConv)
        taps = int((conv.weight != 0).sum()) // len(conv.weight)
        total += output.numel() * taps

    handles = [conv.register_forward_hook(count) for _, conv in convolutions(net)]
    with torch.no_grad():
        net.all_maps(x) if part == "picture" else net.keypoints(x)
    for handle in handles:
        handle.remove()
    return total


def deployed(options: dict[str, Any]) -> MaskFace:
    net = deploy(maskface(**options).eval()).eval()
    assert isinstance(net, MaskFace)
    return net


@click.command()
@click.option("--width", default=320, show_default=True, help="Of the input in pixels, a multiple of 64.")
@click.option("--height", default=256, show_default=True, help="Of the input in pixels, a multiple of 64.")
def main(width: int, height: int) -> None:
    """Print both tables, in millions."""
    click.echo(f"million multiply-adds of a picture of {width}x{height}")
    for name, options in FORMS.items():
        count = multiply_adds(deployed(options), "picture", torch.zeros(1, 3, height, width))
        click.echo(f"  {name:<44}{count / 1e6:>8.0f}")
    click.echo("million multiply-adds of a face")
    for name, options in HEADS.items():
        net = deployed(options)
        count = multiply_adds(net, "face", torch.zeros(1, net.channels, 14, 14))
        click.echo(f"  {name:<44}{count / 1e6:>8.1f}")


if __name__ == "__main__":
    main()
