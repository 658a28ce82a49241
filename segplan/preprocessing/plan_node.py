"""Read labels and preprocessing from a plan node: a model folder's, or the `plan` node of a configuration."""

from collections.abc import Mapping
from typing import Any

from segplan.dataset import Labels
from segplan.preprocessing.plan import PreprocessingPlan


def labels_of(node: Mapping[str, Any]) -> Labels:
    """The label definition of a plan node."""
    return Labels.from_json({"labels": node["labels"], "regions_class_order": node.get("regions_class_order")})


def preprocessing_of(node: Mapping[str, Any]) -> PreprocessingPlan:
    """What preprocessing depends on, in a plan node; for images of any spacing."""
    return PreprocessingPlan.from_json({**node, "use_mask": node.get("use_mask_for_norm")})
