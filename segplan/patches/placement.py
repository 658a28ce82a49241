"""Where in a case a patch is placed: anywhere, or around a voxel of a chosen class (rules of nnU-Net 2.8.1)."""

import math
from collections.abc import Mapping

import numpy as np

from segplan.augmentation import Box3
from segplan.errors import ConfigError
from segplan.preprocessing import ANNOTATED

Triple = tuple[int, int, int]


def lower_corner_bounds(shape: Triple, box_size: Triple, patch_size: Triple) -> tuple[Triple, Triple]:
    """Return the lowest and highest lower corner (both allowed) of the box that is placed.

    Half of what the box is larger than the patch may lie beyond the image, so the patch itself stays inside it; along
    axes on which the image is smaller than the box, the box may move just enough to cover the image.

    Args:
        shape: of the case (z, y, x).
        box_size: of the box from whose middle the patch is cut.
        patch_size: of the network patch.
    """
    lows, highs = [], []
    for size, box, patch in zip(shape, box_size, patch_size, strict=True):
        pad = max(box - patch, box - size)
        half = (pad + 1) // 2
        lows.append(-half)
        highs.append(size + half - box)
    return _triple(lows), _triple(highs)


def place_box(
    rng: np.random.Generator,
    *,
    shape: Triple,
    box_size: Triple,
    patch_size: Triple,
    locations: Mapping[str, np.ndarray],
    is_forced: bool,
    key: str | None = None,
    jitter: float = 0.0,
) -> Box3:
    """Draw where the box lies.

    A forced box is centred on a voxel of a class drawn uniformly from those present; other boxes lie anywhere or, if
    the dataset has an ignore label, around an annotated voxel. A case without such voxels is sampled anywhere. Around a
    voxel, only the lower corner is bounded: near the upper borders the patch may reach beyond the image.

    Args:
        rng: the sample's random stream.
        shape: of the case (z, y, x).
        box_size: of the box from whose middle the patch is cut.
        patch_size: of the network patch.
        locations: per class key (N, 3) voxel indices; key `ANNOTATED` for all that is annotated.
        is_forced: whether the patch must show foreground.
        key: the class that a forced patch is centred on, where it was drawn before.
        jitter: how far from its middle a forced patch may show the voxel, see `jitter_reach`.
    """
    low, high = lower_corner_bounds(shape, box_size, patch_size)
    voxel = _forced_voxel(rng, locations, key) if is_forced else _annotated_voxel(rng, locations)
    if voxel is None:
        return Box3(_triple(rng.integers(low, high, endpoint=True)), box_size)
    if is_forced and jitter:
        reach = np.array(jitter_reach(patch_size, jitter))
        voxel = voxel + rng.integers(-reach, reach, endpoint=True)
    around = [max(bound, int(v) - size // 2) for bound, v, size in zip(low, voxel, box_size, strict=True)]
    return Box3(_triple(around), box_size)


def jitter_reach(patch_size: Triple, jitter: float) -> Triple:
    """Return by how many voxels a forced patch may be moved along each axis, never so far that it loses its voxel.

    Args:
        patch_size: of the network patch.
        jitter: below 1 a share of the patch's size, from 1 on voxels.
    """
    wanted = [math.floor(jitter * size) if jitter < 1 else math.floor(jitter) for size in patch_size]
    return _triple([min(reach, (size - 1) // 2) for reach, size in zip(wanted, patch_size, strict=True)])


def check_jitter(jitter: float) -> None:
    """Raise ConfigError unless `jitter` is a number of at least 0."""
    if isinstance(jitter, bool) or not isinstance(jitter, int | float) or not (0 <= jitter < math.inf):
        raise ConfigError(
            f"{jitter!r} is no distance",
            where="data.foreground_jitter",
            remedy="Use 0 for none, a share of the patch below 1, or a number of voxels.",
        )


def _forced_voxel(
    rng: np.random.Generator, locations: Mapping[str, np.ndarray], key: str | None = None
) -> np.ndarray | None:
    if key is not None and len(locations[key]):
        return _any_of(rng, locations[key])
    present = [key for key, voxels in locations.items() if len(voxels)]
    # "Annotated" is no class; it serves only where no class is present.
    eligible = [key for key in present if key != ANNOTATED] or present
    if not eligible:
        return None
    return _any_of(rng, locations[eligible[rng.integers(len(eligible))]])


def _annotated_voxel(rng: np.random.Generator, locations: Mapping[str, np.ndarray]) -> np.ndarray | None:
    voxels = locations.get(ANNOTATED)
    return None if voxels is None or len(voxels) == 0 else _any_of(rng, voxels)


def _any_of(rng: np.random.Generator, voxels: np.ndarray) -> np.ndarray:
    chosen: np.ndarray = voxels[rng.integers(len(voxels))]
    return chosen


def _triple(values: list[int] | np.ndarray) -> Triple:
    return int(values[0]), int(values[1]), int(values[2])
