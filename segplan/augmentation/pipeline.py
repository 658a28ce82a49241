"""A list of transforms as one: draw all parameters of a sample, then cut and augment its patch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from segplan.augmentation.mirror import Mirror
from segplan.augmentation.outside import mask_outside, outside_to_background
from segplan.augmentation.patch_geometry import Box3, initial_patch_size
from segplan.augmentation.spatial import Spatial, cut_patch
from segplan.augmentation.transform import Context, Transform

Params = Mapping[str, Any]
"""Per name of a transform that acts on the sample, its parameters: all that is needed to replay it."""


@dataclass(frozen=True)
class Pipeline:
    """Augmentation of one sample.

    Args:
        context: channels and network patch.
        spatial: rotation and scaling while the patch is cut; None cuts it as it lies.
        transforms: what follows, in order, by name.
        use_mask: channels that are set to 0 where the label is -1 (those normalised within the nonzero mask); empty
            for none.
    """

    context: Context
    spatial: Spatial | None = None
    transforms: tuple[tuple[str, Transform], ...] = ()
    use_mask: tuple[bool, ...] = ()

    @property
    def patch_box_size(self) -> tuple[int, int, int]:
        """The network patch (z, y, x); a 2D patch is one slice."""
        return _as_3d(self.context.patch_size)

    @property
    def initial_patch_size(self) -> tuple[int, int, int]:
        """Size (z, y, x) of the box that is placed in the case and from whose middle the patch is cut."""
        if self.spatial is None:
            return self.patch_box_size
        rotation = self.spatial.rotation_range(self.context)
        return _as_3d(initial_patch_size(self.context.patch_size, rotation, self.context.dummy_2d))

    @property
    def mirror_axes(self) -> tuple[int, ...] | None:
        """Spatial axes along which patches are mirrored, so prediction may mirror too; None for none."""
        axes: set[int] = set()
        for _, transform in self.transforms:
            if isinstance(transform, Mirror):
                axes.update(transform.resolved_axes(len(self.context.patch_size)))
        return tuple(sorted(axes)) or None

    def sample(self, rng: np.random.Generator) -> Params:
        """Draw the parameters of one sample; nothing of the case is needed yet."""
        params: dict[str, Any] = {}
        if self.spatial is not None:
            params["spatial"] = self.spatial.sample(rng, self.context)
        for name, transform in self.transforms:
            params[name] = transform.sample(rng, self.context)
        return {name: drawn for name, drawn in params.items() if drawn is not None}

    def apply(
        self, image: np.ndarray, labels: np.ndarray, params: Params, box: Box3 | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cut the patch and augment it; a pure function of its arguments.

        Args:
            image: (C, Z, Y, X) float32; a whole case (memory-mapped) or a part of it.
            labels: (L, Z, Y, X) integer, -1 outside the nonzero mask.
            params: what `sample` drew.
            box: where the box of `initial_patch_size` lies in `image`; by default all of `image`.

        Returns:
            image (C, *patch_size) float32 and labels (L, *patch_size) int16 without -1; 2D patches without axis 0.
        """
        size = (image.shape[1], image.shape[2], image.shape[3])
        patch = cut_patch(image, labels, box or Box3((0, 0, 0), size), self.patch_box_size, params.get("spatial"))
        if len(self.context.patch_size) == 2:
            patch = patch[0][:, 0], patch[1][:, 0]
        for name, transform in self.transforms:
            if name in params:
                patch = transform.apply(*patch, params[name])
        augmented, warped_labels = patch
        if any(self.use_mask):
            augmented = mask_outside(augmented, warped_labels, self.use_mask)
        return augmented.contiguous(), outside_to_background(warped_labels)


def _as_3d(size: tuple[int, ...]) -> tuple[int, int, int]:
    return (1, size[0], size[1]) if len(size) == 2 else (size[0], size[1], size[2])
