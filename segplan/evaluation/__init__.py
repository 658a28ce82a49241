"""Metrics of segmentations against references, and the floor that a per-voxel classifier sets."""

from segplan.evaluation.folder import Evaluation, evaluate_folder, match_cases
from segplan.evaluation.metrics import Counts, Targets, case_metrics, confusion_counts
from segplan.evaluation.renumbering import read_renumbering, renumber
from segplan.evaluation.summary import CaseResult, cases_counted, mean_over_occurring, summarize, write_summary
from segplan.evaluation.voxel_classifier import VoxelClassifier, fit_voxel_classifier

__all__ = [
    "CaseResult",
    "Counts",
    "Evaluation",
    "Targets",
    "VoxelClassifier",
    "case_metrics",
    "cases_counted",
    "confusion_counts",
    "evaluate_folder",
    "fit_voxel_classifier",
    "match_cases",
    "mean_over_occurring",
    "read_renumbering",
    "renumber",
    "summarize",
    "write_summary",
]
