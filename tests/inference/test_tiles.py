import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from segplan.errors import ConfigError
from segplan.inference import gaussian_weights, mirror_combinations, tile_starts
from segplan.inference.tiles import padding


@pytest.mark.parametrize(
    ("size", "patch", "starts"),
    [(110, 64, [0, 23, 46]), (129, 128, [0, 1]), (300, 128, [0, 57, 115, 172]), (64, 64, [0])],
)
def test_tiles_start_where_nnunet_puts_them(size, patch, starts):
    assert tile_starts(size, patch) == starts


@given(st.integers(1, 400), st.integers(1, 200), st.floats(0.1, 1.0))
def test_tiles_cover_the_axis_without_leaving_it(size, patch, step_size):
    size = max(size, patch)
    starts = tile_starts(size, patch, step_size)
    assert starts[0] == 0
    assert starts[-1] == size - patch
    assert all(0 <= b - a <= max(1, int(np.ceil(patch * step_size))) for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize("step_size", [0, -0.5, 1.1])
def test_a_step_that_leaves_gaps_is_refused(step_size):
    with pytest.raises(ConfigError, match="step_size"):
        tile_starts(100, 50, step_size)


@pytest.mark.parametrize("patch", [(40, 56, 40), (16, 32, 32), (32, 32), (1, 20, 24), (96, 64, 80)])
def test_weights_are_the_filtered_impulse_rounded_to_half(patch):
    impulse = np.zeros(patch)
    impulse[tuple(size // 2 for size in patch)] = 1
    smooth = gaussian_filter(impulse, [size / 8 for size in patch], order=0, mode="constant", cval=0)
    expected = (smooth / smooth.max() * 10).astype(np.float16)
    expected[expected == 0] = expected[expected > 0].min()
    weights = gaussian_weights(patch)
    assert np.mean(weights != expected) < 1e-3  # the last bit of the product of three factors may round either way
    assert np.allclose(weights, expected.astype(np.float32), rtol=1e-3, atol=6e-8)
    assert weights.max() == 10
    assert weights.min() > 0


def test_every_subset_of_the_axes_is_mirrored_once():
    assert mirror_combinations((0, 1, 2)) == [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    assert mirror_combinations(()) == [()]


def test_padding_is_centred_and_only_where_the_image_is_smaller():
    assert padding((17, 40, 30), (16, 41, 35)) == [(0, 0), (0, 1), (2, 3)]
