"""How a detector's training samples are drawn, as a training configuration says it."""

from __future__ import annotations

import msgspec


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which sets are drawn from, how often, and how crops are made of them."""

    weights: dict[str, float]
    native: float = 0.5                 # share of crops at about the picture's own scale
    min_face_px: float = 5.0            # smaller faces are ignored in training
    min_landmarks_px: float = 12.0      # on smaller faces landmarks are noise, and are not trained
    paste: float = 0.3                  # share of crops with background that get pasted faces
    turn: float = 0.4                   # share of crops that are turned, by a normal angle of turn_deg
    turn_deg: float = 15.0
    turn_any: float = 0.0               # share of crops that are turned by any angle: people who lie, cameras on a side
    largest: float = 0.8                # a chosen face becomes at most so much of the canvas; over 1 for close-ups
    colour: float = 0.35
    degrade: float = 0.25
    workers: int = 1
