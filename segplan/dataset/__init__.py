"""Raw datasets: layout, dataset.json, labels, checks of the content, and splits."""

from segplan.dataset.checks import check_case, check_classes
from segplan.dataset.description import Description, read_description
from segplan.dataset.grouped_splits import groups_of_cases, make_grouped_splits
from segplan.dataset.labels import Labels
from segplan.dataset.layout import Case, RawDataset, cases_in_folder, open_dataset, scan_dataset
from segplan.dataset.splits import Split, make_splits, read_splits, select_fold, write_splits

__all__ = [
    "Case",
    "Description",
    "Labels",
    "RawDataset",
    "Split",
    "cases_in_folder",
    "check_case",
    "check_classes",
    "groups_of_cases",
    "make_grouped_splits",
    "make_splits",
    "open_dataset",
    "read_description",
    "read_splits",
    "scan_dataset",
    "select_fold",
    "write_splits",
]
