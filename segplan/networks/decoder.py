"""The decoder that every U-Net of segplan has: transposed convolutions up, one head a resolution."""

from collections.abc import Sequence

from torch import Tensor, nn

from segplan.networks.blocks import CONV, TRANSPOSED_CONV, ConvStack
from segplan.networks.checkpointing import Join, compute


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

    def forward(self, skips: list[Tensor], heads: int, *, checkpointing: bool = False) -> list[Tensor]:
        """Return the logits of the `heads` highest resolutions, highest first, from the encoder's outputs `skips`."""
        x = skips[-1]
        logits: list[Tensor] = []
        lowest = len(self.stages) - heads
        for depth, (up, stage, head) in enumerate(zip(self.transpconvs, self.stages, self.seg_layers, strict=True)):
            x = compute(Join(up, stage), x, skips[-2 - depth], checkpointing=checkpointing)
            if depth >= lowest:
                logits.append(head(x))
        return logits[::-1]
