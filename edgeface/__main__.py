"""``python -m edgeface``, which torchrun starts."""

from __future__ import annotations

from edgeface.cli import main

main()
