"""Network architectures; each is built from plain numbers and named as in nnU-Net's or STU-Net's checkpoints."""

from segplan.networks.parts import set_deep_supervision
from segplan.networks.plain_unet import PlainUNet
from segplan.networks.residual_unet import ResidualUNet
from segplan.networks.stunet import STUNet

__all__ = ["PlainUNet", "ResidualUNet", "STUNet", "set_deep_supervision"]
