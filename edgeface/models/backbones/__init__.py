"""Trunks of dense detectors: a picture (N, 3, H, W) -> maps at strides 8, 16, 32, finest first."""
