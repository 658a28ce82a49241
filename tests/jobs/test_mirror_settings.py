import pytest
from omegaconf import OmegaConf

from segplan.dataset import Labels
from segplan.errors import ConfigError
from segplan.jobs.mirror_settings import check_mirror_swap

LABELS = Labels({"background": 0, "left": 1, "right": 2})


def config(transpose=(0, 1, 2), patch_size=(8, 8, 8), **mirror):
    node = {"axes": "auto", "swap_labels": [[1, 2]], "swap_axis": "auto"} | mirror
    return OmegaConf.create(
        {
            "augmentation": {"device": "cpu", "blur": None, "mirror": node},
            "plan": {"transpose": list(transpose)},
            "data": {"patch_size": list(patch_size)},
        }
    )


def test_left_and_right_of_a_plain_plan_are_accepted():
    check_mirror_swap(config(), LABELS)
    check_mirror_swap(config((2, 0, 1), swap_axis=0), LABELS)
    check_mirror_swap(config((2, 0, 1), swap_labels=[]), LABELS)


@pytest.mark.parametrize(("patch_size", "remedy"), [((8, 8, 8), "swap_axis=0"), ((8, 8), "2D patch does not have it")])
def test_automatic_axis_is_refused_where_the_plan_has_moved_it(patch_size, remedy):
    with pytest.raises(ConfigError, match=remedy):
        check_mirror_swap(config((2, 0, 1), patch_size), LABELS)


@pytest.mark.parametrize("target", ["Rotate90", "Transpose"])
def test_transforms_that_move_the_sides_are_refused_beside_an_exchange_of_labels(target):
    node = {"_target_": f"segplan.augmentation.{target}", "probability": 0.5}
    moving = OmegaConf.merge(config(), {"augmentation": {"turn": node}})
    with pytest.raises(ConfigError, match=r"augmentation\.turn=null"):
        check_mirror_swap(moving, LABELS)
    check_mirror_swap(OmegaConf.merge(moving, {"augmentation": {"turn": {"probability": 0}}}), LABELS)
    check_mirror_swap(OmegaConf.merge(moving, {"augmentation": {"mirror": {"swap_labels": []}}}), LABELS)


def test_label_that_does_not_exist_is_refused_before_training():
    with pytest.raises(ConfigError, match="no label 7"):
        check_mirror_swap(config(swap_labels=[[1, 7]]), LABELS)
