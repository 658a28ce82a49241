"""Preprocessing in the order of nnU-Net's first version, which STU-Net's published weights were trained by."""

import dataclasses

from segplan.imaging import Image
from segplan.preprocessing import PreprocessedCase, PreprocessingPlan, preprocess
from segplan.preprocessing.normalize import normalize_channel


def preprocess_resampled_first(image: Image, plan: PreprocessingPlan) -> PreprocessedCase:
    """The image on the network's grid: cropped and resampled, then normalised over all of it, without a mask.

    Raises:
        ImageError: the image does not fit the plan.
    """
    channels = len(plan.normalization)
    raw = dataclasses.replace(plan, normalization=("none",) * channels, use_mask=(False,) * channels)
    case = preprocess(image, None, raw)
    for channel, scheme, known in zip(case.image, plan.normalization, plan.intensities, strict=True):
        normalize_channel(channel, scheme, None, known)
    return case
