"""Metrics of segmentations against references, postprocessing, selection, and a per-voxel classifier as a floor."""

from segplan.evaluation.comparison import bootstrap_interval, holm, paired_p_value, score_of, scores_of_cases
from segplan.evaluation.components import Components, find_components, remove_components
from segplan.evaluation.folder import Evaluation, evaluate_folder, match_cases
from segplan.evaluation.metrics import Counts, Targets, case_metrics, confusion_counts
from segplan.evaluation.pairs import CasePair, read_labels, score_pairs
from segplan.evaluation.postprocessing import Step, apply_postprocessing, parse_steps
from segplan.evaluation.postprocessing_choice import (
    PostprocessingChoice,
    choose_postprocessing,
    choose_small_components,
    score_trials,
)
from segplan.evaluation.renumbering import read_renumbering, renumber
from segplan.evaluation.selection_file import Member, Selection, read_selection, write_selection
from segplan.evaluation.spatial_metrics import GROUPS, LOWER_IS_BETTER, MetricSettings, spatial_metrics
from segplan.evaluation.summary import (
    CaseResult,
    cases_counted,
    mean_over_occurring,
    summarize,
    write_csv,
    write_summary,
)
from segplan.evaluation.voxel_classifier import VoxelClassifier, fit_voxel_classifier

__all__ = [
    "GROUPS",
    "LOWER_IS_BETTER",
    "CasePair",
    "CaseResult",
    "Components",
    "Counts",
    "Evaluation",
    "Member",
    "MetricSettings",
    "PostprocessingChoice",
    "Selection",
    "Step",
    "Targets",
    "VoxelClassifier",
    "apply_postprocessing",
    "bootstrap_interval",
    "case_metrics",
    "cases_counted",
    "choose_postprocessing",
    "choose_small_components",
    "confusion_counts",
    "evaluate_folder",
    "find_components",
    "fit_voxel_classifier",
    "holm",
    "match_cases",
    "mean_over_occurring",
    "paired_p_value",
    "parse_steps",
    "read_labels",
    "read_renumbering",
    "read_selection",
    "remove_components",
    "renumber",
    "score_of",
    "score_pairs",
    "score_trials",
    "scores_of_cases",
    "spatial_metrics",
    "summarize",
    "write_csv",
    "write_selection",
    "write_summary",
]
