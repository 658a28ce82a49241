"""How much a network needs, in closed form: feature-map elements, parameters, gigabytes.

No network is built. The counts equal those that nnU-Net 2.8.1 gets by instantiating its networks: outputs of all
convolutions and transposed convolutions, and of the segmentation head at full resolution only.
"""

import math
from collections.abc import Sequence

from segplan.planning.settings import PlannerSettings

Axes = Sequence[int]


def count_features(patch_size: Axes, strides: Sequence[Axes], label_count: int, settings: PlannerSettings) -> int:
    """Feature-map elements of one sample.

    Args:
        patch_size: voxels per axis.
        strides: of each stage, per axis.
        label_count: channels of the segmentation head that are counted.
        settings: says which network and how many convolutions a stage.
    """
    voxels = _stage_voxels(patch_size, strides)
    features = settings.stage_features(len(strides), len(patch_size))
    volumes = [f * v for f, v in zip(features, voxels, strict=True)]
    if settings.network == "residual_unet":
        total = volumes[0] + sum(_residual_encoder_terms(volumes, features, strides, settings))
    else:
        total = settings.convs_per_stage * sum(volumes)
    if len(strides) == 1:
        return total
    # In the decoder each stage also holds the output of the transposed convolution.
    return total + (1 + settings.convs_per_stage_decoder) * sum(volumes[:-1]) + label_count * voxels[0]


def count_parameters(
    input_channels: int, heads: int, strides: Sequence[Axes], kernel_sizes: Sequence[Axes], settings: PlannerSettings
) -> int:
    """Trainable parameters of the planned network, with a segmentation head at every decoder resolution."""
    features = settings.stage_features(len(strides), len(strides[0]))
    kernels = [math.prod(kernel) for kernel in kernel_sizes]
    if settings.network == "residual_unet":
        total = _residual_encoder_parameters(input_channels, features, kernels, settings)
    else:
        inputs = (input_channels, *features[:-1])
        total = sum(
            _convs(c_in, f, kernel, settings.convs_per_stage)
            for c_in, f, kernel in zip(inputs, features, kernels, strict=True)
        )
    for stage, f in enumerate(features[:-1]):
        total += features[stage + 1] * f * math.prod(strides[stage + 1]) + f
        total += _convs(2 * f, f, kernels[stage], settings.convs_per_stage_decoder) + (f + 1) * heads
    return total


def estimate_gigabytes(features: int, batch_size: int, axes: int, settings: PlannerSettings) -> float:
    """Memory of a training in GB, in proportion to the reference that the budget comes from."""
    share = features * batch_size / settings.reference_batch_size(axes) / settings.budget(axes)
    return share * settings.gpu_memory_gb


def _stage_voxels(patch_size: Axes, strides: Sequence[Axes]) -> list[int]:
    size = list(patch_size)
    voxels = []
    for stride in strides:
        size = [edge // step for edge, step in zip(size, stride, strict=True)]
        voxels.append(math.prod(size))
    return voxels


def _residual_encoder_terms(
    volumes: Sequence[int], features: Sequence[int], strides: Sequence[Axes], settings: PlannerSettings
) -> list[int]:
    terms = []
    for stage, blocks in enumerate(settings.stage_blocks(len(volumes))):
        # The skip path of a stage's first block counts once if it changes size or features; nnU-Net counts it also
        # where it only averages (equal features), and so must we.
        changes = stage > 0 and (features[stage] != features[stage - 1] or max(strides[stage]) > 1)
        terms.append((2 * blocks + int(changes)) * volumes[stage])
    return terms


def _residual_encoder_parameters(
    input_channels: int, features: Sequence[int], kernels: Sequence[int], settings: PlannerSettings
) -> int:
    total = _convs(input_channels, features[0], kernels[0], 1)
    inputs = (features[0], *features[:-1])
    for c_in, f, kernel, blocks in zip(inputs, features, kernels, settings.stage_blocks(len(features)), strict=True):
        total += _convs(c_in, f, kernel, 2 * blocks)
        if c_in != f:
            total += c_in * f + 2 * f  # 1x1 convolution without bias, and its normalisation
    return total


def _convs(c_in: int, c_out: int, kernel_voxels: int, count: int) -> int:
    per_output = 3  # bias, and the normalisation's scale and shift
    return sum(((c_in if i == 0 else c_out) * kernel_voxels + per_output) * c_out for i in range(count))
