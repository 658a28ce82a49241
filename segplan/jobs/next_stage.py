"""What a cascade's first stage leaves for the second: each validation case's labels on the second stage's grid.

Logits are resampled to that grid by the rules of the first stage's own spacing (nnU-Net 2.8.1), so that slices that are
thick at low resolution stay apart, and turned into labels there.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor

from segplan.dataset import read_splits
from segplan.errors import PlanError
from segplan.inference.export import slabs_to_labels
from segplan.jobs.plan_node import preprocessing_of
from segplan.jobs.previous_stage import FOLDER, folds_of_cases, weights_hash
from segplan.jobs.training_setup import TrainingSetup
from segplan.preprocessing import (
    CaseProperties,
    Maker,
    PreprocessingPlan,
    StageSegmentations,
    StoredCase,
    resampled_shape,
)

Slabs = Iterator[Tensor]


@dataclass(frozen=True)
class NextStage:
    """A configuration that takes this one's segmentations as an input.

    Args:
        plan: how its cases are preprocessed.
        segmentations: where it looks for them.
        maker: this fold, as it is now.
        cases: those that this fold is to segment for it.
    """

    plan: PreprocessingPlan
    segmentations: StageSegmentations
    maker: Maker
    cases: frozenset[str]

    @property
    def is_made(self) -> bool:
        """Whether all that this fold is to make is there."""
        return all(self.segmentations.maker(case) == self.maker for case in self.cases)


def next_stages(setup: TrainingSetup) -> list[NextStage]:
    """What the trained fold makes segmentations for: its next stages that are planned.

    Only folds of splits_final.json make any: fold=all has seen every case, and a random split overlaps with others.

    Raises:
        PlanError: the next stage's file was planned differently.
    """
    names = setup.config.plan.get("next_stage") or []
    fold = str(setup.config.fold)
    parts = [str(setup.config.dataset), *([str(setup.config.plan_name)] if setup.config.plan_name else [])]
    folder = Path(setup.config.workspace, "plan", *parts)
    owned = {case for case, owner in folds_of_cases(read_splits(folder / "splits_final.json")).items() if owner == fold}
    cases = frozenset(owned & set(setup.split.validation))
    found = []
    for name in [names] if isinstance(names, str) else names:
        path = folder / f"{name}.yaml"
        if cases and path.is_file():
            address = "/".join([*parts, str(setup.config.configuration)])
            weights = weights_hash(setup.run_folder, fold) or ""
            maker = Maker(address, str(setup.config.run), fold, weights)
            segmentations = StageSegmentations(setup.run_folder / FOLDER / str(name))
            found.append(NextStage(_plan_of(path, setup), segmentations, maker, cases))
    return found


def segmented_for(stages: Sequence[NextStage], setup: TrainingSetup, case: StoredCase, slabs: Slabs) -> Slabs:
    """Pass on the slabs of a case's logits (K, depth, Y, X); once all are through, each of `stages` has its labels."""
    for stage in stages:
        if case.identifier in stage.cases:
            slabs = _also(slabs, case, setup, stage)
    return slabs


def labels_on_grid(
    slabs: Iterator[Any], properties: CaseProperties, setup: TrainingSetup, target: PreprocessingPlan
) -> NDArray[np.unsignedinteger]:
    """Label indices (Z, Y, X) of a case on the grid that `target` preprocesses it to, from slabs of its logits."""
    own = [properties.spacing[axis] for axis in properties.transpose]
    shape = resampled_shape(properties.shape_after_cropping, own, target.target_spacing(properties.spacing))
    z, y, x = shape
    spacing = setup.preprocessing.target_spacing(properties.spacing)
    on_grid = replace(
        properties,
        spacing=spacing,
        shape_before_cropping=shape,
        box=((0, z), (0, y), (0, x)),
        shape_after_cropping=shape,
        transpose=(0, 1, 2),
    )
    plan = replace(setup.preprocessing, spacing=spacing, transpose=(0, 1, 2))
    return slabs_to_labels(slabs, on_grid, plan, setup.labels.indexed)


def _plan_of(path: Path, setup: TrainingSetup) -> PreprocessingPlan:
    node: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    own: Any = OmegaConf.to_container(setup.config.plan, resolve=True)
    given = node.get("plan", {})
    plan = preprocessing_of(own | {key: given[key] for key in ("spacing", "transpose") if key in given})
    if plan.transpose != setup.preprocessing.transpose:
        raise PlanError("the two stages of the cascade have other orders of axes", path, "Plan the dataset again.")
    return plan


def _also(slabs: Slabs, case: StoredCase, setup: TrainingSetup, stage: NextStage) -> Slabs:
    waiting: Queue[Tensor | None] = Queue(maxsize=1)
    stream = iter(waiting.get, None)

    def make() -> NDArray[np.unsignedinteger]:
        try:
            return labels_on_grid(stream, case.properties, setup, stage.plan)
        finally:
            for _ in stream:  # what fails here must not hold up the other
                pass

    with ThreadPoolExecutor(1) as executor:
        made = executor.submit(make)
        try:
            for slab in slabs:
                waiting.put(slab.to("cpu", copy=True))  # whoever takes it next may write on it
                yield slab
        finally:
            waiting.put(None)
        stage.segmentations.write(case.identifier, made.result(), stage.maker)
