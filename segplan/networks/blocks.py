"""Convolution blocks that every network of segplan is made of.

Attribute names follow nnU-Net's state dict, so that its checkpoints load by name.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

CONV: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED_CONV: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
INSTANCE_NORM: dict[int, type[nn.InstanceNorm2d] | type[nn.InstanceNorm3d]] = {
    2: nn.InstanceNorm2d,
    3: nn.InstanceNorm3d,
}
NEGATIVE_SLOPE = 0.01
NORM_EPS = 1e-5


class ConvBlock(nn.Module):
    """Convolution, instance norm, leaky ReLU.

    Args:
        input_channels: channels of the input.
        output_channels: channels of the output.
        kernel_size: odd size per axis; the padding keeps the size at stride 1.
        stride: step per axis.
    """

    def __init__(
        self, input_channels: int, output_channels: int, kernel_size: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        convolution: Any = CONV[len(kernel_size)]
        padding = tuple((size - 1) // 2 for size in kernel_size)
        self.conv = convolution(input_channels, output_channels, tuple(kernel_size), tuple(stride), padding)
        # Under autocast input and output stay in low precision, the kernel keeps statistics and parameters in float32.
        self.norm = INSTANCE_NORM[len(kernel_size)](output_channels, eps=NORM_EPS, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, *spatial) to (B, C_out, *spatial / stride)."""
        return F.leaky_relu_(self.norm(self.conv(x)), NEGATIVE_SLOPE)


class ConvStack(nn.Module):
    """Several `ConvBlock`s in a row; the first changes channels and resolution.

    Args:
        depth: number of blocks.
        input_channels: channels of the input.
        output_channels: channels of the output.
        kernel_size: odd size per axis.
        stride: step per axis of the first block; ones if left out.
    """

    def __init__(
        self,
        depth: int,
        input_channels: int,
        output_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        ones = (1,) * len(kernel_size)
        first = ConvBlock(input_channels, output_channels, kernel_size, stride or ones)
        rest = (ConvBlock(output_channels, output_channels, kernel_size, ones) for _ in range(depth - 1))
        self.convs = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, *spatial) to (B, C_out, *spatial / stride)."""
        result: Tensor = self.convs(x)
        return result


def initialize(module: nn.Module) -> None:
    """He-normal weights for the leaky slope, fan-in (torch's: weight axis 1), and zero biases (He et al., 2015)."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
