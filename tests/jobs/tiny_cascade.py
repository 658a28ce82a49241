"""A workspace with both stages of a tiny cascade: `tiny_run`'s dataset at 1 mm, and at 1.5 mm for the first stage."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tiny_run import make_run, plan_node, write_store

from segplan.jobs.plan_node import labels_of, store_folder
from segplan.jobs.prepare import fold_folder

FIRST, SECOND = "3d_lowres", "3d_cascade_fullres"
SPACING = [1.5, 1.5, 1.5]
BUDGET = (
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=3",
    "trainer.limit_val_batches=1",
    "trainer.precision=32",
)


def make_stage(workspace: Path, stage: str, *overrides: str, regions: bool = False, **values: Any) -> DictConfig:
    """The configuration of a run of one stage; its data and both plans' files are there then.

    Args:
        workspace: a folder.
        stage: FIRST or SECOND.
        overrides: dotted, of `make_run`.
        regions: whether the labels are regions.
        values: `fold` and `run`.
    """
    own = {"configuration": stage, **({"next_stage": SECOND} if stage == FIRST else {"previous_stage": FIRST})}
    if stage == FIRST:
        own["spacing"] = SPACING
    config = make_run(workspace, *BUDGET, *overrides, regions=regions)
    parts = {"plan": own, "configuration": stage, **values}
    if stage == SECOND:
        parts["network"] = {"input_channels": 3}  # the image and two labels
    merged = OmegaConf.merge(config, parts)
    assert isinstance(merged, DictConfig)
    folder = store_folder(workspace, merged.plan)
    if not folder.exists():
        plan = plan_node(False, regions) | {"spacing": own.get("spacing", [1.0, 1.0, 1.0])}
        write_store(folder, labels_of(plan), plan)
    plans = workspace / "plan" / "Dataset999_Tiny"
    second = OmegaConf.create({"plan": {"spacing": [1.0, 1.0, 1.0], "transpose": [0, 1, 2], "previous_stage": FIRST}})
    OmegaConf.save(second, plans / f"{SECOND}.yaml")
    path = fold_folder(merged) / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(merged, path)
    return merged
