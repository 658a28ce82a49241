"""Predict: segment images with a trained model and write label maps in the images' geometry and format."""

import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, ListConfig, OmegaConf

import segplan
from segplan.dataset import Case
from segplan.errors import ConfigError, ModelError, SegplanError, StorageError
from segplan.imaging import atomic_write, label_ending_for, write_label_map
from segplan.inference.inputs import find_cases, input_hash
from segplan.inference.records import Record, file_hash, record_files
from segplan.inference.settings import InferenceSettings
from segplan.jobs.console import is_terminal, seconds
from segplan.model_folder import MODEL_FILE, ModelFolder

if TYPE_CHECKING:
    from segplan.inference import Predictor
    from segplan.inference.loop import Segmented

_ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")


def run(config: DictConfig) -> int:
    """Segment the cases of `config.input` into `config.output`.

    Keys: see configs/predict.yaml. What the same model and settings have made of the same input is skipped, and what
    somebody has corrected since is kept.

    Returns:
        0; 1 if some cases failed; 2 if all did, by their user's fault.

    Raises:
        ModelError: there is no such model, or it lacks a fold.
        ConfigError: an input, output or setting cannot work.
        StorageError: the output cannot be written.
    """
    _check_values(config)
    model = ModelFolder.open(_model_path(config))
    folds = model.select_folds(_plain(config.folds), config.checkpoint)
    settings = settings_of(config.inference)
    output = _output_folder(config)
    cases = _cases(config, model, output)
    maker = _maker(model, folds, settings, config)
    record = Record.open(output, maker, shard=config.shard, num_shards=config.num_shards, force=bool(config.force))
    left = _left_to_do(cases, record, config)
    if not left:
        print(
            f"Nothing to do: {_count(len(cases))} already in {output}, by this model and settings (force=true redoes)."
        )
        return 0
    predictor = _load(model, folds, settings, config)
    work = _Work(record, config, len(cases) - len(left), predictor)
    work.announce(len(left), folds)
    from segplan.inference.loop import predict_cases

    predict_cases(
        predictor,
        left,
        work.handle,
        _plain(config.trainer) | {"accelerator": predictor.device.type, "devices": 1, "precision": "32-true"},
        probabilities=bool(config.save_probabilities),
        read_ahead=1 if config.num_workers == "auto" else max(1, int(config.num_workers)),
    )
    return work.finish()


def settings_of(node: DictConfig) -> InferenceSettings:
    """The settings in an `inference` node."""
    values = _plain(node)
    if not isinstance(values["mirror"], bool):
        axes = values["mirror"]
        if not isinstance(axes, list) or not all(_is_whole(axis, 0) for axis in axes):
            raise ConfigError("must be true, false or a list of axes", _said("inference.mirror", axes), "Use true.")
        values["mirror"] = tuple(axes)
    return InferenceSettings(**values)


@dataclass
class _Work:
    """Writes results as they come, and keeps the record up to date."""

    record: Record
    config: DictConfig
    skipped: int
    predictor: "Predictor"
    written: int = 0
    errors: list[Exception] = field(default_factory=list)

    def announce(self, count: int, folds: tuple[str, ...]) -> None:
        device, tiling = self.predictor.device, self.predictor.tiling
        axes = len(tiling.mirror_axes)
        parts = [
            _count(count),
            f"model {self.predictor.model.name} {'folds' if len(folds) > 1 else 'fold'} {', '.join(folds)}",
            f"mirroring {axes} axes" if axes else "no mirroring",
            _device_name(device),
            self.precision,
        ]
        print(" · ".join(parts), flush=True)
        if self.skipped:
            print(f"{_count(self.skipped)} already made by this model and settings: skipped (force=true redoes)")
        if self.config.force:
            self.record.discard_others()
        # Before the first label map: whatever a kill leaves behind is then known to be ours.
        self.record.save(self._about())

    def handle(self, result: "Segmented") -> None:
        name = result.case.identifier
        error, timing, outputs = result.error, dict(result.seconds), {}
        if self.record.cases.pop(name, None) is not None:
            # Else a kill before the next save would leave a file that its entry does not fit: as if somebody edited it.
            self.record.save(self._about())
        if error is None:
            start = time.perf_counter()
            try:
                outputs = self._write(result)
            except (StorageError, OSError):
                raise
            except (SegplanError, ValueError, RuntimeError) as failure:
                error = failure
            timing["write"] = time.perf_counter() - start
        self.record.failed.pop(name, None)
        if error is not None or result.labels is None:
            self.errors.append(error or RuntimeError("no labels"))
            self.record.failed[name] = _message(self.errors[-1])
        else:
            self.written += 1
            self.record.cases[name] = {
                "input": input_hash(result.case),
                "outputs": outputs,
                "shape": list(result.labels.shape),
                "seconds": {stage: round(value, 3) for stage, value in timing.items()},
                "peak_memory_gb": _peak_memory_gb(),
                "precision": self.precision,
            }
            _print_case(name, self.record.cases[name])
        self.record.save(self._about())

    def finish(self) -> int:
        failed = len(self.errors)
        print(f"{self.written} written to {self.record.folder}" + (f", {failed} failed:" if failed else ""))
        for name, message in self.record.failed.items():
            print(f"  {name}  {message}")
        if not failed:
            return 0
        hopeless = not self.written and not self.skipped and all(isinstance(e, SegplanError) for e in self.errors)
        return 2 if hopeless else 1

    @property
    def precision(self) -> str:
        from segplan.inference.precision import precision_name

        return precision_name(self.predictor.tiling.dtype)

    def _write(self, result: "Segmented") -> dict[str, str | None]:
        path = self.record.folder / output_name(result.case)
        if result.labels is None or result.geometry is None:
            raise ValueError("the result is empty")
        paths = [path]
        if result.probabilities is not None:
            paths.append(self.record.folder / f"{result.case.identifier}.npz")
            with atomic_write(paths[-1]) as temporary:
                np.savez_compressed(temporary, probabilities=result.probabilities)
        write_label_map(path, result.labels, result.geometry)
        return {written.name: file_hash(written) for written in paths}

    def _about(self) -> dict[str, Any]:
        import torch

        versions = {"segplan": segplan.__version__, "python": platform.python_version(), "torch": torch.__version__}
        return {"versions": versions | {"numpy": np.__version__}, "device": _device_name(self.predictor.device)}


def output_name(case: Case) -> str:
    """File name of a case's label map: its name and its image's ending, or one that can be written (JPEG, DICOM)."""
    return case.identifier + label_ending_for(case.images[0])


def _check_values(config: DictConfig) -> None:
    """Refuse values that no prediction can work with, before anything is read."""
    shard, num_shards, workers = config.shard, config.num_shards, config.num_workers
    if not _is_whole(num_shards, 1):
        raise ConfigError("must be a whole number from 1", _said("num_shards", num_shards), "Use 1 for a single job.")
    if not _is_whole(shard, 0) or shard >= num_shards:
        where = f"{_said('shard', shard)} num_shards={num_shards}"
        raise ConfigError(f"shard must be 0 to {num_shards - 1}", where, "Shards count from 0.")
    if workers != "auto" and not _is_whole(workers, 0):
        raise ConfigError("must be auto or a whole number", _said("num_workers", workers), "Use auto.")
    folds = _plain(config.folds)
    for fold in [] if folds is None else folds if isinstance(folds, list) else [folds]:
        if not _is_whole(fold, 0) and not (isinstance(fold, str) and (fold.isdigit() or fold == "all")):
            remedy = "Give folds=0, folds=[0,1], folds=all, or leave it out for every fold that has weights."
            raise ConfigError(f"{fold} is no fold", _said("folds", folds), remedy)
    accelerator, devices = config.trainer.accelerator, config.trainer.devices
    if accelerator not in _ACCELERATORS:
        remedy = f"Use {', '.join(_ACCELERATORS)}."
        raise ConfigError("is unknown", _said("trainer.accelerator", accelerator), remedy)
    if devices not in (1, "1", "auto"):
        remedy = "Share the cases: shard=I num_shards=N, a job a device."
        raise ConfigError("prediction uses one device", _said("trainer.devices", devices), remedy)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _said(key: str, value: Any) -> str:
    return f"{key}={'null' if value is None else value}"


def _model_path(config: DictConfig) -> Path:
    if (config.model is None) == (config.plan is None):
        raise ConfigError(
            "say which model: plan=DATASET/CONFIGURATION (trained in this workspace) or model=FOLDER",
            remedy=None if config.model is None else "Give one of the two.",
        )
    if config.model is not None:
        return Path(str(config.model))
    runs = Path(str(config.workspace)) / "runs"
    path = runs / str(config.plan) / str(config.run)
    if not (path / MODEL_FILE).is_file():
        trained = sorted(str(file.parent.relative_to(runs)) for file in runs.glob(f"**/{MODEL_FILE}"))
        known = f"Trained (plan/run): {', '.join(trained)}. " if trained else ""
        command = f"python train.py plan={config.plan} fold=0 run={config.run}"
        raise ModelError(f"no trained model of plan {config.plan}, run {config.run}", path, f"{known}Train: {command}")
    return path


def _output_folder(config: DictConfig) -> Path:
    if config.output is None or config.input is None:
        missing = "input" if config.input is None else "output"
        raise ConfigError(f"{missing}= is missing", remedy="Give input=FILE_OR_FOLDER and output=FOLDER.")
    output = Path(str(config.output))
    if output.exists() and not output.is_dir():
        raise ConfigError("is a file", f"output={output}", "Name a folder.")
    return output


def _cases(config: DictConfig, model: ModelFolder, output: Path) -> list[Case]:
    channels = len(model.plan["normalization"])
    found = find_cases(_plain(config.input), str(model.plan.get("file_ending", "")), channels)
    for case in found:
        if any(path.parent.resolve() == output.resolve() for path in case.images):
            raise ConfigError("is the folder of the images", f"output={output}", "Write to another folder.")
    return list(found[config.shard :: config.num_shards])


def _maker(
    model: ModelFolder, folds: tuple[str, ...], settings: InferenceSettings, config: DictConfig
) -> dict[str, Any]:
    chosen = {key: value for key, value in asdict(settings).items() if key != "tile_batch_size"}
    if isinstance(settings.mirror, tuple):
        chosen["mirror"] = list(settings.mirror)
    return {
        "model": model.name,
        "folds": list(folds),
        "checkpoint": str(config.checkpoint),
        **chosen,
        "precision": str(config.trainer.precision),
        "identity": model.identity(folds, config.checkpoint),
    }


def _left_to_do(cases: list[Case], record: Record, config: DictConfig) -> list[Case]:
    if config.force:
        return cases
    left = []
    for case in cases:
        if _is_done(case, record, bool(config.save_probabilities)):
            continue
        edited = record.edited(case.identifier)
        if edited is None:
            left.append(case)
        else:
            print(f"note: {edited} was edited since it was made: kept (delete it or use force=true to make it again)")
    if not record_files(record.folder):
        foreign = [name for case in left if (record.folder / (name := _known_name(case))).exists()]
        if foreign:
            raise ConfigError(
                f"holds {foreign[0]}, which segplan did not make ({len(foreign)} such files)",
                f"output={record.folder}",
                "Choose another output folder, or force=true to overwrite them.",
            )
    return left


def _is_done(case: Case, record: Record, probabilities: bool) -> bool:
    entry = record.entry(case.identifier, input_hash(case))
    return entry is not None and (not probabilities or f"{case.identifier}.npz" in entry["outputs"])


def _known_name(case: Case) -> str:
    try:
        return output_name(case)
    except SegplanError:  # a listed file that is no image: it fails when it is read
        return case.identifier


def _load(model: ModelFolder, folds: tuple[str, ...], settings: InferenceSettings, config: DictConfig) -> "Predictor":
    from segplan.inference import Predictor
    from segplan.inference.precision import select_device

    return Predictor.from_model(
        model.path,
        folds,
        device=select_device(config.trainer.accelerator, "trainer.accelerator"),
        precision=config.trainer.precision,
        checkpoint=config.checkpoint,
        network_target=config.network_target,
        **asdict(settings),
    )


def _print_case(name: str, entry: dict[str, Any]) -> None:
    timing, size = entry["seconds"], [str(extent) for extent in reversed(entry["shape"])]
    peak = entry["peak_memory_gb"]
    if is_terminal():
        stages = [f"{stage} {seconds(value)}" for stage, value in timing.items()]
        memory = [f"peak {peak:.1f} GB"] if peak is not None else []
        print(f"{name}  {'×'.join(size)}  {' · '.join([*stages, *memory])}", flush=True)
    else:
        stages = [f"{stage}={value:.2f}" for stage, value in timing.items()]
        print(f"case={name} size={'x'.join(size)} {' '.join(stages)} peak_gb={peak}", flush=True)


def _peak_memory_gb() -> float | None:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    unit = 1 if platform.system() == "Darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)


def _device_name(device: Any) -> str:
    import torch

    return f"1 × {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device.type)


def _message(error: Exception) -> str:
    text = str(error) if isinstance(error, SegplanError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def _count(number: int) -> str:
    return f"{number} case{'' if number == 1 else 's'}"


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if isinstance(value, DictConfig | ListConfig) else value
