"""Network architectures; each is built from plain numbers and named as in nnU-Net's checkpoints."""

from segplan.networks.plain_unet import PlainUNet
from segplan.networks.residual_unet import ResidualUNet

__all__ = ["PlainUNet", "ResidualUNet"]
