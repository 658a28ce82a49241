import math
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from segplan.evaluation.surfaces import assd, boundary_distances, hd95, hd95_max, surface_dice

RECORDED = np.load(Path(__file__).parents[1] / "data" / "metrics" / "surfaces.npz")
COLUMNS = [str(name) for name in RECORDED["columns"]]


@pytest.mark.parametrize("index", range(len(RECORDED["values"])))
def test_surface_metrics_are_those_of_the_libraries_that_share_the_definition(index):
    """Values recorded from MedPy, panoptica (HD95), MONAI (HD95Max, ASSD, NSD) and surface-distance (NSD)."""
    row = dict(zip(COLUMNS, RECORDED["values"][index], strict=True))
    shape = tuple(int(row[axis]) for axis in "zyx")
    masks = np.unpackbits(RECORDED[f"masks_{index}"])[: 2 * math.prod(shape)].reshape(2, *shape).astype(bool)
    spacing = row["spacing_z"], row["spacing_y"], row["spacing_x"]
    forth, back = boundary_distances(*masks, spacing)
    ours = {
        "HD95": hd95(forth, back),
        "HD95Max": hd95_max(forth, back),
        "ASSD": assd(forth, back),
        "NSD": surface_dice(*masks, spacing, row["tolerance"]),
    }
    compared = [column for column in COLUMNS if column.split()[0] in ours]
    assert len(compared) == 7
    for column in compared:
        tolerance = 2e-5 if column.endswith("monai_hd95") else 1e-6  # MONAI takes its percentile in float32
        assert ours[column.split()[0]] == pytest.approx(row[column], abs=tolerance), column


def test_distances_are_those_of_a_distance_transform():
    rng = np.random.default_rng(3)
    first, second = (ndimage.gaussian_filter(rng.normal(size=(2, 9, 12, 11)), (0, 2, 2, 2)) > 0.02).copy()
    spacing = (2.5, 0.7, 1.1)
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (first, second)]
    forth, back = boundary_distances(first, second, spacing)
    np.testing.assert_allclose(forth, ndimage.distance_transform_edt(~edges[1], spacing)[edges[0]], atol=1e-12)
    np.testing.assert_allclose(back, ndimage.distance_transform_edt(~edges[0], spacing)[edges[1]], atol=1e-12)


def test_a_square_that_is_moved_by_two_voxels_in_a_single_slice():
    first = np.zeros((1, 12, 12), bool)
    first[0, 2:8, 2:8] = True
    second = np.roll(first, 2, axis=2)
    spacing = (999.0, 0.5, 0.5)
    forth, back = boundary_distances(first, second, spacing, flat=True)
    assert len(forth) == 20, "only the outline of the square is its boundary"
    assert hd95_max(forth, back) == pytest.approx(1.0)
    assert surface_dice(first, second, spacing, 1.0, flat=True) == pytest.approx(1.0)
    assert surface_dice(first, second, spacing, 0.9, flat=True) < 1


def test_the_contours_of_a_single_slice_weigh_by_their_length():
    first = np.zeros((1, 10, 10), bool)
    first[0, 2:7, 2:7] = True
    second = first.copy()
    second[0, 2:7, 6] = False  # one column less
    y, x = 2.0, 0.5
    corner = math.hypot(y / 2, x / 2)
    total = (8 * y + 8 * x + 4 * corner) + (8 * y + 6 * x + 4 * corner)
    # Both have the left side, the top and the bottom up to the corners of the narrower one; the right sides differ.
    shared = (4 * y + 8 * x + 2 * corner) + (4 * y + 6 * x + 4 * corner)
    assert surface_dice(first, second, (999.0, y, x), 0.0, flat=True) == pytest.approx(shared / total)
    assert surface_dice(first, second, (999.0, y, x), 0.5, flat=True) == 1.0


def test_equal_masks_have_no_distance():
    mask = np.zeros((3, 5, 5), bool)
    mask[1, 1:4, 2] = True
    forth, back = boundary_distances(mask, mask, (1, 1, 1))
    assert (hd95(forth, back), hd95_max(forth, back), assd(forth, back)) == (0, 0, 0)
    assert surface_dice(mask, mask, (1, 1, 1), 0.0) == 1
