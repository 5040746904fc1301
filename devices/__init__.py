"""Boards, real and emulated: what they are, how the board half of edgeface runs there, and how fast it would be."""
