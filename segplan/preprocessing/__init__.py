"""Preprocessing: from a case as read to arrays on the network's grid, and the store that holds them."""

from segplan.preprocessing.cascade_cases import CascadeCase, CascadeCases
from segplan.preprocessing.case import OUTSIDE, CaseProperties, PreprocessedCase, preprocess
from segplan.preprocessing.cpus import available_cpus
from segplan.preprocessing.locations import ANNOTATED, foreground_locations, location_keys
from segplan.preprocessing.memory import CaseSize, case_size, describe_bytes, usable_memory
from segplan.preprocessing.plan import NORMALIZATIONS, PreprocessingPlan
from segplan.preprocessing.pool import run_parallel
from segplan.preprocessing.resample import resample_image, resample_labels, resampled_shape, separate_axis
from segplan.preprocessing.stage_segmentations import Maker, StageSegmentations
from segplan.preprocessing.store import CaseStore, StoredCase
from segplan.preprocessing.to_store import preprocess_to_store

__all__ = [
    "ANNOTATED",
    "NORMALIZATIONS",
    "OUTSIDE",
    "CascadeCase",
    "CascadeCases",
    "CaseProperties",
    "CaseSize",
    "CaseStore",
    "Maker",
    "PreprocessedCase",
    "PreprocessingPlan",
    "StageSegmentations",
    "StoredCase",
    "available_cpus",
    "case_size",
    "describe_bytes",
    "foreground_locations",
    "location_keys",
    "preprocess",
    "preprocess_to_store",
    "resample_image",
    "resample_labels",
    "resampled_shape",
    "run_parallel",
    "separate_axis",
    "usable_memory",
]
