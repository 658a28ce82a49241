"""The plain U-Net of nnU-Net: strided convolutions down, transposed convolutions up, one head a resolution.

Parameter names are nnU-Net's, each once (nnU-Net's state dict repeats every one under further names).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segplan.errors import ConfigError
from segplan.networks.blocks import CONV, NEGATIVE_SLOPE, TRANSPOSED_CONV, ConvStack


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

    Raises:
        ConfigError: the three lists differ in length, or a stride or kernel has the wrong number of axes.
    """

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
    ) -> None:
        super().__init__()
        _check_topology(features, strides, kernel_sizes)
        self.deep_supervision = deep_supervision
        self.strides = tuple(tuple(int(step) for step in stride) for stride in strides)
        self.encoder = Encoder(input_channels, features, strides, kernel_sizes, convs_per_stage)
        self.decoder = Decoder(num_classes, features, strides, kernel_sizes, convs_per_stage_decoder)
        self.apply(initialize)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Map an image (B, C, *spatial) to logits (B, K, *spatial); with deep supervision to a list, highest first."""
        heads = len(self.strides) - 1 if self.deep_supervision else 1
        logits: list[Tensor] = self.decoder(self.encoder(x), heads)
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

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the output of every stage, highest resolution first."""
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


class Decoder(nn.Module):
    """Upsample, join the skip, convolve, from the lowest resolution up. Arguments as in `PlainUNet`."""

    def __init__(
        self,
        num_classes: int,
        features: Sequence[int],
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        convs_per_stage: int,
    ) -> None:
        super().__init__()
        conv, transposed_conv = CONV[len(strides[0])], TRANSPOSED_CONV[len(strides[0])]
        self.transpconvs = nn.ModuleList()
        self.stages = nn.ModuleList()
        self.seg_layers = nn.ModuleList()
        for skip in reversed(range(len(features) - 1)):
            stride = tuple(strides[skip + 1])
            width = features[skip]
            self.transpconvs.append(transposed_conv(features[skip + 1], width, stride, stride))  # type: ignore[arg-type]
            self.stages.append(ConvStack(convs_per_stage, 2 * width, width, kernel_sizes[skip]))
            self.seg_layers.append(conv(width, num_classes, 1))

    def forward(self, skips: list[Tensor], heads: int) -> list[Tensor]:
        """Return the logits of the `heads` highest resolutions, highest first, from the encoder's outputs `skips`."""
        x = skips[-1]
        logits: list[Tensor] = []
        lowest = len(self.stages) - heads
        for depth, (up, stage, head) in enumerate(zip(self.transpconvs, self.stages, self.seg_layers, strict=True)):
            x = stage(torch.cat((up(x), skips[-2 - depth]), dim=1))
            if depth >= lowest:
                logits.append(head(x))
        return logits[::-1]


def initialize(module: nn.Module) -> None:
    """He-normal weights for the leaky slope, fan-in (torch's: weight axis 1), and zero biases (He et al., 2015)."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_topology(
    features: Sequence[int], strides: Sequence[Sequence[int]], kernel_sizes: Sequence[Sequence[int]]
) -> None:
    stages = len(features)
    if stages < 2 or len(strides) != stages or len(kernel_sizes) != stages:
        raise ConfigError(
            f"network.features, strides and kernel_sizes have {stages}, {len(strides)} and {len(kernel_sizes)} entries",
            remedy="Give each one entry a stage, for at least 2 stages.",
        )
    axes = len(strides[0])
    if axes not in CONV or any(len(entry) != axes for entry in (*strides, *kernel_sizes)):
        raise ConfigError(
            "entries of network.strides and network.kernel_sizes differ in their number of axes",
            remedy="Give 2 numbers each for a 2D network, 3 for a 3D one.",
        )
    if any(step != 1 for step in strides[0]):
        remedy = "The first stage must not downsample: use ones."
        raise ConfigError(f"is {list(strides[0])}", "network.strides[0]", remedy)
