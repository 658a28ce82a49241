import pytest

from segplan.errors import ConfigError
from segplan.planning import check_patch


def test_a_patch_that_does_not_fit_is_refused_with_the_nearest_sizes():
    with pytest.raises(ConfigError) as caught:
        check_patch([48, 50, 40], [[1, 1, 1], *[[2, 2, 2]] * 3])
    assert str(caught.value) == (
        "data.patch_size=[48,50,40] does not fit the network: axis y is halved 3 times, so its size must be a multiple "
        "of 8. Nearest: 48 or 56."
    )
    check_patch([48, 56, 40], [[1, 1, 1], *[[2, 2, 2]] * 3])


def test_a_patch_smaller_than_the_multiple_names_only_the_larger_size():
    with pytest.raises(ConfigError, match=r"Nearest: 8\."):
        check_patch([4, 16], [[1, 1], *[[2, 2]] * 3])


def test_a_patch_with_a_single_voxel_at_the_bottom_is_refused():
    with pytest.raises(ConfigError, match="single voxel"):
        check_patch([8, 8, 8], [[1, 1, 1], *[[2, 2, 2]] * 3])
    check_patch([16, 8, 8], [[1, 1, 1], *[[2, 2, 2]] * 3])
