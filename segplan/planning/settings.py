"""Every constant of the planning rules, with nnU-Net 2.8.1's value as the default, and the presets."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Literal, get_args

from segplan.errors import ConfigError

Network = Literal["plain_unet", "residual_unet", "stunet"]
LabelResampling = Literal["auto", "votes", "nearest", "annotated"]
Rules = Literal["memory_budget", "decathlon2018"]
ShrinkFor = Literal["minimum_batch", "reference_batch"]
Memory = Literal["estimated", "measured"]


@dataclass(frozen=True)
class PlannerSettings:
    """The constants that the planning rules use; the defaults are those of nnU-Net 2.8.1's default planner.

    Raises:
        ConfigError: a value is out of its range.
    """

    name: str = "default"
    """The planner's name; plans of every planner but `default` stand in a folder of that name."""
    network: Network = "plain_unet"
    """Option of the configuration group `network` that the plan is for; stunet replaces the planned plain U-Net."""
    rules: Rules = "memory_budget"
    """How patch and batch are found: memory_budget shortens the patch until it fits, decathlon2018 goes by voxels."""
    gpu_memory_gb: float = 8.0
    """Memory that a training may take, in GB; auto: the graphics card's. The budget of features grows in proportion."""
    memory: Memory = "estimated"
    """estimated: in closed form, as nnU-Net plans; measured: training steps that are run here size patch and batch."""
    repair: bool = False
    """Mend plans that cannot run (too small to be halved, an axis without voxels); false marks them, as nnU-Net's."""
    reference_memory_gb: float = 8.0
    """Memory at which the reference numbers of features were measured."""
    reference_features_2d: float = 85e6
    """Feature-map elements that fit at `reference_memory_gb` with `reference_batch_size_2d`."""
    reference_features_3d: float = 560e6
    """Feature-map elements that fit at `reference_memory_gb` with `reference_batch_size_3d`."""
    reference_batch_size_2d: int = 12
    """Batch size for which `reference_features_2d` holds."""
    reference_batch_size_3d: int = 2
    """Batch size for which `reference_features_3d` holds."""
    shrink_patch_for: ShrinkFor = "minimum_batch"
    """The batch size that must fit before the patch stops shrinking; the residual presets ask for the reference's."""
    min_batch_size: int = 2
    """Smallest batch size."""
    max_dataset_fraction: float = 0.05
    """Share of the dataset's voxels that one batch may cover at most."""
    initial_patch_edge_2d: int = 2048
    """The 2D patch starts with this many pixels squared, in the aspect of the spacing."""
    initial_patch_edge_3d: int = 256
    """The 3D patch starts with this many voxels cubed, in the aspect of the spacing (decathlon2018: the median's)."""
    batch_pixels_2d: int = 256 * 256 * 42
    """Pixels of a 2D batch (rules decathlon2018 only)."""
    base_features: int = 32
    """Features of the first stage; they double each stage."""
    max_features_2d: int = 512
    """Most features of a 2D stage."""
    max_features_3d: int = 320
    """Most features of a 3D stage."""
    convs_per_stage: int = 2
    """Convolutions of an encoder stage (plain U-Net)."""
    convs_per_stage_decoder: int = 2
    """Convolutions of a decoder stage."""
    blocks_per_stage: tuple[int, ...] = (1, 3, 4, 6)
    """Residual blocks of the encoder stages; the last number holds for all further stages (residual U-Net)."""
    stunet_features: tuple[int, ...] = (32, 64, 128, 256, 512, 512)
    """Features of each stage (STU-Net); one pooling fewer than stages."""
    stunet_blocks_per_stage: tuple[int, ...] = (1, 1, 1, 1, 1, 1)
    """Residual blocks of each stage, up and down (STU-Net)."""
    min_bottleneck_edge: int = 4
    """An axis is halved only while this many voxels are left."""
    max_poolings_2d: int | None = None
    """Most poolings of an axis in 2D; null: as many as the patch allows."""
    max_poolings_3d: int | None = None
    """Most poolings of an axis in 3D; null: as many as the patch allows."""
    pooling_spacing_ratio: float = 2.0
    """An axis takes part in pooling and in 3-wide kernels only if its spacing is less than this times the finest."""
    slicewise_ratio: float = 3.0
    """3D patches whose longest edge is more than this many times the first are rotated in plane only."""
    anisotropy_ratio: float = 3.0
    """Spacings or sizes that differ by more than this factor make an axis anisotropic."""
    anisotropic_percentile: float = 10.0
    """Percentile over cases of an anisotropic axis's spacing that is taken in place of the median."""
    lowres_patch_fraction: float = 0.25
    """3d_lowres is considered when the full-resolution patch covers less than this of the median image."""
    lowres_spacing_step: float = 1.03
    """Factor by which the spacing of 3d_lowres grows in each step."""
    lowres_isotropy_ratio: float = 2.0
    """While the coarsest axis is more than this times another, only those finer axes grow."""
    lowres_min_reduction: float = 2.0
    """3d_lowres is dropped when full resolution has fewer than this times its voxels."""
    nonzero_mask_fraction: float = 0.75
    """z-scores are taken inside the non-zero mask when cropping leaves less than this of the median image."""
    label_resampling: LabelResampling = "auto"
    """Resampling of label maps: votes, nearest or annotated; auto: annotated with an ignore label, else votes."""
    target_spacing: tuple[float, float, float] | None = None
    """Full-resolution spacing in mm, in the files' (z, y, x) order; null derives it from the cases."""
    transpose: bool = True
    """Bring the coarsest axis to the front."""
    count_heads: bool = False
    """Count the network's heads in the memory estimate; false counts label keys, as nnU-Net does."""
    adopt: str | None = None
    """A model folder whose patch, spacing, normalization and network are taken over, to fine-tune its weights."""

    def __post_init__(self) -> None:
        for item in fields(self):
            _check_type(item.name, item.default, getattr(self, item.name))
        for name in ("max_dataset_fraction", "lowres_patch_fraction", "nonzero_mask_fraction"):
            if getattr(self, name) > 1:
                raise _invalid(name, getattr(self, name), "Give a fraction between 0 and 1.")
        if self.anisotropic_percentile > 100:
            raise _invalid("anisotropic_percentile", self.anisotropic_percentile, "Give a number up to 100.")
        for name in (
            "lowres_spacing_step",
            "slicewise_ratio",
            "anisotropy_ratio",
            "pooling_spacing_ratio",
            "lowres_isotropy_ratio",
        ):
            if getattr(self, name) <= 1:
                raise _invalid(name, getattr(self, name), "Give a number above 1.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise _invalid(name, getattr(self, name), f"There are: {', '.join(choices)}.")
        for name in ("blocks_per_stage", "stunet_features", "stunet_blocks_per_stage"):
            counts = getattr(self, name)
            if not counts or not all(_is_count(count) for count in counts):
                raise _invalid(name, _shown(counts), "Give a list of whole numbers of at least 1.")
        self._check_stunet()
        spacing = self.target_spacing
        if spacing is not None and (len(spacing) != 3 or not all(_is_positive(value) for value in spacing)):
            raise _invalid("target_spacing", _shown(spacing), "Give three positive numbers (z, y, x) in mm.")

    def _check_stunet(self) -> None:
        stages, blocks = len(self.stunet_features), len(self.stunet_blocks_per_stage)
        if stages < 2 or stages != blocks:
            what = f"{stages} stages of features with {blocks} of blocks"
            raise _invalid("stunet_features", what, "Give both one number for each of at least two stages.")

    def budget(self, axes: int) -> float:
        """Feature-map elements that fit into `gpu_memory_gb` at the reference batch size, in 2 or 3 `axes`."""
        reference = self.reference_features_2d if axes == 2 else self.reference_features_3d
        return reference * (self.gpu_memory_gb / self.reference_memory_gb)

    def reference_batch_size(self, axes: int) -> int:
        """Batch size for which `budget(axes)` holds."""
        return self.reference_batch_size_2d if axes == 2 else self.reference_batch_size_3d

    def initial_patch_voxels(self, axes: int) -> int:
        """Voxels of the patch that planning starts from."""
        return self.initial_patch_edge_2d**2 if axes == 2 else self.initial_patch_edge_3d**3

    def max_poolings(self, axes: int) -> float:
        """Most poolings of an axis; infinity where there is no limit."""
        limit = self.max_poolings_2d if axes == 2 else self.max_poolings_3d
        return math.inf if limit is None else limit

    def stage_features(self, stages: int, axes: int) -> tuple[int, ...]:
        """Features of each of `stages` stages."""
        most = self.max_features_2d if axes == 2 else self.max_features_3d
        return tuple(min(most, self.base_features * 2**stage) for stage in range(stages))

    def stage_blocks(self, stages: int) -> tuple[int, ...]:
        """Residual blocks of each of `stages` encoder stages."""
        return tuple(self.blocks_per_stage[min(stage, len(self.blocks_per_stage) - 1)] for stage in range(stages))


_CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"network": get_args(Network), "rules": get_args(Rules), "shrink_patch_for": get_args(ShrinkFor)}
    | {"memory": get_args(Memory), "label_resampling": get_args(LabelResampling)}
)


def _check_type(name: str, default: object, value: object) -> None:
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise _invalid(name, value, "Give true or false.")
    elif isinstance(default, int):
        if not _is_count(value):
            raise _invalid(name, value, "Give a whole number of at least 1.")
    elif isinstance(default, float):
        if not _is_positive(value):
            raise _invalid(name, value, "Give a positive number (1e-12 to 1e12).")
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise _invalid(name, value, f"Give a text; the default is {default}.")
    elif isinstance(default, tuple) and not isinstance(value, tuple):
        raise _invalid(name, value, f"Give a list; the default is {_shown(default)}.")
    elif name.startswith("max_poolings") and value is not None and not _is_count(value):
        raise _invalid(name, value, "Give a whole number of at least 1, or null.")
    elif name == "target_spacing" and not isinstance(value, tuple | None):
        raise _invalid(name, value, "Give three positive numbers (z, y, x) in mm, or null.")


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1e-12 <= value <= 1e12


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _shown(values: Iterable[object]) -> str:
    return f"[{', '.join(map(str, values))}]"


def _invalid(name: str, value: object, remedy: str) -> ConfigError:
    return ConfigError(f"{value} is not possible", f"planner.{name}", remedy)


_RESIDUAL = PlannerSettings(
    network="residual_unet",
    shrink_patch_for="reference_batch",
    max_dataset_fraction=1.0,
    convs_per_stage_decoder=1,
)


def _residual(name: str, gb: float, features_2d: float, features_3d: float) -> PlannerSettings:
    return replace(
        _RESIDUAL,
        name=name,
        gpu_memory_gb=gb,
        reference_memory_gb=gb,
        reference_features_2d=features_2d,
        reference_features_3d=features_3d,
    )


def _stunet(size: str, base: int, blocks: int) -> PlannerSettings:
    features = tuple(base * factor for factor in (1, 2, 4, 8, 16, 16))
    return replace(
        PlannerSettings(),
        name=f"stunet_{size}",
        network="stunet",
        stunet_features=features,
        stunet_blocks_per_stage=(blocks,) * len(features),
    )


_DECATHLON = PlannerSettings(
    name="decathlon2018",
    rules="decathlon2018",
    initial_patch_edge_3d=128,
    base_features=30,
    max_features_2d=480,
    max_poolings_2d=6,
    max_poolings_3d=5,
    anisotropic_percentile=50.0,
    lowres_spacing_step=2.0,
    slicewise_ratio=2.0,
    label_resampling="nearest",
)

PRESETS: Mapping[str, PlannerSettings] = MappingProxyType(
    {
        "default": PlannerSettings(),
        "resenc_m": _residual("resenc_m", 8.0, 135e6, 680e6),
        "resenc_l": _residual("resenc_l", 24.0, 380e6, 2100e6),
        "resenc_xl": _residual("resenc_xl", 40.0, 560e6, 3600e6),
        "stunet_s": _stunet("s", 16, 1),
        "stunet_b": _stunet("b", 32, 1),
        "stunet_l": _stunet("l", 64, 2),
        "stunet_h": _stunet("h", 96, 3),
        "decathlon2018": _DECATHLON,
    }
)
"""nnU-Net's default planner, its residual-encoder presets M, L and XL (Isensee et al., MICCAI 2024), STU-Net's four
sizes (Huang et al., 2023), and the rules of the Medical Segmentation Decathlon 2018 (Isensee et al., arXiv 1809.10486).
"""
