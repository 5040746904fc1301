"""Patches at points by hand, and RoIAlign against the definition and against ncnn's layer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeface.runtime.engines import RawMap
from edgeface.runtime.roi import gather_patches, roi_align

Floats = NDArray[np.float32]


def test_patches_lie_side_by_side() -> None:
    features = np.arange(2 * 4 * 5, dtype=np.float32).reshape(2, 4, 5)
    patches = gather_patches(RawMap(features), np.array([1, 2]), np.array([1, 3]), 3)
    assert patches.shape == (2, 3, 6)
    assert patches.flags.c_contiguous
    np.testing.assert_array_equal(patches[:, :, :3], features[:, 0:3, 0:3])
    np.testing.assert_array_equal(patches[:, :, 3:], features[:, 1:4, 2:5])


def test_patches_are_zero_outside_the_map() -> None:
    features = 1 + np.random.default_rng(0).random((3, 2, 4), np.float32)
    rows, columns = (a.ravel() for a in np.mgrid[0:2, 0:4])
    patches = gather_patches(RawMap(features), rows, columns, 3)
    padded = np.pad(features, ((0, 0), (1, 1), (1, 1)))
    for i, (y, x) in enumerate(zip(rows, columns, strict=True)):
        np.testing.assert_array_equal(patches[:, :, 3 * i : 3 * i + 3], padded[:, y : y + 3, x : x + 3])
    assert (features >= 1).all()    # the zeros went into the patches, not into the map


def test_patches_equal_the_network_s_own() -> None:
    torch = pytest.importorskip("torch")
    from edgeface.models.mos import gather_patches as gather_in_torch

    features = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    row, column = np.array([0, 4, 2, 2]), np.array([0, 5, 3, 5])
    image = torch.zeros(4, dtype=torch.int64)
    expected = gather_in_torch(
        torch.from_numpy(features)[None], image, torch.from_numpy(row), torch.from_numpy(column)
    )
    np.testing.assert_array_equal(gather_patches(RawMap(features), row, column, 3), expected[0].numpy())


@pytest.mark.parametrize(("row", "column"), [(-1, 0), (0, -1), (2, 0), (0, 4)])
def test_a_position_outside_the_map_has_no_patch(row: int, column: int) -> None:
    features = RawMap(np.zeros((1, 2, 4), np.float32))
    with pytest.raises(IndexError, match="outside a map of 2 x 4"):
        gather_patches(features, np.array([0, row]), np.array([0, column]), 3)


def test_patches_of_an_int8_map_are_real_values() -> None:
    values = np.random.default_rng(0).integers(-128, 128, (3, 4, 5)).astype(np.int8)
    row, column = np.array([0, 3]), np.array([4, 2])
    expected = gather_patches(RawMap(values.astype(np.float32) * np.float32(0.3)), row, column, 3)
    channels_last = np.ascontiguousarray(values.transpose(1, 2, 0)).transpose(2, 0, 1)
    for layout in (values, channels_last):
        np.testing.assert_array_equal(gather_patches(RawMap(layout, 0.3), row, column, 3), expected)


def bilinear(plane: NDArray[np.float64], y: float, x: float) -> float:
    """The definition: 0 beyond one cell outside, the border's value up to there."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    fy, fx = y - top, x - left
    return float(
        (1 - fy) * ((1 - fx) * plane[top, left] + fx * plane[top, right])
        + fy * ((1 - fx) * plane[bottom, left] + fx * plane[bottom, right])
    )


def by_definition(features: Floats, boxes: Floats, out: tuple[int, int], scale: float, sampling: int) -> Floats:
    """RoIAlign sample by sample in float64."""
    regions = np.zeros((len(boxes), len(features), *out))
    for n, (x1, y1, x2, y2) in enumerate(boxes.astype(float) * scale - 0.5):
        bin_h, bin_w = (y2 - y1) / out[0], (x2 - x1) / out[1]
        for c, plane in enumerate(features.astype(float)):
            for by, bx in np.ndindex(*out):
                regions[n, c, by, bx] = np.mean([
                    bilinear(
                        plane, y1 + (by + (iy + 0.5) / sampling) * bin_h, x1 + (bx + (ix + 0.5) / sampling) * bin_w
                    )
                    for iy, ix in np.ndindex(sampling, sampling)
                ])
    return regions.astype(np.float32)


@pytest.mark.parametrize(("out", "scale", "sampling"), [((3, 4), 0.25, 2), ((1, 1), 1.0, 1), ((5, 2), 1 / 16, 3)])
def test_roi_align_is_its_definition(out: tuple[int, int], scale: float, sampling: int) -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(3, 7, 9)).astype(np.float32)
    corners = rng.uniform(-3, 10, (20, 2))
    boxes = (np.concatenate((corners, corners + rng.uniform(-1, 9, (20, 2))), axis=1) / scale).astype(np.float32)
    expected = by_definition(features, boxes, out, scale, sampling)
    np.testing.assert_allclose(roi_align(RawMap(features), boxes, out, scale, sampling), expected, atol=2e-5)


def test_a_region_of_whole_cells_is_those_cells() -> None:
    features = np.arange(2 * 5 * 6, dtype=np.float32).reshape(2, 5, 6)
    regions = roi_align(RawMap(features), np.array([[16, 8, 40, 32]], np.float32), 3, 1 / 8, 1)
    assert regions.shape == (1, 2, 3, 3)
    np.testing.assert_array_equal(regions[0], features[:, 1:4, 2:5])


def test_samples_up_to_one_cell_outside_take_the_border_s_value() -> None:
    features = RawMap(np.arange(12, dtype=np.float32).reshape(1, 4, 3) + 1)
    middles = np.array([-0.75, -0.5, 0.5, 4.0, 4.5, 4.75], np.float32)     # a cell's value is at its index + 1/2
    rows = np.stack((np.full(6, 1), middles - 1, np.full(6, 2), middles + 1), axis=1).astype(np.float32)
    columns, shift = rows[:, [1, 0, 3, 2]], np.array([1, 0, 1, 0], np.float32)
    assert roi_align(features, rows, 1, 1.0, 1).ravel().tolist() == [0, 2, 2, 11, 11, 0]
    assert roi_align(features, columns, 1, 1.0, 1).ravel().tolist() == [0, 4, 4, 0, 0, 0]
    assert roi_align(features, columns - shift, 1, 1.0, 1).ravel().tolist() == [0, 0, 4, 6, 6, 0]


def test_a_region_far_outside_is_zero_and_one_that_is_not_finite_too() -> None:
    features = RawMap(np.ones((1, 4, 4), np.float32))
    boxes = np.array([[100, 100, 120, 120], [np.nan, 0, 4, 4], [-np.inf, 0, np.inf, 4]], np.float32)
    assert not roi_align(features, boxes, 2, 1.0, 2).any()


def test_no_boxes_give_no_regions() -> None:
    assert roi_align(RawMap(np.ones((3, 4, 4), np.float32)), np.zeros((0, 4), np.float32), (2, 3), 1.0, 2).shape == (
        0, 3, 2, 3,
    )  # fmt: skip


def test_arguments_that_cannot_work_are_refused() -> None:
    features, boxes = RawMap(np.ones((3, 4, 4), np.float32)), np.zeros((1, 4), np.float32)
    for arguments in ((0, 1.0, 2), (2, 1.0, 0), (1 << 20, 1.0, 2)):
        with pytest.raises(ValueError, match="cannot work"):
            roi_align(features, boxes, *arguments)
    with pytest.raises(ValueError, match="give no regions"):
        roi_align(features, boxes.astype(np.float64), 2, 1.0, 2)


def test_roi_align_is_ncnn_s(tmp_path: Path) -> None:
    ncnn = pytest.importorskip("ncnn")
    rng = np.random.default_rng(2)
    features = rng.normal(size=(4, 12, 16)).astype(np.float32)
    net = ncnn.Net()
    lines = ["7767517", "3 3", "Input f 0 1 features", "Input r 0 1 roi",
             "ROIAlign align 2 1 features roi out 0=5 1=4 2=0.125 3=2 4=1 5=1"]  # fmt: skip
    (tmp_path / "roi.param").write_text("\n".join(lines) + "\n")
    (tmp_path / "roi.bin").write_bytes(b"")
    assert net.load_param(str(tmp_path / "roi.param")) == 0
    assert net.load_model(str(tmp_path / "roi.bin")) == 0
    corners = rng.uniform(0, 60, (10, 2))
    boxes = np.concatenate((corners, corners + rng.uniform(8, 50, (10, 2))), axis=1).astype(np.float32)
    for box in boxes:
        extractor = net.create_extractor()
        assert extractor.input("features", ncnn.Mat(features).clone()) == 0
        assert extractor.input("roi", ncnn.Mat(box).clone()) == 0
        code, out = extractor.extract("out")
        assert code == 0
        np.testing.assert_allclose(
            roi_align(RawMap(features), box[None], (4, 5), 0.125, 2)[0], np.array(out), atol=1e-5
        )
