"""What a person asks of a prediction, checked before torch loads: values, cases, folders, settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from segplan.dataset import Case
from segplan.errors import ConfigError, ImageError, SegplanError
from segplan.imaging import label_ending_for, split_ending
from segplan.inference.inputs import find_cases, input_hash
from segplan.inference.probabilities import SUFFIX
from segplan.inference.settings import InferenceSettings
from segplan.model_ensemble import ModelEnsemble

ENTROPY_FOLDER = "entropy"

_ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
_FAST = "fast"


@dataclass(frozen=True)
class Request:
    """The cases of a prediction and the files that each becomes.

    Args:
        cases: this job's share.
        output: the folder for them.
        probabilities: False, True (a store in pieces), or "npz" (nnU-Net's file).
        entropy: a map of it too.
        previous: of a cascade, the label map of its first stage by case; None: it runs that itself.
    """

    cases: tuple[Case, ...]
    output: Path
    probabilities: bool | str = False
    entropy: bool = False
    previous: dict[str, Path] | None = None

    def outputs(self, case: Case) -> dict[str, str]:
        """The names of the files and folders within the output folder, by what they are."""
        name = case.identifier
        names = {"labels": output_name(case)}
        if self.probabilities:
            names["probabilities"] = f"{name}.npz" if self.probabilities == "npz" else f"{name}{SUFFIX}"
        return names | ({"entropy": f"{ENTROPY_FOLDER}/{name}.nii.gz"} if self.entropy else {})

    def input_hash(self, case: Case) -> str:
        """Changes when a file that the case is made from is replaced."""
        return input_hash(case, () if self.previous is None else (self.previous[case.identifier],))


def request_of(config: DictConfig, ensemble: ModelEnsemble) -> Request:
    """What is asked for; no image is opened.

    Raises:
        ConfigError: input or output are missing or cannot work, or a previous stage's label map is missing.
    """
    if len(ensemble.members) > 1 and config.inference.mode == _FAST:
        what = "makes labels only, and an ensemble averages probabilities"
        raise ConfigError(what, f"inference.mode={_FAST}", "Leave it out, or predict with one model.")
    output = _output_folder(config)
    first = ensemble.first
    found = find_cases(plain(config.input), str(first.plan.get("file_ending", "")), len(first.plan["normalization"]))
    for case in found:
        if any(path.parent.resolve() == output.resolve() for path in case.images):
            raise ConfigError("is the folder of the images", f"output={output}", "Write to another folder.")
    cases = tuple(found[config.shard :: config.num_shards])
    previous = None if config.previous_stage is None else _previous(config, ensemble, cases)
    return Request(cases, output, config.save_probabilities, bool(config.save_entropy), previous)


def settings_of(node: DictConfig) -> InferenceSettings:
    """The settings in an `inference` node."""
    values = plain(node)
    if not isinstance(values["mirror"], bool):
        axes = values["mirror"]
        if not isinstance(axes, list) or not all(_is_whole(axis, 0) for axis in axes):
            raise ConfigError("must be true, false or a list of axes", _said("inference.mirror", axes), "Use true.")
        values["mirror"] = tuple(axes)
    return InferenceSettings(**values)


def output_name(case: Case) -> str:
    """File name of a case's label map: its name and its image's ending, or one that can be written (JPEG, DICOM)."""
    return case.identifier + label_ending_for(case.images[0])


def known_name(case: Case) -> str:
    """As `output_name`, and the case's name where a listed file is no image: it fails when it is read."""
    try:
        return output_name(case)
    except SegplanError:
        return case.identifier


def check_values(config: DictConfig) -> None:
    """Refuse values that no prediction can work with, before anything is read.

    Raises:
        ConfigError: names the key.
    """
    shard, num_shards, workers = config.shard, config.num_shards, config.num_workers
    if not _is_whole(num_shards, 1):
        raise ConfigError("must be a whole number from 1", _said("num_shards", num_shards), "Use 1 for a single job.")
    if not _is_whole(shard, 0) or shard >= num_shards:
        where = f"{_said('shard', shard)} num_shards={num_shards}"
        raise ConfigError(f"shard must be 0 to {num_shards - 1}", where, "Shards count from 0.")
    if workers != "auto" and not _is_whole(workers, 0):
        raise ConfigError("must be auto or a whole number", _said("num_workers", workers), "Use auto.")
    folds = plain(config.folds)
    for fold in [] if folds is None else folds if isinstance(folds, list) else [folds]:
        if not _is_whole(fold, 0) and not (isinstance(fold, str) and (fold.isdigit() or fold == "all")):
            remedy = "Give folds=0, folds=[0,1], folds=all, or leave it out for every fold that has weights."
            raise ConfigError(f"{fold} is no fold", _said("folds", folds), remedy)
    _check_device(config.trainer)
    _check_outputs(config)


def plain(value: Any) -> Any:
    """The value without OmegaConf's types."""
    return OmegaConf.to_container(value, resolve=True) if isinstance(value, DictConfig | ListConfig) else value


def _check_device(trainer: DictConfig) -> None:
    if trainer.accelerator not in _ACCELERATORS:
        remedy = f"Use {', '.join(_ACCELERATORS)}."
        raise ConfigError("is unknown", _said("trainer.accelerator", trainer.accelerator), remedy)
    if trainer.devices not in (1, "1", "auto"):
        remedy = (
            "Use a number or a list, such as 2 or [0,1], and leave out shard= and num_shards=; or 1 for each shard."
        )
        raise ConfigError("cannot be shared among devices like this", _said("trainer.devices", trainer.devices), remedy)


def _check_outputs(config: DictConfig) -> None:
    asked = config.save_probabilities
    if not isinstance(asked, bool) and asked != "npz":
        raise ConfigError("must be true, false or npz", _said("save_probabilities", asked), "Use true.")
    if config.inference.mode == _FAST and (asked or config.save_entropy):
        key = "save_probabilities" if asked else "save_entropy"
        raise ConfigError(
            "makes labels only", f"inference.mode={_FAST} {key}={asked or True}", "Leave out one of them."
        )


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _said(key: str, value: Any) -> str:
    return f"{key}={'null' if value is None else value}"


def _output_folder(config: DictConfig) -> Path:
    if config.output is None or config.input is None:
        missing = "input" if config.input is None else "output"
        raise ConfigError(f"{missing}= is missing", remedy="Give input=FILE_OR_FOLDER and output=FOLDER.")
    output = Path(str(config.output))
    if output.exists() and not output.is_dir():
        raise ConfigError("is a file", f"output={output}", "Name a folder.")
    return output


def _previous(config: DictConfig, ensemble: ModelEnsemble, cases: Sequence[Case]) -> dict[str, Path]:
    folder, where = Path(str(config.previous_stage)), f"previous_stage={config.previous_stage}"
    plans = [member.model.plan for member in ensemble.members]
    stages = {str(plan["previous_stage"]) for plan in plans if plan.get("previous_stage")}
    if not stages:
        raise ConfigError(
            f"{ensemble.name} is no cascade: it has no previous stage", where, "Leave out previous_stage=."
        )
    if len(stages) > 1:
        what = f"the members have different previous stages ({', '.join(sorted(stages))})"
        raise ConfigError(what, where, "Leave out previous_stage=: each runs its own.")
    if not folder.is_dir():
        raise ConfigError("there is no such folder", where, "Name the folder of the previous stage's label maps.")
    found = {_stem(path): path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."}
    missing = [case.identifier for case in cases if case.identifier not in found]
    if missing:
        listed = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        what = f"lacks the label maps of {len(missing)} of {len(cases)} cases ({listed})"
        raise ConfigError(what, where, "Predict them with the previous stage, or leave out previous_stage=.")
    return {case.identifier: found[case.identifier] for case in cases}


def _stem(path: Path) -> str:
    try:
        return split_ending(path.name)[0]
    except ImageError:
        return ""  # no image: predict.json, say
