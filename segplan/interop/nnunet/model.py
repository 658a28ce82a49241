"""Make a model folder of a trained nnU-Net v2 model."""

from collections.abc import Mapping
from pathlib import Path

from segplan.errors import ModelError
from segplan.imaging import atomic_folder
from segplan.inference.network import load_network
from segplan.interop.nnunet.checkpoint import Checkpoint, read_checkpoint
from segplan.interop.nnunet.plans import SourceConfiguration, read_configuration
from segplan.model_folder import MODEL_FILE, PREVIOUS, ModelFolder, write_model_json, write_weights
from segplan.preprocessing.plan_node import labels_of

_CHECKPOINTS = {"final": "checkpoint_final.pth", "best": "checkpoint_best.pth"}


def find_models(source: Path) -> list[Path]:
    """Trained models (folders TRAINER__PLANS__CONFIGURATION) at or at most three levels below `source`, sorted."""
    if (source / "plans.json").is_file():
        return [source]
    return sorted(
        path.parent for depth in ("*", "*/*", "*/*/*") for path in source.glob(f"{depth}/plans.json") if path.is_file()
    )


def import_model(
    source: Path, target: Path, *, configuration: str | None = None, previous: Path | None = None
) -> ModelFolder:
    """Turn one trained model of nnU-Net v2, with all its folds, into the model folder `target`.

    A cascade takes its first stage along: from beside it in the results folder, or from `previous`.

    Args:
        source: a folder TRAINER__PLANS__CONFIGURATION with plans.json, dataset.json and fold_*/checkpoint_final.pth.
        target: the model folder to make; must not exist, or be empty.
        configuration: the model's, where the folder's name does not end in it.
        previous: a model folder of segplan's or a trained model of nnU-Net's: the cascade's first stage.

    Raises:
        ModelError: a file is missing or damaged, or the model cannot be represented exactly.
        StorageError: the disk is full or the folder cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError("it is there already", target, "Name a new folder, or remove this one.")
    name = source.name.rpartition("__")[2] if configuration is None else configuration
    described = read_configuration(source, name)
    if described.previous_stage is None and previous is not None:
        raise ModelError(f"{name} is no cascade: it has no previous stage", source, "Leave out previous=.")
    with atomic_folder(target) as folder:
        _write(source, described, folder)
        if described.previous_stage is not None:
            _add_previous(source, described.previous_stage, previous, folder / PREVIOUS)
    return ModelFolder.open(target)


def _write(source: Path, described: SourceConfiguration, folder: Path) -> None:
    mirror_axes: dict[str, tuple[int, ...] | None] = {}
    trainers = set()
    for fold_folder in sorted(source.glob("fold_*")):
        for kind, file_name in _CHECKPOINTS.items():
            if (fold_folder / file_name).is_file():
                checkpoint = read_checkpoint(fold_folder / file_name)
                _check_origin(checkpoint, described, fold_folder / file_name)
                fold = fold_folder.name.removeprefix("fold_")
                write_weights(folder, fold, checkpoint.weights, kind)
                mirror_axes[f"{fold_folder.name}/{file_name}"] = checkpoint.mirror_axes
                trainers.add(checkpoint.trainer)
    if not mirror_axes:
        wanted = ", ".join(f"fold_*/{name}" for name in _CHECKPOINTS.values())
        raise ModelError(f"it has no weights ({wanted})", source, "Name a trained model, not a dataset or a plan.")
    write_model_json(
        folder,
        name=f"{described.dataset}/{described.name}",
        plan={**described.plan, "imported_trainer": ", ".join(sorted(trainers))},
        patch_size=described.patch_size,
        network=described.network,
        mirror_axes=_agreed(mirror_axes, source),
    )
    _check_weights(ModelFolder.open(folder), source)


def _check_origin(checkpoint: Checkpoint, described: SourceConfiguration, path: Path) -> None:
    """Configurations may share a network: weights of one would predict nonsense at the spacing of another."""
    trained = checkpoint.configuration
    if trained is not None and trained != described.name:
        raise ModelError(f"it was trained as {trained}, not as {described.name}", path, f"Use configuration={trained}.")
    axes = range(len(described.patch_size))
    if not set(checkpoint.mirror_axes or ()) <= set(axes):
        what = f"it was mirrored along axes {list(checkpoint.mirror_axes or ())}, and there are {list(axes)}"
        raise ModelError(what, path, "It does not belong to this plan: copy the model again.")


def _agreed(mirror_axes: Mapping[str, tuple[int, ...] | None], source: Path) -> tuple[int, ...] | None:
    if len(set(mirror_axes.values())) > 1:
        listed = "; ".join(f"{name}: {axes}" for name, axes in mirror_axes.items())
        raise ModelError(f"its folds were trained with different mirroring ({listed})", source, "Import them apart.")
    return next(iter(mirror_axes.values()))


def _check_weights(model: ModelFolder, source: Path) -> None:
    """Build every network once, strictly: a trainer may have trained another one than the plan describes."""
    for kind in _CHECKPOINTS:
        for fold in model.folds(kind):
            try:
                load_network(model, fold, kind)
            except ModelError as error:
                what = f"fold {fold} does not hold the network that plans.json describes ({error.what})"
                remedy = "Trainers that change the network (BatchNorm, others of your own) cannot be imported."
                raise ModelError(what, source, remedy) from error


def _add_previous(source: Path, stage: str, previous: Path | None, target: Path) -> None:
    if previous is None:
        trainer_and_plans = source.name.rpartition("__")[0]
        previous = source.parent / f"{trainer_and_plans}__{stage}"
        if not (previous / "plans.json").is_file():
            what = f"it is a cascade, and its previous stage {stage} is not beside it ({previous.name})"
            raise ModelError(what, source, "Name it: previous=FOLDER.")
    if previous.is_file() or (previous / MODEL_FILE).is_file():
        _copy_model(ModelFolder.open(previous), target)
    else:
        import_model(previous, target, configuration=stage)
    _check_first_stage(ModelFolder.open(target), ModelFolder.open(target.parent), previous)


def _copy_model(model: ModelFolder, target: Path) -> None:
    """What predicting needs: final weights, or the best where there are no others; a run folder holds much more."""
    kind = model.best_kind
    for name in (MODEL_FILE, *(model.weights_name(fold, kind) for fold in model.select_folds(checkpoint=kind))):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(model.files.read(name))


def _check_first_stage(first: ModelFolder, cascade: ModelFolder, where: Path) -> None:
    """The cascade's network takes one channel a label of its first stage, in the labels' order."""
    stage, own = str(cascade.plan["previous_stage"]), str(first.plan.get("configuration"))
    if own != stage:
        raise ModelError(f"it is a {own}, and the cascade was trained on {stage}", where, "Name that: previous=FOLDER.")
    if labels_of(first.plan) != labels_of(cascade.plan):
        raise ModelError("its labels are not the cascade's", where, "Name the model that the cascade was trained on.")
