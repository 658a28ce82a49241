import numpy as np
import pytest
import torch
from groups import group

from segplan.augmentation import Context, Mirror, build_pipeline
from segplan.augmentation.mirror import MirrorParams
from segplan.errors import ConfigError

SIDES = Mirror(swap_labels=((1, 2),))


def test_labels_change_places_when_the_left_right_axis_is_mirrored():
    labels = torch.tensor([[[[1, 1, 0, 3, 2, -1]]]], dtype=torch.int16)
    image = torch.zeros(1, 1, 1, 6)
    _, swapped = SIDES.apply(image, labels.clone(), MirrorParams((2,), swaps=True))
    assert swapped.flatten().tolist() == [-1, 1, 3, 0, 2, 2]


def test_labels_stay_when_another_axis_is_mirrored():
    rng = np.random.default_rng(0)
    for _ in range(60):
        params = SIDES.sample(rng, Context(1, (4, 4, 4)))
        if params is not None:
            assert params.swaps == (2 in params.axes)


def test_mirroring_twice_gives_back_the_patch():
    labels = torch.randint(-1, 4, (2, 4, 5, 6), dtype=torch.int16)
    image = torch.randn(1, 4, 5, 6)
    params = MirrorParams((0, 2), swaps=True)
    once = SIDES.apply(image.clone(), labels.clone(), params)
    assert not torch.equal(once[1], labels)
    twice = SIDES.apply(once[0].clone(), once[1].clone(), params)
    assert torch.equal(twice[0], image)
    assert torch.equal(twice[1], labels)


@pytest.mark.parametrize(("patch", "axis"), [((8, 8, 8), 2), ((8, 8), 1)])
def test_automatic_axis_is_the_last_one(patch, axis):
    node = group("default")
    node["mirror"]["swap_labels"] = [[1, 2]]
    assert build_pipeline(node, patch, (False,)).mirror_swap == (axis, ((1, 2),))
    assert build_pipeline(group("default"), patch, (False,)).mirror_swap is None


def test_pairs_name_the_files_values_and_act_on_their_indices():
    node = group("default")
    node["mirror"] |= {"swap_labels": [[10, 30]], "swap_axis": 0}
    pipeline = build_pipeline(node, (8, 8, 8), (False,), label_values=(0, 10, 20, 30))
    assert pipeline.mirror_swap == (0, ((1, 3),))
    with pytest.raises(ConfigError, match=r"no label 10.*1, 2"):
        build_pipeline(node, (8, 8, 8), (False,), label_values=(0, 1, 2))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"swap_labels": ((1, 2, 3),)}, "no pairs of labels"),
        ({"swap_labels": ((0, 1),)}, "no pairs of labels"),
        ({"swap_labels": ((1, 2), (2, 3))}, "stands twice"),
        ({"swap_axis": 3}, "no spatial axis"),
    ],
)
def test_impossible_swaps_are_refused(change, where):
    with pytest.raises(ConfigError, match=where):
        Mirror(**change)


def test_swap_axis_that_the_patch_lacks_is_refused_when_built():
    node = {"mirror": {"_target_": "segplan.augmentation.Mirror", "swap_labels": [[1, 2]], "swap_axis": 2}}
    with pytest.raises(ConfigError, match="no axis 2"):
        build_pipeline(node, (8, 8), (False,))
