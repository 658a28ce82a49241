"""The out-of-fold predictions of trained configurations: gathered over the folds, and of pairs averaged."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from segplan.dataset import Labels, read_splits
from segplan.errors import RunError, StorageError
from segplan.evaluation import CasePair, Member
from segplan.evaluation.pairs import LABELS_ENDING
from segplan.imaging import IMAGE_ENDINGS, Geometry, split_ending
from segplan.inference.npz_probabilities import probabilities_path
from segplan.jobs.console import progress
from segplan.jobs.fold_states import FoldState, fold_states
from segplan.jobs.jobs_table import Compose, next_commands
from segplan.jobs.plan_node import labels_of, store_folder
from segplan.preprocessing import CaseStore, StoredCase

_ORDER = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")  # nnU-Net's: of equal scores the first wins


@dataclass(frozen=True)
class Trained:
    """A configuration whose folds are all trained.

    Args:
        member: the configuration and its folds, as inference.yaml names them.
        labels: the dataset's.
        folder: RUN.
        cases: of each fold, its validation cases.
        store: that holds their references.
    """

    member: Member
    labels: Labels
    folder: Path
    cases: Mapping[int, tuple[str, ...]]
    store: CaseStore

    @property
    def name(self) -> str:
        """The plan without the dataset, for tables."""
        return self.member.plan.partition("/")[2]

    def validation(self, fold: int) -> Path:
        """Where the predictions of a fold's validation cases stand."""
        return self.folder / f"fold_{fold}" / "validation"

    def folder_of(self, identifier: str) -> Path:
        """The validation folder that has the case."""
        return next(self.validation(fold) for fold, cases in self.cases.items() if identifier in cases)

    @property
    def identifiers(self) -> tuple[str, ...]:
        """All cases, sorted."""
        return tuple(sorted(identifier for cases in self.cases.values() for identifier in cases))

    def pairs(self) -> list[CasePair]:
        """Every case's out-of-fold prediction with its reference.

        Raises:
            RunError: a label map is missing.
        """
        found = []
        for identifier in self.identifiers:
            path = _label_map(self.folder_of(identifier), identifier)
            if path is None:
                remedy = f"Make it: segplan train plan={self.member.plan} fold=K mode=validate."
                raise RunError(f"the label map of {identifier} is missing", self.folder_of(identifier), remedy)
            found.append(CasePair(identifier, path, self.store.open(identifier)))
        return found


def find_trained(
    workspace: Path,
    dataset: str,
    run: str,
    configurations: Sequence[str] = (),
    folds: Sequence[int] = (),
    *,
    compose: Compose | None = None,
) -> list[Trained]:
    """The configurations that can be compared.

    Args:
        workspace: the workspace's folder.
        dataset: DATASET, or DATASET/NAME for the plans of one name.
        run: name of the trainings.
        configurations: CONFIGURATION or NAME/CONFIGURATION; none: all of which something is trained.
        folds: none: all of the dataset's.
        compose: gives the training configuration of a plan, for the overrides in the commands that train what is
            missing; None: without overrides.

    Raises:
        RunError: nothing is trained, there is no such fold, or folds are missing; names the commands that train them.
    """
    root, _, name = dataset.partition("/")
    states = [state for state in fold_states(workspace, root) if state.run == run and state.fold.isdigit()]
    if name:
        states = [state for state in states if state.plan.startswith(f"{dataset}/")]
    plans = sorted({state.plan for state in states if state.trained}, key=_rank)
    if configurations:
        known = {state.plan for state in states}
        plans = list(dict.fromkeys(_address(dataset, configuration, known) for configuration in configurations))
    if not plans:
        remedy = "Train first: segplan train plan=DATASET/CONFIGURATION fold=0, and the other folds."
        raise RunError(f"no configuration is trained (run={run})", workspace / "runs" / dataset, remedy)
    of_plans = [state for state in states if state.plan in plans]
    have = sorted({int(state.fold) for state in of_plans})
    if unknown := sorted(set(folds) - set(have)):
        remedy = f"There are {', '.join(map(str, have))}."
        raise RunError(f"there is no fold {unknown[0]}", f"folds of {dataset}", remedy)
    wanted = [state for state in of_plans if not folds or int(state.fold) in folds]
    _refuse_missing([state for state in wanted if not state.trained], plans, workspace, compose)
    return [_trained(workspace, plan, run, [state for state in wanted if state.plan == plan]) for plan in plans]


def check_same_cases(trained: Sequence[Trained]) -> None:
    """Refuse to compare configurations on different cases, or with different labels.

    Raises:
        RunError: names the configuration and a case that it lacks, one whose case is in two folds, or what differs.
    """
    for each in trained:
        if each.labels != trained[0].labels:
            what = f"{each.name} and {trained[0].name} were trained with different labels"
            raise RunError(what, each.folder, "Compare configurations with the same labels: configurations=[…].")
        twice = [one for one, other in zip(each.identifiers, each.identifiers[1:], strict=False) if one == other]
        if twice:
            raise RunError(f"{twice[0]} is a validation case of two folds", each.folder, "Choose folds=[…] apart.")
        differing = sorted(set(each.identifiers) ^ set(trained[0].identifiers))
        if differing:
            what = f"{each.name} and {trained[0].name} have different validation cases ({differing[0]} is in one only)"
            raise RunError(what, each.folder, "Compare configurations with the same folds: configurations=[…].")


def unfinished_folds(trained: Trained, *, probabilities: bool) -> list[int]:
    """The folds whose validation has to be made again: a label map is missing, or a case's probabilities."""
    lacking = []
    for fold, cases in trained.cases.items():
        folder = trained.validation(fold)
        complete = all(_label_map(folder, case) is not None for case in cases)
        if probabilities:
            complete = complete and all(probabilities_path(folder, case) is not None for case in cases)
        if not complete:
            lacking.append(fold)
    return lacking


def probability_bytes(trained: Trained, folds: Sequence[int]) -> int:
    """At most so many bytes do the probabilities of these folds' validation cases take (float32, uncompressed)."""
    voxels = sum(_voxels(trained.store.open(case)) for fold in folds for case in trained.cases[fold])
    return 4 * trained.labels.num_heads * voxels


def validate_again(trained: Trained, folds: Sequence[int], *, probabilities: bool) -> None:
    """Segment the validation cases of folds again with their weights, with the settings that they were trained with.

    Raises:
        SegplanError: what the folds need is not there any more.
    """
    from segplan.jobs.fold_validation import validate_fold
    from segplan.jobs.training_setup import prepare_training

    for fold in folds:
        config = _config(trained.folder / f"fold_{fold}")
        OmegaConf.update(config, "mode", "validate", force_add=True)
        OmegaConf.update(config, "validation.save_probabilities", probabilities, force_add=True)
        OmegaConf.update(config, "force", False, force_add=True)
        print(f"{trained.name} fold {fold}: segmenting {len(trained.cases[fold])} cases again", flush=True)
        validate_fold(prepare_training(config))


def check_room(needed: int, folder: Path) -> None:
    """Print what probabilities will take, and refuse if the disk has no room.

    Raises:
        StorageError: the disk has less.
    """
    free = shutil.disk_usage(folder).free
    print(f"probabilities for ensembles: at most {needed / 1e9:.2f} GB, {free / 1e9:.1f} GB are free", flush=True)
    if needed > free:
        what = f"the probabilities may need {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
        raise StorageError(what, folder, "Free some space, or compare without ensembles: ensembles=false.")


def average_pair(first: Trained, second: Trained, folder: Path) -> list[CasePair]:
    """Write the label maps of two configurations' averaged probabilities; those that are newer than both stay.

    Args:
        first: one configuration.
        second: another one with the same cases.
        folder: for the label maps.

    Returns:
        The label maps with their references.
    """
    from segplan.jobs.ensemble import average_case

    folder.mkdir(parents=True, exist_ok=True)
    pairs = []
    with progress(f"{first.name} + {second.name}", len(first.identifiers)) as advance:
        for identifier in first.identifiers:
            case = first.store.open(identifier)
            sources = [each.folder_of(identifier) for each in (first, second)]
            source = _label_map(sources[0], identifier)
            ending = ".nii.gz" if source is None else source.name.removeprefix(identifier)
            path = folder / f"{identifier}{'.nii.gz' if ending == LABELS_ENDING else ending}"
            if not _is_newer(path, [probabilities_path(place, identifier) for place in sources]):
                geometry = Geometry.from_json(case.properties.geometry)
                average_case(sources, identifier, first.labels, path, geometry, scratch=folder)
            pairs.append(CasePair(identifier, path, case))
            advance()
    return pairs


def _trained(workspace: Path, plan: str, run: str, states: Sequence[FoldState]) -> Trained:
    splits = read_splits((workspace / "plan" / plan).parent / "splits_final.json")
    folds = sorted(int(state.fold) for state in states)
    if folds[-1] >= len(splits):
        what = f"fold {folds[-1]} is trained, and the plan's splits_final.json has {len(splits)} folds"
        raise RunError(what, states[0].folder.parent, "Name the folds to compare: folds=[0,1].")
    config = _config(states[0].folder)
    return Trained(
        Member(plan, run, tuple(folds)),
        labels_of(config.plan),
        states[0].folder.parent,
        {fold: tuple(splits[fold].validation) for fold in folds},
        CaseStore(store_folder(workspace, config.plan)),
    )


def _config(folder: Path) -> DictConfig:
    config = OmegaConf.load(folder / "config.yaml")
    if not isinstance(config, DictConfig):
        raise RunError("is no configuration", folder / "config.yaml", "Train the fold again.")
    return config


def _refuse_missing(
    missing: Sequence[FoldState], plans: Sequence[str], workspace: Path, compose: Compose | None
) -> None:
    if not missing:
        return
    closed = [f"(fold {state.fold} of {state.plan} is {state.status})" for state in missing if not state.command]
    if compose is None:
        commands = [state.command_line for state in missing if state.command]
    else:
        commands = next_commands(missing, workspace, compose)
    words = "; ".join([*commands, *closed])
    noun = "fold is" if len(missing) == 1 else "folds are"
    others = "" if len(plans) == 1 else " Or compare what is there: configurations=[…], folds=[…]."
    raise RunError(f"{len(missing)} {noun} not trained yet", None, f"Train: {words}.{others}")


def _address(dataset: str, configuration: str, known: set[str]) -> str:
    address = configuration if configuration in known else f"{dataset}/{configuration}"
    if address not in known:
        have = ", ".join(sorted(plan.partition("/")[2] for plan in known))
        raise RunError("is no configuration of the dataset", f"configurations: {configuration}", f"There are {have}.")
    return address


def _rank(plan: str) -> tuple[int, str, int]:
    parts = plan.split("/")
    place = _ORDER.index(parts[-1]) if parts[-1] in _ORDER else len(_ORDER)
    return len(parts), "/".join(parts[1:-1]), place


def _label_map(folder: Path, identifier: str) -> Path | None:
    for ending in (*IMAGE_ENDINGS, LABELS_ENDING):
        path = folder / f"{identifier}{ending}"
        if path.is_file() and (ending == LABELS_ENDING or split_ending(path.name)[0] == identifier):
            return path
    return None


def _voxels(case: StoredCase) -> int:
    z, y, x = (int(size) for size in case.properties.shape_before_cropping)
    return z * y * x


def _is_newer(path: Path, sources: Sequence[Path | None]) -> bool:
    if not path.is_file():
        return False
    made = path.stat().st_mtime
    return all(source is not None and source.stat().st_mtime <= made for source in sources)
