"""Network architectures; each is built from plain numbers and named as in nnU-Net's checkpoints."""

from segplan.networks.plain_unet import PlainUNet

__all__ = ["PlainUNet"]
