"""Predict: segment images with trained models and write label maps in the images' geometry and format."""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from segplan.dataset import Case
from segplan.errors import ConfigError
from segplan.imaging import remove_leftovers
from segplan.imaging.storage import temporary_name
from segplan.inference.records import Record, record_files
from segplan.inference.settings import InferenceSettings
from segplan.jobs.prediction_models import maker_of, models_of
from segplan.jobs.prediction_request import Request, check_values, known_name, plain, request_of, settings_of
from segplan.jobs.prediction_results import Results, count_of
from segplan.model_ensemble import ModelEnsemble

if TYPE_CHECKING:
    from segplan.inference.ensemble import EnsemblePredictor
    from segplan.inference.predictor import Predictor

__all__ = ["run", "settings_of"]

_NOT_DECISIVE = ("tile_batch_size", "compile", "export_device")  # speed alone


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
    check_values(config)
    ensemble = models_of(config)
    if not config.postprocess:
        ensemble = ensemble.without_postprocessing()
    settings = settings_of(config.inference)
    request = request_of(config, ensemble)
    decisive = {key: value for key, value in asdict(settings).items() if key not in _NOT_DECISIVE}
    decisive["mirror"] = list(settings.mirror) if isinstance(settings.mirror, tuple) else settings.mirror
    decisive["precision"] = str(config.trainer.precision)
    maker = maker_of(ensemble, decisive, previous_stage=request.previous is not None)
    sharing = {"shard": config.shard, "num_shards": config.num_shards}
    record = Record.open(request.output, maker, force=bool(config.force), **sharing)
    left = list(request.cases) if config.force else _left_to_do(request, record)
    if not left:
        done = f"{count_of(len(request.cases))} already in {request.output}, by this model and settings"
        share = "" if config.num_shards == 1 else f" in share {config.shard + 1} of {config.num_shards}"
        print(f"Nothing to do{share}: {f'{done} (force=true redoes)' if request.cases else 'no cases'}.", flush=True)
        return 0
    remove_leftovers(request.output, math.inf)  # of killed jobs alone, however old: others may be at work
    with _scratch(request.output) as scratch:
        predictor = _load(ensemble, settings, config, scratch)
        results = Results(record, request, ensemble, predictor, len(request.cases) - len(left))
        results.announce(len(left), force=bool(config.force))
        _predict(predictor, left, results, config, scratch)
    return results.finish()


def _predict(
    predictor: "Predictor | EnsemblePredictor", cases: list[Case], results: Results, config: DictConfig, scratch: Path
) -> None:
    from segplan.inference.loop import Wanted, predict_cases

    given = results.request.previous
    wanted = Wanted(
        stores=scratch if results.request.probabilities else None,
        entropy=results.request.entropy,
        previous_stage=None if given is None else lambda case: given[case.identifier],
        read_ahead=1 if config.num_workers == "auto" else max(1, int(config.num_workers)),
    )
    trainer = plain(config.trainer) | {"accelerator": predictor.device.type, "devices": 1, "precision": "32-true"}
    predict_cases(predictor, cases, results.handle, trainer, wanted)


def _left_to_do(request: Request, record: Record) -> list[Case]:
    left = []
    for case in request.cases:
        entry = record.entry(case.identifier, request.input_hash(case))
        if entry is not None and set(request.outputs(case).values()) <= set(entry["outputs"]):
            continue
        edited = record.edited(case.identifier)
        if edited is None:
            left.append(case)
        else:
            print(f"note: {edited} was edited since it was made: kept (delete it or use force=true to make it again)")
    if not record_files(record.folder):
        foreign = [name for case in left if (record.folder / (name := known_name(case))).exists()]
        if foreign:
            raise ConfigError(
                f"holds {foreign[0]}, which segplan did not make ({len(foreign)} such files)",
                f"output={record.folder}",
                "Choose another output folder, or force=true to overwrite them.",
            )
    return left


def _load(
    ensemble: ModelEnsemble, settings: InferenceSettings, config: DictConfig, scratch: Path
) -> "Predictor | EnsemblePredictor":
    from segplan.inference.ensemble import EnsemblePredictor
    from segplan.inference.precision import select_device

    predictor = EnsemblePredictor.from_model(
        ensemble,
        device=select_device(config.trainer.accelerator, "trainer.accelerator"),
        precision=config.trainer.precision,
        network_target=config.network_target,
        first_stage=config.previous_stage is None,
        scratch=scratch,
        **asdict(settings),
    )
    return predictor.alone or predictor


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """A folder for what is too large for memory, beside the results; its name says whose it is. Made when needed."""
    folder = output / temporary_name("work")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
