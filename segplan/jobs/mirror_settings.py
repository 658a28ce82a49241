"""Refuse an exchange of left and right labels that cannot work, before anything heavy is imported."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from segplan.dataset import Labels
from segplan.errors import ConfigError
from segplan.inference.mirror_swap import mirror_swap

# They put the sides along another axis, an exchange of axes as a mirror image: no label says then which side is which.
_MOVING = ("segplan.augmentation.Rotate90", "segplan.augmentation.Transpose")
_X = 2  # a file's array axes are (z, y, x); x is left to right in most scans


def check_mirror_swap(config: DictConfig, labels: Labels) -> None:
    """Check `swap_labels` and `swap_axis` of the augmentation's mirroring against labels, plan and patch.

    Raises:
        ConfigError: a label does not exist, a region has no counterpart, the plan's order of axes leaves no doubt
            that `swap_axis: auto` means the wrong one, or another transform moves the sides without their labels.
    """
    augmentation: Any = OmegaConf.to_container(config.augmentation, resolve=True)
    for name, node in augmentation.items():
        pairs = node.get("swap_labels") if isinstance(node, dict) else None
        if not pairs:
            continue
        if all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):  # else the transform says what is wrong
            mirror_swap({"axis": 0, "labels": pairs}, labels)
        _check_no_axes_move(augmentation)
        if node.get("swap_axis", "auto") == "auto":
            _check_automatic_axis(name, list(config.plan.transpose), len(config.data.patch_size))


def _check_no_axes_move(augmentation: dict[str, Any]) -> None:
    moving = [
        name
        for name, node in augmentation.items()
        if isinstance(node, dict) and node.get("_target_") in _MOVING and node.get("probability") != 0
    ]
    if moving:
        raise ConfigError(
            f"{' and '.join(moving)} move left and right to another axis, where their labels are not exchanged",
            where="augmentation",
            remedy=f"Use {' '.join(f'augmentation.{name}=null' for name in moving)}.",
        )


def _check_automatic_axis(name: str, transpose: list[int], dimensions: int) -> None:
    if transpose[-1] == _X:
        return
    axis = transpose.index(_X) - (3 - dimensions)
    remedy = f"Set augmentation.{name}.swap_axis={axis}, if x runs from left to right in the files."
    if axis < 0:
        remedy = "A 2D patch does not have it, so leave swap_labels empty, or name another axis."
    raise ConfigError(
        f"plan.transpose={transpose} moves the files' x axis, which auto stands for, away from the last place",
        where=f"augmentation.{name}.swap_axis=auto",
        remedy=remedy,
    )
