"""Augmentation of patches: transforms that sample parameters first and apply them second, and their pipeline."""

from segplan.augmentation.blur import GaussianBlur
from segplan.augmentation.brightness import Brightness
from segplan.augmentation.build import build_pipeline, plain_pipeline
from segplan.augmentation.contrast import Contrast
from segplan.augmentation.gamma import Gamma
from segplan.augmentation.low_resolution import LowResolution
from segplan.augmentation.mirror import Mirror
from segplan.augmentation.noise import GaussianNoise
from segplan.augmentation.patch_geometry import Box3, initial_patch_size
from segplan.augmentation.pipeline import Params, Pipeline
from segplan.augmentation.spatial import Spatial
from segplan.augmentation.torchio_bridge import TorchioTransform
from segplan.augmentation.transform import Context, Transform

__all__ = [
    "Box3",
    "Brightness",
    "Context",
    "Contrast",
    "Gamma",
    "GaussianBlur",
    "GaussianNoise",
    "LowResolution",
    "Mirror",
    "Params",
    "Pipeline",
    "Spatial",
    "TorchioTransform",
    "Transform",
    "build_pipeline",
    "initial_patch_size",
    "plain_pipeline",
]
