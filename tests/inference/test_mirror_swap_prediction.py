import numpy as np
import pytest
import torch

from segplan.dataset import Labels
from segplan.errors import ConfigError
from segplan.inference import sliding_window
from segplan.inference.mirror_swap import MirrorSwap, mirror_swap
from segplan.inference.tiled import Tiling

SIDES = Labels({"background": 0, "left": 1, "right": 2, "middle": 5})


def knows_its_sides(tiles):
    """Logits of (background, left, right): bright voxels are left in one half of the tile, right in the other."""
    logits = torch.zeros(tiles.shape[0], 3, *tiles.shape[2:])
    half = tiles.shape[-1] // 2
    logits[:, 0] = 0.5
    logits[:, 1, ..., :half] = tiles[:, 0, ..., :half]
    logits[:, 2, ..., half:] = tiles[:, 0, ..., half:]
    return logits


@pytest.mark.parametrize("axes", [(2,), (0, 1, 2)])
def test_mirror_images_of_a_network_that_tells_sides_agree_once_labels_are_exchanged(axes):
    image = np.random.default_rng(0).random((1, 8, 8, 8), np.float32)
    plain = sliding_window(knows_its_sides, image, Tiling((8, 8, 8), 3))
    swap = mirror_swap({"axis": 2, "labels": [[1, 2]]}, Labels({"background": 0, "left": 1, "right": 2}))
    swapped = sliding_window(knows_its_sides, image, Tiling((8, 8, 8), 3, mirror_axes=axes, mirror_swap=swap))
    torch.testing.assert_close(swapped, plain, atol=1e-5, rtol=1e-5)
    unswapped = sliding_window(knows_its_sides, image, Tiling((8, 8, 8), 3, mirror_axes=axes))
    assert (unswapped - plain).abs().max() > 0.2


def test_masks_of_a_cascades_first_stage_are_exchanged_too():
    def copies_its_masks(tiles):
        return torch.cat([torch.zeros_like(tiles[:, :1]), tiles[:, 1:]], 1)

    image = np.random.default_rng(0).random((3, 8, 8, 8), np.float32)
    labels = Labels({"background": 0, "left": 1, "right": 2})
    swap = mirror_swap({"axis": 1, "labels": [[1, 2]]}, labels, is_cascade=True)
    plain = sliding_window(copies_its_masks, image, Tiling((8, 8, 8), 3))
    swapped = sliding_window(copies_its_masks, image, Tiling((8, 8, 8), 3, mirror_axes=(1,), mirror_swap=swap))
    torch.testing.assert_close(swapped, plain, atol=1e-6, rtol=1e-5)


def test_heads_are_those_of_the_labels_in_ascending_order():
    assert mirror_swap({"axis": 0, "labels": [[1, 5]]}, SIDES) == MirrorSwap(0, (0, 3, 2, 1))
    assert mirror_swap({"axis": 0, "labels": [[1, 5]]}, SIDES, is_cascade=True).inputs == (2, 1, 0)
    assert mirror_swap(None, SIDES) is None


def test_regions_change_places_with_their_counterparts():
    names = {"background": 0, "all": (1, 2, 3), "left": (1, 3), "right": (2, 3), "core": 3}
    labels = Labels(names, regions_class_order=(1, 2, 3, 3))
    assert mirror_swap({"axis": 2, "labels": [[1, 2]]}, labels).heads == (0, 2, 1, 3)


def test_region_without_a_counterpart_is_refused():
    labels = Labels({"background": 0, "both": (1, 2), "left": 1}, regions_class_order=(2, 1))
    with pytest.raises(ConfigError, match=r"\[1\] becomes \[2\], which is no region"):
        mirror_swap({"axis": 2, "labels": [[1, 2]]}, labels)


@pytest.mark.parametrize("label", [0, 3])
def test_label_that_does_not_exist_is_refused_with_those_that_do(label):
    with pytest.raises(ConfigError, match=f"no label {label}.*1, 2, 5"):
        mirror_swap({"axis": 2, "labels": [[1, label]]}, SIDES)
