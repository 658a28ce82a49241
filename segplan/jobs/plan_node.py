"""Read the `plan` node of a configuration: labels, preprocessing, and where its data stand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segplan.dataset import Labels
from segplan.errors import PlanError
from segplan.planning import SCHEMA_VERSION
from segplan.preprocessing import PreprocessingPlan, location_keys, plan_node


def labels_of(plan: Mapping[str, Any] | DictConfig) -> Labels:
    """The label definition in a `plan` node."""
    return plan_node.labels_of(_plain(plan))


def preprocessing_of(plan: Mapping[str, Any] | DictConfig) -> PreprocessingPlan:
    """What preprocessing depends on, in a `plan` node; for images of any spacing."""
    return plan_node.preprocessing_of(_plain(plan))


def store_folder(workspace: Path, plan: Mapping[str, Any] | DictConfig) -> Path:
    """The case store of a `plan` node's training data.

    A 2D configuration keeps each case's own spacing across slices. Where that is the same in all cases and the 3D
    configuration has it too, both make the same arrays, so they share one folder.
    """
    node = _plain(plan)
    preprocessing = preprocessing_of(node | {"spacing": [_first_spacing(node), *node["spacing"][1:]]})
    labels = labels_of(node)
    # Label maps hold indices, and voxels are listed class by class: other labels make other data.
    classes = f"{labels.all_labels} {labels.ignore} {' '.join(location_keys(labels))}"
    return workspace / "preprocessed" / str(node["dataset"]) / preprocessing.identifier(classes)


def check_plan(plan: Mapping[str, Any] | DictConfig, address: str) -> None:
    """Refuse a plan that this version does not understand, or whose files were planned at different times.

    Args:
        plan: the `plan` node.
        address: DATASET/[NAME/]CONFIGURATION, for the message.

    Raises:
        PlanError: as said.
    """
    node = _plain(plan)
    check_schema(node, address)
    planned_from, shared = node.get("planned_from"), node.get("fingerprint")
    if planned_from is not None and shared is not None and planned_from != shared:
        what = f"was planned from the fingerprint {planned_from}, the _dataset.yaml beside it from {shared}"
        remedy = (
            "Plan again; in a file of your own or an edited one take over what has changed, plan.planned_from included."
        )
        raise PlanError(what, address, remedy)


def check_schema(node: Mapping[str, Any], address: str) -> None:
    """Refuse a `plan` node of a version that this segplan does not read.

    Raises:
        PlanError: as said.
    """
    version = node.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        what = f"has the schema version {version}, this segplan reads {SCHEMA_VERSION}"
        raise PlanError(what, address, "Plan again, or use the version of segplan that the file's header names.")


def _first_spacing(node: Mapping[str, Any]) -> float | None:
    own = node["spacing"][0]
    return node.get("common_slice_spacing") if own is None else own


def _plain(node: Mapping[str, Any] | DictConfig) -> dict[str, Any]:
    if isinstance(node, DictConfig):
        container = OmegaConf.to_container(node, resolve=True)
        return dict(container) if isinstance(container, dict) else {}  # type: ignore[arg-type]
    return dict(node)
