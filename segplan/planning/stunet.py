"""STU-Net in place of the planned network (Huang et al., 2023): poolings, memory and parameters, in closed form.

Residual blocks of two 3×3×3 convolutions, a 1×1×1 shortcut in the first block of every stage, nearest-neighbour
upsampling with a 1×1×1 convolution, and a head at every decoder resolution. Kernels are 3 wide whatever the spacing.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from segplan.planning.configured import Configured
from segplan.planning.settings import PlannerSettings
from segplan.planning.topology import Topology

_BYTES_PER_PARAMETER = 12  # weight, gradient and momentum in float32


def with_stunet(configured: Configured, label_count: int, settings: PlannerSettings) -> Configured:
    """The same patch and batch with STU-Net's stages.

    STU-Net has a fixed number of poolings. Of the planned ones the first are taken; where there are fewer, stages
    without pooling follow. So the patch, which the planned poolings divide, stays divisible.
    """
    stages = len(settings.stunet_features)
    planned = configured.topology
    ones = (1,) * len(planned.patch_size)
    strides = (*planned.strides, *[ones] * stages)[:stages]
    divisor = tuple(math.prod(stride[axis] for stride in strides) for axis in range(len(ones)))
    return replace(
        configured,
        topology=Topology(planned.patch_size, strides, ((3,) * len(ones),) * stages, divisor),
        features=settings.stunet_features,
        feature_count=count_stunet_features(planned.patch_size, strides, label_count, settings),
    )


def count_stunet_features(
    patch_size: Sequence[int], strides: Sequence[Sequence[int]], label_count: int, settings: PlannerSettings
) -> int:
    """Feature-map elements of one sample: outputs of all convolutions, upsampled maps, the full-resolution head."""
    size, volumes = list(patch_size), []
    for stride, features in zip(strides, settings.stunet_features, strict=True):
        size = [edge // step for edge, step in zip(size, stride, strict=True)]
        volumes.append(features * math.prod(size))
    blocks = settings.stunet_blocks_per_stage
    encoder = sum((2 * count + 1) * volume for count, volume in zip(blocks, volumes, strict=True))
    decoder = sum((2 * count + 2) * volume for count, volume in zip(blocks[:-1], volumes[:-1], strict=True))
    return encoder + decoder + label_count * math.prod(patch_size)


def count_stunet_parameters(input_channels: int, heads: int, settings: PlannerSettings) -> int:
    """Trainable parameters, those of all heads included."""
    features, blocks = settings.stunet_features, settings.stunet_blocks_per_stage
    inputs = (input_channels, *features[:-1])
    total = sum(_stage(c_in, f, count) for c_in, f, count in zip(inputs, features, blocks, strict=True))
    for f, below, count in zip(features[:-1], features[1:], blocks[:-1], strict=True):
        total += (below + 1) * f + _stage(2 * f, f, count) + (f + 1) * heads
    return total


def parameter_gigabytes(parameters: int) -> float:
    """Memory of weights, gradients and momentum; the reference that features are compared with has next to none."""
    return parameters * _BYTES_PER_PARAMETER / 2**30


def _stage(c_in: int, c_out: int, blocks: int) -> int:
    """Parameters of a stage; each 3×3×3 convolution has a bias and a norm's scale and shift, the shortcut a bias."""
    convs = 27 * c_in * c_out + (2 * blocks - 1) * 27 * c_out**2 + 2 * blocks * 3 * c_out
    return convs + (c_in + 1) * c_out
