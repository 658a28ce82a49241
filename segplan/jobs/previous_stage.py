"""The first stage of a cascade, as the second one's training sees it: which of its folds segmented which case."""

import json
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from omegaconf import DictConfig

from segplan.dataset import Labels, Split, read_splits
from segplan.errors import PlanError, StoreError
from segplan.imaging import atomic_write
from segplan.jobs.console import workspace_word
from segplan.jobs.plan_node import labels_of
from segplan.model_folder import MODEL_FILE, ModelFolder
from segplan.preprocessing import StageSegmentations

FOLDER = "predicted_next_stage"
"""Folder of a run that holds its segmentations for the configurations that take them as an input."""


@dataclass(frozen=True)
class PreviousStage:
    """The run whose segmentations are inputs of a configuration.

    Args:
        workspace: where it was trained.
        address: DATASET/[NAME/]CONFIGURATION of the first stage.
        run: its run.
        taker: the configuration that takes its segmentations.
        fold_of: for each case the fold of the first stage that validates with it, and so did not train on it.
    """

    workspace: Path
    address: str
    run: str
    taker: str
    fold_of: Mapping[str, str]

    @property
    def run_folder(self) -> Path:
        """The first stage's run, a model folder."""
        return self.workspace / "runs" / self.address / self.run

    @property
    def segmentations(self) -> StageSegmentations:
        """What it made of the cases, on the grid of the configuration that takes them."""
        return StageSegmentations(self.run_folder / FOLDER / self.taker)

    @cached_property
    def weights(self) -> dict[str, str]:
        """Of each fold the hash of the weights that made its segmentations; of none made yet nothing."""
        found: dict[str, set[str]] = {}
        for case, fold in self.fold_of.items():
            if (maker := self.segmentations.maker(case)) is not None:
                found.setdefault(fold, set()).add(maker.weights)
        return {fold: "+".join(sorted(hashes)) for fold, hashes in sorted(found.items())}

    def check(self, cases: Iterable[str], labels: Labels) -> None:
        """Refuse to train on what is not there.

        Args:
            cases: all cases of the fold that is to be trained.
            labels: of the second stage.

        Raises:
            StoreError: cases have no segmentation by the fold's present weights; names the commands that make them.
            PlanError: the first stage was trained for other labels.
        """
        wanted = sorted(set(cases))
        if homeless := [case for case in wanted if case not in self.fold_of]:
            what = f"{len(homeless)} cases ({', '.join(homeless[:3])}) are in no fold's val list in splits_final.json"
            remedy = f"Put each case into one: a fold of {self.address} that did not train on it must segment it."
            raise StoreError(what, self.address, remedy)
        present = {fold: weights_hash(self.run_folder, fold) for fold in {self.fold_of[case] for case in wanted}}
        missing = [case for case in wanted if not self._is_made(case, present[self.fold_of[case]])]
        if missing:
            folds = sorted({self.fold_of[case] for case in missing}, key=int)
            what = (
                f"{len(missing)} of {len(wanted)} cases ({', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}) "
                f"have no segmentation by the fold of {self.address}, run {self.run}, that did not train on them"
            )
            remedy = f"Make them: {' && '.join(self._commands(folds))}; or all in one: {self._chain()}"
            raise StoreError(what, self.segmentations.folder, remedy)
        if (self.run_folder / MODEL_FILE).is_file() and labels_of(ModelFolder.open(self.run_folder).plan) != labels:
            what = f"{self.address}, run {self.run}, was trained for other labels"
            raise PlanError(what, self.run_folder, "Train it again.")

    def take_along(self, target: Path) -> None:
        """Copy the first stage as a model folder to `target`, with the folds whose segmentations are trained on.

        A fold whose weights are not there any more is left out.
        """
        if not (self.run_folder / MODEL_FILE).is_file():
            return
        names = [ModelFolder.open(self.run_folder).weights_name(fold) for fold in self.weights]
        for name in (*(name for name in names if (self.run_folder / name).is_file()), MODEL_FILE):
            if not _same(self.run_folder / name, target / name):
                with atomic_write(target / name) as temporary:
                    shutil.copyfile(self.run_folder / name, temporary)

    def _is_made(self, case: str, weights: str | None) -> bool:
        maker = self.segmentations.maker(case)
        return maker is not None and maker.fold == self.fold_of[case] and weights in (None, maker.weights)

    def _commands(self, folds: Sequence[str]) -> list[str]:
        """The commands that train folds, or go on with those that have begun, whatever they were begun with."""
        new = [fold for fold in folds if not self._config(fold).is_file()]
        commands = [f"python -m segplan.jobs.train {shlex.quote(str(self._config(f)))}" for f in folds if f not in new]
        if new:
            sweep = ["-m"] if len(new) > 1 else []
            words = [*sweep, f"plan={self.address}", f"fold={','.join(new)}", f"run={self.run}"]
            commands.append(shlex.join(["python", "train.py", *words, *workspace_word(self.workspace)]))
        return commands

    def _chain(self) -> str:
        dataset, _, name = self.address.rpartition("/")[0].partition("/")
        words = [dataset, *([f"name={name}"] if name else []), f"run={self.run}", *workspace_word(self.workspace)]
        return shlex.join(["segplan", "cascade", *words])

    def _config(self, fold: str) -> Path:
        return self.run_folder / f"fold_{fold}" / "config.yaml"


def previous_stage(config: DictConfig) -> PreviousStage | None:
    """The first stage that a configuration names; None unless it is the second of a cascade.

    Raises:
        DatasetError: splits_final.json cannot be read.
    """
    stage = config.plan.get("previous_stage")
    if not stage:
        return None
    parts = [str(config.dataset), *([str(config.plan_name)] if config.plan_name else [])]
    workspace = Path(config.workspace)
    return PreviousStage(
        workspace=workspace,
        address="/".join([*parts, str(stage)]),
        run=str(config.plan.get("previous_stage_run") or "default"),
        taker=str(config.plan.get("configuration") or config.configuration),
        fold_of=folds_of_cases(read_splits(workspace / "plan" / "/".join(parts) / "splits_final.json")),
    )


def folds_of_cases(splits: Sequence[Split]) -> dict[str, str]:
    """For each case the first fold that validates with it; none for a case that every fold trains on."""
    found: dict[str, str] = {}
    for number, split in enumerate(splits):
        for case in split.validation:
            if case not in split.train:
                found.setdefault(case, str(number))
    return found


def weights_hash(run: Path, fold: str) -> str | None:
    """A hash of the final weights of a fold of the model folder `run`; None where there are none."""
    if not (run / MODEL_FILE).is_file():
        return None
    model = ModelFolder.open(run)
    name = model.weights_name(fold)
    return model.files.digest(name).hex()[:32] if model.files.has(name) else None


def _same(one: Path, other: Path) -> bool:
    if not other.is_file() or one.stat().st_size != other.stat().st_size:
        return False
    if one.suffix == ".json":
        return bool(json.loads(one.read_bytes()) == json.loads(other.read_bytes()))
    return one.read_bytes() == other.read_bytes()
