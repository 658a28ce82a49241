"""A list of transforms as one: draw all parameters of a sample, then cut and augment its patch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segplan.augmentation.batch import Source, apply_to_batch, read_source, resolve_sources
from segplan.augmentation.mirror import Mirror
from segplan.augmentation.outside import mask_outside, outside_to_background
from segplan.augmentation.patch_geometry import Box3, initial_patch_size
from segplan.augmentation.spatial import NO_LABEL, LabelMaps, Spatial, cut_patch
from segplan.augmentation.transform import Context, Transform

_BOX_TO_PATCH = 3  # holds most boxes at ±30°; the rest is warped where it is read

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
    def _ignored(self) -> int:
        return NO_LABEL if self.spatial is None else self.spatial.without_vote(self.context)

    @property
    def mirror_axes(self) -> tuple[int, ...] | None:
        """Spatial axes along which patches are mirrored, so prediction may mirror too; None for none."""
        axes: set[int] = set()
        for _, transform in self.transforms:
            if isinstance(transform, Mirror):
                axes.update(transform.resolved_axes(len(self.context.patch_size)))
        return tuple(sorted(axes)) or None

    @property
    def mirror_swap(self) -> tuple[int, tuple[tuple[int, int], ...]] | None:
        """Axis along which mirroring exchanges labels, and the pairs; None if none is exchanged."""
        for _, transform in self.transforms:
            if isinstance(transform, Mirror) and transform.swap_labels:
                return transform.resolved_swap_axis(len(self.context.patch_size)), transform.swap_labels
        return None

    def sample(self, rng: np.random.Generator) -> Params:
        """Draw the parameters of one sample; nothing of the case is needed yet."""
        params: dict[str, Any] = {}
        if self.spatial is not None:
            params["spatial"] = self.spatial.sample(rng, self.context)
        for name, transform in self.transforms:
            params[name] = transform.sample(rng, self.context)
        return {name: drawn for name, drawn in params.items() if drawn is not None}

    def apply(
        self,
        image: np.ndarray,
        labels: LabelMaps,
        params: Params,
        box: Box3 | None = None,
        out: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Cut the patch and augment it; a pure function of its arguments, which stay as they are.

        Args:
            image: (C, Z, Y, X) float32; a whole case (memory-mapped) or a part of it.
            labels: see `LabelMaps`; -1 outside the nonzero mask.
            params: what `sample` drew.
            box: where the box of `initial_patch_size` lies in `image`; by default all of `image`.
            out: contiguous CPU tensors of the result's shapes to write into, such as a sample's places in a batch.

        Returns:
            `out`, or new tensors: image (C, *patch_size) float32 and labels (L, *patch_size) int16 without -1;
            2D patches without axis 0.
        """
        is_flat = len(self.context.patch_size) == 2
        place = (out[0].unsqueeze(1), out[1].unsqueeze(1)) if out and is_flat else out
        where = (box or whole(image), self.patch_box_size, params.get("spatial"))
        patch = cut_patch(image, labels, *where, out=place, ignored=self._ignored)
        if is_flat:
            patch = patch[0].squeeze(1), patch[1].squeeze(1)
        for name, transform in self.transforms:
            if name in params:
                patch = transform.apply(*patch, params[name])
        augmented = mask_outside(*patch, self.use_mask) if any(self.use_mask) else patch[0]
        final = augmented.contiguous(), outside_to_background(patch[1]).contiguous()
        if out is None:
            return final
        for target, made in zip(out, final, strict=True):
            if made.data_ptr() != target.data_ptr():  # a transform could not work in place
                target.copy_(made)
        return out

    @property
    def source_voxels(self) -> int:
        """Voxels a channel that `read` has room for: of most boxes around a turned patch, where patches turn."""
        return math.prod(self.patch_box_size) * (_BOX_TO_PATCH if self.spatial else 1)

    def read(
        self,
        image: np.ndarray,
        labels: LabelMaps,
        params: Params,
        box: Box3 | None = None,
        *,
        out: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Source]:
        """Read what `apply` would read, for `apply_batch` on another device; arguments as of `apply`.

        Returns:
            `out`, or new tensors: image (C, source_voxels) float32, labels (L, source_voxels) int16, of which the first
            voxels are used; and what shall happen to them.
        """
        voxels, voxel_labels = out or (
            torch.zeros((image.shape[0], self.source_voxels)),
            torch.zeros((len(labels), self.source_voxels), dtype=torch.int16),
        )
        case, target = (image, labels), (voxels, voxel_labels)
        source = read_source(case, params, box or whole(image), self.patch_box_size, target, ignored=self._ignored)
        return voxels, voxel_labels, source

    def apply_batch(self, voxels: Tensor, voxel_labels: Tensor, sources: Sequence[Source]) -> tuple[Tensor, Tensor]:
        """Augment what `read` read, on the device where it lies; the same function as `apply`.

        Random fields (noise) depend on the kind of device; all else agrees with `apply` but for rounding.

        Args:
            voxels: (N, C, source_voxels).
            voxel_labels: (N, L, source_voxels).
            sources: what `read` said of each.

        Returns:
            images (N, C, *patch_size) float32 and labels (N, L, *patch_size) int16 without -1.
        """
        images, labels = resolve_sources(voxels, voxel_labels, sources, self.patch_box_size, ignored=self._ignored)
        if len(self.context.patch_size) == 2:
            images, labels = images.squeeze(2), labels.squeeze(2)
        images, labels = apply_to_batch(self.transforms, images, labels, [source.params for source in sources])
        if any(self.use_mask):
            for image, own_labels in zip(images, labels, strict=True):
                mask_outside(image, own_labels, self.use_mask)
        return images, outside_to_background(labels)


def whole(image: np.ndarray) -> Box3:
    """Return the box that is all of `image` (C, Z, Y, X)."""
    return Box3((0, 0, 0), (image.shape[1], image.shape[2], image.shape[3]))


def _as_3d(size: tuple[int, ...]) -> tuple[int, int, int]:
    return (1, size[0], size[1]) if len(size) == 2 else (size[0], size[1], size[2])
