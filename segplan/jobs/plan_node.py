"""Read the `plan` node of a configuration: labels, preprocessing, and where its data stand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segplan.dataset import Labels
from segplan.preprocessing import PreprocessingPlan, plan_node


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
    return workspace / "preprocessed" / str(node["dataset"]) / preprocessing.identifier()


def _first_spacing(node: Mapping[str, Any]) -> float | None:
    own = node["spacing"][0]
    return node.get("common_slice_spacing") if own is None else own


def _plain(node: Mapping[str, Any] | DictConfig) -> dict[str, Any]:
    if isinstance(node, DictConfig):
        container = OmegaConf.to_container(node, resolve=True)
        return dict(container) if isinstance(container, dict) else {}  # type: ignore[arg-type]
    return dict(node)
