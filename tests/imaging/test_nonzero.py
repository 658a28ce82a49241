"""The nonzero box against scipy's fill and a plain search for the box."""

import numpy as np
import pytest
from scipy import ndimage

from segplan.imaging import nonzero_box


def expected(array):
    mask = ndimage.binary_fill_holes((array != 0).any(axis=0))
    where = np.argwhere(mask)
    if not len(where):
        return mask, tuple((0, extent) for extent in mask.shape)
    return mask, tuple(zip(where.min(axis=0).tolist(), (where.max(axis=0) + 1).tolist(), strict=True))


def cases():
    rng = np.random.default_rng(0)
    for share in (0.0, 0.002, 0.3, 0.6, 0.85, 0.93, 0.99, 1.0):
        for shape in ((1, 12, 13, 14), (2, 9, 8, 20), (1, 1, 15, 15), (1, 2, 9, 9), (3, 7, 7, 1)):
            array = np.zeros(shape, dtype=np.float32)
            array[:, :, 2:-1] = rng.random(array[:, :, 2:-1].shape) < share
            yield pytest.param(array, id=f"{share}-{'x'.join(map(str, shape))}")
    z, y, x = np.ogrid[-10:11, -10:11, -10:11]
    radius = np.sqrt(z**2 + y**2 + x**2)
    shell = ((radius > 5) & (radius < 8)).astype(np.float32)
    pierced = shell.copy()
    pierced[10, 10, 10:] = 0
    for name, volume in (("shell", shell), ("pierced", pierced), ("solid", 1 - pierced)):
        yield pytest.param(volume[None], id=name)


@pytest.mark.parametrize("array", cases())
def test_mask_and_box_equal_scipys(array):
    mask, box = nonzero_box(array)
    expected_mask, expected_box = expected(array)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, expected_mask)
    assert box == expected_box


def test_both_ways_to_fill_are_taken_and_do_fill(monkeypatch):
    from segplan.imaging import nonzero

    taken = []
    for name in ("_holes_by_flooding", "_holes_by_labelling"):
        original = getattr(nonzero, name)
        monkeypatch.setattr(nonzero, name, lambda mask, f=original, n=name: taken.append(n) or f(mask))
    dense = np.ones((1, 9, 9, 9))
    dense[0, 4, 4, 4] = 0
    sparse = np.zeros((1, 9, 9, 9))
    sparse[0, 2:7, 2:7, 2:7] = 1
    sparse[0, 3:6, 3:6, 3:6] = 0
    for array in (dense, sparse):
        mask, _ = nonzero_box(array)
        assert mask[4, 4, 4]
    assert taken == ["_holes_by_flooding", "_holes_by_labelling"]


def test_the_image_is_not_changed():
    array = np.zeros((1, 5, 5, 5), dtype=np.float32)
    array[0, 1:4, 1:4, 1:4] = 2
    array[0, 2, 2, 2] = 0
    copy = array.copy()
    nonzero_box(array)
    np.testing.assert_array_equal(array, copy)
