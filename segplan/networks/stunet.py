"""STU-Net: residual blocks up and down, upsampling that has no kernel to fit to the poolings (Huang et al., 2023).

Parameter names are those of the authors' network, so that their checkpoints load by name. Weights fit any poolings.
"""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from segplan.errors import ConfigError
from segplan.networks.blocks import CONV, INSTANCE_NORM, NEGATIVE_SLOPE, NORM_EPS, initialize
from segplan.networks.checkpointing import Join, compute
from segplan.networks.topology import check_blocks, check_topology


class STUNet(nn.Module):
    """A 2D or 3D STU-Net; the number of entries of a stride says which (the authors' are 3D).

    The published sizes with 1 input and 105 classes, `features` (doubling from the first, the last two equal) and
    `blocks_per_stage`: S 16 and 1, 14.6 M parameters; B 32 and 1, 58.3 M; L 64 and 2, 440 M; H 96 and 3, 1457 M.

    Args:
        input_channels: image channels.
        num_classes: heads: labels with background, or regions.
        features: channels of each stage, highest resolution first.
        blocks_per_stage: residual blocks of each stage, in the encoder and (but for the last) in the decoder.
        strides: of each stage, per axis (y, x) or (z, y, x); the first is all ones.
        width: factor on all `features`, for a size in between.
        depth: factor on all `blocks_per_stage`.
        deep_supervision: return the logits of all resolutions (the lowest, at the bottleneck, has none). An attribute:
            set it to False for inference.
        activation_checkpointing: keep few activations and compute the others again for the gradients: less memory,
            more time (a step 1.34 to 1.40 times as long, measured on a CPU). An attribute.

    Raises:
        ConfigError: the lists differ in length, a stride has the wrong number of axes, or a factor leaves nothing.
    """

    switches_deep_supervision: ClassVar[bool] = True

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        features: Sequence[int],
        blocks_per_stage: Sequence[int],
        strides: Sequence[Sequence[int]],
        *,
        width: float = 1.0,
        depth: float = 1.0,
        deep_supervision: bool = True,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        axes = len(strides[0]) if strides else 0
        check_topology(features, strides, [(3,) * axes] * len(strides))
        check_blocks(blocks_per_stage, len(features))
        widths, blocks = scaled(features, width, "width"), scaled(blocks_per_stage, depth, "depth")
        self.deep_supervision = deep_supervision
        self.activation_checkpointing = activation_checkpointing
        self.strides = tuple(tuple(int(step) for step in stride) for stride in strides)
        inputs = (input_channels, *widths[:-1])
        self.conv_blocks_context = nn.ModuleList(
            _stage(count, c_in, c_out, stride)
            for count, c_in, c_out, stride in zip(blocks, inputs, widths, self.strides, strict=True)
        )
        self.upsample_layers, self.conv_blocks_localization = nn.ModuleList(), nn.ModuleList()
        self.seg_outputs = nn.ModuleList()
        for skip in reversed(range(len(widths) - 1)):
            below, here = widths[skip + 1], widths[skip]
            self.upsample_layers.append(Upsample(below, here, self.strides[skip + 1]))
            self.conv_blocks_localization.append(_stage(blocks[skip], 2 * here, here, (1,) * axes))
            self.seg_outputs.append(CONV[axes](here, num_classes, 1))
        self.apply(initialize)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Map an image (B, C, *spatial) to logits (B, K, *spatial); with deep supervision to a list, highest first."""
        skips = []
        for stage in self.conv_blocks_context:
            x = self._blocks(stage.children(), x)
            skips.append(x)
        skips.pop()
        logits: list[Tensor] = []
        for up, stage, head in zip(self.upsample_layers, self.conv_blocks_localization, self.seg_outputs, strict=True):
            first, *rest = stage.children()
            x = compute(Join(up, first), x, skips.pop(), checkpointing=self.activation_checkpointing)
            x = self._blocks(rest, x)
            if self.deep_supervision or not skips:
                logits.append(head(x))
        return logits[::-1] if self.deep_supervision else logits[0]

    def _blocks(self, blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
        for block in blocks:
            x = compute(block, x, checkpointing=self.activation_checkpointing)
        return x


class ShortcutBlock(nn.Module):
    """Two 3-wide convolutions with instance norm beside a shortcut, added and rectified.

    Args:
        input_channels: channels of the input.
        output_channels: channels of the output.
        stride: step per axis of the first convolution and of the shortcut.
        projected: the shortcut is a 1-wide convolution without norm, else the input itself.
    """

    def __init__(self, input_channels: int, output_channels: int, stride: Sequence[int], *, projected: bool) -> None:
        super().__init__()
        convolution: Any = CONV[len(stride)]
        norm = INSTANCE_NORM[len(stride)]
        step = tuple(stride)
        self.conv1 = convolution(input_channels, output_channels, 3, step, 1)
        self.norm1 = norm(output_channels, eps=NORM_EPS, affine=True)
        self.conv2 = convolution(output_channels, output_channels, 3, 1, 1)
        self.norm2 = norm(output_channels, eps=NORM_EPS, affine=True)
        self.conv3 = convolution(input_channels, output_channels, 1, step) if projected else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, *spatial) to (B, C_out, *spatial / stride)."""
        inner = F.leaky_relu_(self.norm1(self.conv1(x)), NEGATIVE_SLOPE)
        shortcut = x if self.conv3 is None else self.conv3(x)
        return F.leaky_relu_(self.norm2(self.conv2(inner)) + shortcut, NEGATIVE_SLOPE)


class Upsample(nn.Module):
    """A 1-wide convolution, then every voxel repeated.

    The authors repeat first; the result is the same, and so it is computed on fewer voxels.

    Args:
        input_channels: channels of the input.
        output_channels: channels of the output.
        factor: repetitions per axis.
    """

    def __init__(self, input_channels: int, output_channels: int, factor: Sequence[int]) -> None:
        super().__init__()
        self.factor = tuple(float(step) for step in factor)
        self.conv = CONV[len(factor)](input_channels, output_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, *spatial) to (B, C_out, *spatial * factor)."""
        return F.interpolate(self.conv(x), scale_factor=self.factor, mode="nearest")


def scaled(counts: Sequence[int], factor: float, name: str) -> tuple[int, ...]:
    """`counts` times `factor`, rounded.

    Raises:
        ConfigError: one becomes 0.
    """
    result = tuple(round(count * factor) for count in counts)
    if min(result) < 1:
        raise ConfigError(f"{factor} leaves nothing of {list(counts)}", f"network.{name}", "Give a larger factor.")
    return result


def _stage(count: int, input_channels: int, output_channels: int, stride: Sequence[int]) -> nn.Sequential:
    """Blocks in a row; the first changes channels and resolution."""
    first = ShortcutBlock(input_channels, output_channels, stride, projected=True)
    ones = (1,) * len(stride)
    rest = (ShortcutBlock(output_channels, output_channels, ones, projected=False) for _ in range(count - 1))
    return nn.Sequential(first, *rest)
