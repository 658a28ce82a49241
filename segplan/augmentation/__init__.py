"""Augmentation of patches: transforms that sample parameters first and apply them second, and their pipeline."""

from segplan.augmentation.batch import Source
from segplan.augmentation.bias_field import BiasField
from segplan.augmentation.blank_rectangles import BlankRectangles
from segplan.augmentation.blur import GaussianBlur
from segplan.augmentation.brightness import Brightness
from segplan.augmentation.brightness_gradient import BrightnessGradient
from segplan.augmentation.brightness_shift import BrightnessShift
from segplan.augmentation.build import build_pipeline, plain_pipeline
from segplan.augmentation.cascade import CascadeMorphology, CascadeRemoveComponent
from segplan.augmentation.contrast import Contrast
from segplan.augmentation.gamma import Gamma
from segplan.augmentation.local_gamma import LocalGamma
from segplan.augmentation.low_resolution import LowResolution
from segplan.augmentation.median_filter import MedianFilter
from segplan.augmentation.mirror import Mirror
from segplan.augmentation.noise import GaussianNoise
from segplan.augmentation.one_of import OneOf
from segplan.augmentation.patch_geometry import Box3, initial_patch_size
from segplan.augmentation.pipeline import Params, Pipeline
from segplan.augmentation.rotate90 import Rotate90
from segplan.augmentation.sharpen import Sharpen
from segplan.augmentation.spatial import Spatial
from segplan.augmentation.torchio_bridge import TorchioTransform
from segplan.augmentation.transform import Context, Transform
from segplan.augmentation.transpose import Transpose

__all__ = [
    "BiasField",
    "BlankRectangles",
    "Box3",
    "Brightness",
    "BrightnessGradient",
    "BrightnessShift",
    "CascadeMorphology",
    "CascadeRemoveComponent",
    "Context",
    "Contrast",
    "Gamma",
    "GaussianBlur",
    "GaussianNoise",
    "LocalGamma",
    "LowResolution",
    "MedianFilter",
    "Mirror",
    "OneOf",
    "Params",
    "Pipeline",
    "Rotate90",
    "Sharpen",
    "Source",
    "Spatial",
    "TorchioTransform",
    "Transform",
    "Transpose",
    "build_pipeline",
    "initial_patch_size",
    "plain_pipeline",
]
