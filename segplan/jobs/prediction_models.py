"""Which models a prediction means: a model folder or zip, a run of the workspace, or what a selection chose."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from segplan.errors import ConfigError, ModelError
from segplan.model_ensemble import Member, ModelEnsemble
from segplan.model_folder import MODEL_FILE, PREVIOUS, ModelFolder


def models_of(config: DictConfig) -> ModelEnsemble:
    """The models that `model=`, `plan=` or `inference=FILE.yaml` names; nothing is loaded yet.

    Raises:
        ConfigError: none or several of them are given, or the file cannot be used.
        ModelError: there is no such model, or it lacks a fold.
    """
    named = [key for key in ("model", "plan", "selection") if config[key] is not None]
    if len(named) != 1:
        what = "say which model: plan=DATASET/CONFIGURATION (trained in this workspace), model=FOLDER_OR_ZIP, or "
        raise ConfigError(
            f"{what}inference=FILE.yaml (of segplan select)", remedy="Give one of them." if named else None
        )
    workspace = Path(str(config.workspace))
    folds: Any = OmegaConf.to_object(config.folds) if isinstance(config.folds, ListConfig) else config.folds
    if config.selection is not None:
        if folds is not None:
            raise ConfigError(
                "a selection names the folds itself", f"folds={folds}", "Leave out folds=, or edit the file."
            )
        return ensemble_of_file(Path(str(config.selection)), workspace)
    if config.model is not None:
        return ModelEnsemble.open(str(config.model), folds, config.checkpoint)
    return ModelEnsemble.open(run_folder(str(config.plan), str(config.run), workspace), folds, config.checkpoint)


def ensemble_of_file(path: Path, workspace: Path | None) -> ModelEnsemble:
    """The ensemble that a file of `segplan select` describes, out of the workspace's runs.

    Raises:
        ConfigError: the file cannot be used.
        ModelError: a member is not trained, lacks a fold, or does not fit the others.
    """
    from segplan.evaluation.selection_file import read_selection

    selection = read_selection(path)
    members = []
    for each in selection.members:
        model = ModelFolder.open(run_folder(each.plan, each.run, workspace or Path("workspace")))
        members.append(Member(model, model.select_folds(list(each.folds), each.checkpoint), each.checkpoint))
    if changed := [member.described for member in members if _is_newer(member, path)]:
        again = f"segplan select {selection.members[0].plan.rpartition('/')[0]} decides anew"
        print(f"note: trained again since {path} was written: {', '.join(changed)}; {again}", flush=True)
    return ModelEnsemble(path, tuple(members), tuple(step.to_json() for step in selection.postprocessing))


def run_folder(plan: str, run: str, workspace: Path) -> Path:
    """The folder of a training, which is a model folder.

    Raises:
        ModelError: nothing is trained there; says what is.
    """
    runs = workspace / "runs"
    path = runs / plan / run
    if not (path / MODEL_FILE).is_file():
        folders = (file.parent for file in runs.glob(f"**/{MODEL_FILE}"))
        trained = sorted(str(folder.relative_to(runs)) for folder in folders if folder.name != PREVIOUS)
        known = f"Trained (plan/run): {', '.join(trained)}. " if trained else ""
        command = f"python train.py plan={plan} fold=0 run={run}"
        raise ModelError(f"no trained model of plan {plan}, run {run}", path, f"{known}Train: {command}")
    return path


def _is_newer(member: Member, selection: Path) -> bool:
    """Whether weights were written after the selection that they were chosen by."""
    made = selection.stat().st_mtime_ns
    files = (member.model.files.place(member.model.weights_name(fold, member.checkpoint)) for fold in member.folds)
    return any(file.stat().st_mtime_ns > made for file in files)


def described(ensemble: ModelEnsemble) -> str:
    """The models in a line, for people."""
    members = " + ".join(member.described for member in ensemble.members)
    return f"model {members}" if len(ensemble.members) == 1 else f"ensemble {members}"


def maker_of(ensemble: ModelEnsemble, settings: dict[str, Any], *, previous_stage: bool) -> dict[str, Any]:
    """What decides the label map of a given image, as predict.json keeps it.

    Args:
        ensemble: the models.
        settings: of the inference, with the precision.
        previous_stage: label maps of a cascade's first stage are given.
    """
    single = len(ensemble.members) == 1
    folds = [list(member.folds) for member in ensemble.members]
    kinds = [member.checkpoint for member in ensemble.members]
    maker = {
        "model": ensemble.name,
        "folds": folds[0] if single else folds,
        "checkpoint": kinds[0] if single else kinds,
        **settings,
        "identity": ensemble.identity(with_previous=not previous_stage),
    }
    if ensemble.postprocessing:
        maker["postprocessing"] = [dict(step) for step in ensemble.postprocessing]
    return maker | ({"previous_stage": "given"} if previous_stage else {})
