"""A Gaussian bump somewhere in or near the patch: where a local transform acts most."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segplan.augmentation.transform import Context, uniform


@dataclass(frozen=True)
class Bump:
    """Centre and standard deviation along each spatial axis, in voxels."""

    centre: tuple[float, ...]
    width: tuple[float, ...]


def draw_bump(rng: np.random.Generator, context: Context, centre: tuple[float, float]) -> Bump:
    """Draw a bump: per axis its centre ~ U(centre)·size, its width log-uniform from a sixth of the size to the size.

    Ranges of nnU-Net 2.8.1 (DA5).
    """
    sizes = context.patch_size
    widths = tuple(math.exp(uniform(rng, (math.log(max(size // 6, 1)), math.log(max(size, 1))))) for size in sizes)
    return Bump(tuple(uniform(rng, centre) * size for size in sizes), widths)


def bump_field(bump: Bump, like: Tensor) -> Tensor:
    """Return the bump in a volume like `like` (*spatial), scaled so that its range there is 0 to 1."""
    field = like.new_ones(())
    for axis, (centre, width) in enumerate(zip(bump.centre, bump.width, strict=True)):
        steps = torch.arange(like.shape[axis], device=like.device, dtype=like.dtype)
        # The exponent's largest value is taken off: only the shape within the patch counts, however far the centre is.
        exponent = (steps - centre).div_(width).square_().mul_(-0.5)
        profile = (exponent - exponent.amax()).exp_()
        field = field[..., None] * profile
    low = field.amin()
    return field.sub_(low).div_((1 - low).clamp(min=1e-7))
