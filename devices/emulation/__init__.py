"""Boards without a board: an arm64 root in the user's cache, run by QEMU, with the board's own /proc and /sys."""

from edgeface.devices.emulation.root import EmulatedRoot, cache_directory, ensure_root, verify_root

__all__ = ["EmulatedRoot", "cache_directory", "ensure_root", "verify_root"]
