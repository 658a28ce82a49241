"""Whether nothing is left of a fold: trained, validated, and its cases segmented for the stage that takes them."""

from pathlib import Path

from omegaconf import DictConfig

from segplan.dataset import read_splits
from segplan.jobs.fold_states import fold_state
from segplan.jobs.prepare import fold_folder, is_configuration
from segplan.jobs.previous_stage import FOLDER, folds_of_cases
from segplan.preprocessing import StageSegmentations

CASCADE, LOWRES = "3d_cascade_fullres", "3d_lowres"


def is_fold_done(workspace: Path, plan: str, run: str, fold: str) -> bool:
    """Whether a fold is trained and validated, and, of a cascade's first stage, segmented its cases for the second.

    Args:
        workspace: the workspace's folder.
        plan: DATASET/[NAME/]CONFIGURATION.
        run: its name.
        fold: "0", "1", … or "all".
    """
    if fold_state(workspace, plan, run, fold).status != "done":
        return False
    group, _, configuration = plan.rpartition("/")
    folder = workspace / "plan" / group
    if configuration != LOWRES or not (folder / f"{CASCADE}.yaml").is_file():
        return True
    owners = folds_of_cases(read_splits(folder / "splits_final.json"))
    found = StageSegmentations(workspace / "runs" / plan / run / FOLDER / CASCADE)
    return all(found.maker(case) is not None for case, owner in owners.items() if owner == fold)


def is_done_with(config: DictConfig) -> bool:
    """Whether a training is done, by `is_fold_done`, with this very configuration, and is not to be made anew."""
    folder, workspace = fold_folder(config), Path(config.workspace)
    plan = folder.parent.parent.relative_to(workspace / "runs").as_posix()
    if config.get("force") or not is_configuration(folder / "config.yaml", config):
        return False
    return is_fold_done(workspace, plan, str(config.run), str(config.fold))
