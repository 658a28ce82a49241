"""The residual-encoder U-Net of nnU-Net's ResEnc presets: residual blocks down, the plain decoder up.

Parameter names are nnU-Net's, each once (nnU-Net's state dict repeats every one under further names).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from segplan.networks.blocks import CONV, INSTANCE_NORM, NEGATIVE_SLOPE, NORM_EPS, ConvBlock, ConvStack, initialize
from segplan.networks.checkpointing import compute
from segplan.networks.decoder import Decoder
from segplan.networks.topology import check_blocks, check_topology

AVERAGE_POOL: dict[int, type[nn.AvgPool2d] | type[nn.AvgPool3d]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


class ResidualUNet(nn.Module):
    """A 2D or 3D U-Net with a residual encoder (Isensee et al., MICCAI 2024).

    Args:
        input_channels: image channels.
        num_classes: heads: labels with background, or regions.
        features: channels of each stage, highest resolution first.
        strides: of each stage, per axis (y, x) or (z, y, x); the first is all ones.
        kernel_sizes: of each stage, per axis, odd.
        blocks_per_stage: residual blocks of each encoder stage.
        convs_per_stage_decoder: convolutions of a decoder stage.
        deep_supervision: return the logits of all resolutions (the lowest, at the bottleneck, has none). An attribute:
            set it to False for inference.
        activation_checkpointing: keep few activations and compute the others again for the gradients: less memory,
            more time (a step 1.34 to 1.40 times as long, measured on a CPU). An attribute.

    Raises:
        ConfigError: the lists differ in length, or a stride or kernel has the wrong number of axes.
    """

    switches_deep_supervision: ClassVar[bool] = True

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        features: Sequence[int],
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        *,
        blocks_per_stage: Sequence[int],
        convs_per_stage_decoder: int = 1,
        deep_supervision: bool = True,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_topology(features, strides, kernel_sizes)
        check_blocks(blocks_per_stage, len(features))
        self.deep_supervision = deep_supervision
        self.activation_checkpointing = activation_checkpointing
        self.strides = tuple(tuple(int(step) for step in stride) for stride in strides)
        self.encoder = ResidualEncoder(input_channels, features, strides, kernel_sizes, blocks_per_stage)
        self.decoder = Decoder(num_classes, features, strides, kernel_sizes, convs_per_stage_decoder)
        self.apply(initialize)
        self.apply(_silence_residual)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Map an image (B, C, *spatial) to logits (B, K, *spatial); with deep supervision to a list, highest first."""
        heads = len(self.strides) - 1 if self.deep_supervision else 1
        skips = self.encoder(x, checkpointing=self.activation_checkpointing)
        logits: list[Tensor] = self.decoder(skips, heads, checkpointing=self.activation_checkpointing)
        return logits if self.deep_supervision else logits[0]


class ResidualEncoder(nn.Module):
    """A stem and stages of residual blocks, each but the first halving. Arguments as in `ResidualUNet`."""

    def __init__(
        self,
        input_channels: int,
        features: Sequence[int],
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        blocks_per_stage: Sequence[int],
    ) -> None:
        super().__init__()
        self.stem = ConvStack(1, input_channels, features[0], kernel_sizes[0])
        inputs = [features[0], *features[:-1]]
        self.stages = nn.ModuleList(
            ResidualStage(blocks, c_in, c_out, kernel, stride)
            for blocks, c_in, c_out, kernel, stride in zip(
                blocks_per_stage, inputs, features, kernel_sizes, strides, strict=True
            )
        )

    def forward(self, x: Tensor, *, checkpointing: bool = False) -> list[Tensor]:
        """Return the output of every stage, highest resolution first."""
        x = self.stem(x)
        outputs = []
        for stage in self.stages:
            for block in stage.get_submodule("blocks").children():
                x = compute(block, x, checkpointing=checkpointing)
            outputs.append(x)
        return outputs


class ResidualStage(nn.Module):
    """Residual blocks in a row; the first changes channels and resolution.

    Args:
        depth: number of blocks.
        input_channels: channels of the input.
        output_channels: channels of the output.
        kernel_size: odd size per axis.
        stride: step per axis of the first block.
    """

    def __init__(
        self, depth: int, input_channels: int, output_channels: int, kernel_size: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        ones = (1,) * len(kernel_size)
        first = ResidualBlock(input_channels, output_channels, kernel_size, stride)
        rest = (ResidualBlock(output_channels, output_channels, kernel_size, ones) for _ in range(depth - 1))
        self.blocks = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, *spatial) to (B, C_out, *spatial / stride)."""
        result: Tensor = self.blocks(x)
        return result


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, added and rectified (the "D" variant: the shortcut pools, then projects).

    Args:
        input_channels: channels of the input.
        output_channels: channels of the output.
        kernel_size: odd size per axis.
        stride: step per axis of the first convolution, and of the shortcut's average pooling.
    """

    def __init__(
        self, input_channels: int, output_channels: int, kernel_size: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        ones = (1,) * len(kernel_size)
        self.conv1 = ConvBlock(input_channels, output_channels, kernel_size, stride)
        self.conv2 = ConvNorm(output_channels, output_channels, kernel_size)
        shortcut: list[nn.Module] = []
        if any(step > 1 for step in stride):
            pool: Any = AVERAGE_POOL[len(stride)]
            shortcut.append(pool(tuple(stride), tuple(stride)))
        if input_channels != output_channels:
            shortcut.append(ConvNorm(input_channels, output_channels, ones, bias=False))
        self.skip = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, *spatial) to (B, C_out, *spatial / stride)."""
        result: Tensor = self.conv2(self.conv1(x)) + self.skip(x)
        return F.leaky_relu_(result, NEGATIVE_SLOPE)


class ConvNorm(nn.Module):
    """Convolution and instance norm, without activation.

    Args:
        input_channels: channels of the input.
        output_channels: channels of the output.
        kernel_size: odd size per axis.
        bias: whether the convolution has one.
    """

    def __init__(
        self, input_channels: int, output_channels: int, kernel_size: Sequence[int], *, bias: bool = True
    ) -> None:
        super().__init__()
        convolution: Any = CONV[len(kernel_size)]
        padding = tuple((size - 1) // 2 for size in kernel_size)
        self.conv = convolution(input_channels, output_channels, tuple(kernel_size), 1, padding, bias=bias)
        self.norm = INSTANCE_NORM[len(kernel_size)](output_channels, eps=NORM_EPS, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, *spatial) to (B, C_out, *spatial)."""
        result: Tensor = self.norm(self.conv(x))
        return result


def _silence_residual(module: nn.Module) -> None:
    """Start each block as its shortcut alone: the norm before the addition begins at zero."""
    if isinstance(module, ResidualBlock):
        nn.init.zeros_(module.conv2.norm.weight)
        nn.init.zeros_(module.conv2.norm.bias)
