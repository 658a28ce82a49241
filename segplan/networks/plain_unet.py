"""The plain U-Net of nnU-Net: strided convolutions down, transposed convolutions up, one head a resolution.

Parameter names are nnU-Net's, each once (nnU-Net's state dict repeats every one under further names).
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from segplan.networks.blocks import ConvStack, initialize
from segplan.networks.checkpointing import compute
from segplan.networks.decoder import Decoder
from segplan.networks.topology import check_topology


class PlainUNet(nn.Module):
    """A 2D or 3D U-Net; the number of entries of a stride says which.

    Args:
        input_channels: image channels.
        num_classes: heads: labels with background, or regions.
        features: channels of each stage, highest resolution first.
        strides: of each stage, per axis (y, x) or (z, y, x); the first is all ones.
        kernel_sizes: of each stage, per axis, odd.
        convs_per_stage: convolutions of an encoder stage.
        convs_per_stage_decoder: convolutions of a decoder stage.
        deep_supervision: return the logits of all resolutions (the lowest, at the bottleneck, has none). An attribute:
            set it to False for inference.
        activation_checkpointing: keep few activations and compute the others again for the gradients: less memory,
            more time (a step 1.34 to 1.40 times as long, measured on a CPU). An attribute.

    Raises:
        ConfigError: the three lists differ in length, or a stride or kernel has the wrong number of axes.
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
        convs_per_stage: int = 2,
        convs_per_stage_decoder: int = 2,
        deep_supervision: bool = True,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_topology(features, strides, kernel_sizes)
        self.deep_supervision = deep_supervision
        self.activation_checkpointing = activation_checkpointing
        self.strides = tuple(tuple(int(step) for step in stride) for stride in strides)
        self.encoder = Encoder(input_channels, features, strides, kernel_sizes, convs_per_stage)
        self.decoder = Decoder(num_classes, features, strides, kernel_sizes, convs_per_stage_decoder)
        self.apply(initialize)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Map an image (B, C, *spatial) to logits (B, K, *spatial); with deep supervision to a list, highest first."""
        heads = len(self.strides) - 1 if self.deep_supervision else 1
        skips = self.encoder(x, checkpointing=self.activation_checkpointing)
        logits: list[Tensor] = self.decoder(skips, heads, checkpointing=self.activation_checkpointing)
        return logits if self.deep_supervision else logits[0]


class Encoder(nn.Module):
    """Stages of convolutions, each but the first at a lower resolution. Arguments as in `PlainUNet`."""

    def __init__(
        self,
        input_channels: int,
        features: Sequence[int],
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        convs_per_stage: int,
    ) -> None:
        super().__init__()
        inputs = [input_channels, *features[:-1]]
        # Each stage is wrapped once more because the names of nnU-Net's plain encoder hold a literal 0.
        self.stages = nn.ModuleList(
            nn.Sequential(ConvStack(convs_per_stage, c_in, c_out, kernel, stride))
            for c_in, c_out, kernel, stride in zip(inputs, features, kernel_sizes, strides, strict=True)
        )

    def forward(self, x: Tensor, *, checkpointing: bool = False) -> list[Tensor]:
        """Return the output of every stage, highest resolution first."""
        outputs = []
        for stage in self.stages:
            x = compute(stage, x, checkpointing=checkpointing)
            outputs.append(x)
        return outputs
