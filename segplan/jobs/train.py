"""The job behind `train.py`: train a fold, write its weights as a model folder, segment its whole validation cases.

    python -m segplan.jobs.train RUN/fold_K/config.yaml

The same command goes on where it stopped, or says that nothing is left to do.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from segplan.errors import ConfigError, RunError, SegplanError
from segplan.imaging import atomic_write
from segplan.jobs import training_parts
from segplan.jobs.fold_validation import print_scores, validate_fold
from segplan.jobs.run_identity import check_checkpoint, claim_run_folder, run_identity
from segplan.jobs.training_setup import TrainingSetup, prepare_training, start_over
from segplan.model_folder import MODEL_FILE, write_model_json, write_weights
from segplan.training import load_checkpoint
from segplan.training.callbacks import StopOnSignal, TrainingStoppedError

_NETWORK_PREFIX = "network."


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the file named on the command line says; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1:
        sys.stderr.write("usage: python -m segplan.jobs.train RUN/fold_K/config.yaml\n")
        return 2
    debug = False
    try:
        config = _read_config(Path(given[0]))
        debug = bool(config.debug)
        return run(config)
    except SegplanError as error:
        if debug:
            raise
        sys.stderr.write(f"segplan: {error}\n")
        return error.exit_code


def run(config: DictConfig) -> int:
    """Train the fold that the resolved `config` describes, as far as it is not trained yet; returns the exit code."""
    setup = prepare_training(config)
    identity = run_identity(config)
    if training_parts.is_first_rank():
        if config.force:
            _start_over(setup)
        claim_run_folder(setup.folder, identity)
        _print_header(setup)
    trained = _train(setup, identity) if config.mode == "train" else False
    if trained is None:
        return 1
    if not training_parts.is_first_rank():
        return 0
    summary_file = setup.folder / "validation" / "summary.json"
    if not trained and config.mode == "train" and summary_file.exists():
        print("nothing is left to do: the fold is trained and validated")
    else:
        validate_fold(setup)
    print_scores(setup, json.loads(summary_file.read_text(encoding="utf-8")))
    return 0


def _train(setup: TrainingSetup, identity: dict[str, Any]) -> bool | None:
    """Train to the end. True: it did; False: there was nothing to train; None: it was stopped before."""
    config = setup.config
    resume = _checkpoint_to_resume(setup, identity)
    if resume is not None and load_checkpoint(resume)["epoch"] >= config.trainer.max_epochs:
        if not _model_is_written(setup):
            _write_model(setup)
        return False
    module = training_parts.build_module(setup, identity)
    data = training_parts.build_data(setup)
    stop = StopOnSignal()
    trainer = training_parts.build_trainer(setup, stop)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume)
    except TrainingStoppedError as stopped:
        where = f"epoch {trainer.current_epoch + 1}, step {trainer.global_step}"
        print(f"stopped by {stopped} at {where}; saved: the same command goes on", flush=True)
        return None
    if training_parts.is_first_rank():
        _write_model(setup)
    return True


def _checkpoint_to_resume(setup: TrainingSetup, identity: dict[str, Any]) -> Path | None:
    for name in ("last", "final"):
        path = setup.checkpoints / f"{name}.ckpt"
        if not path.exists():
            continue
        try:
            saved = load_checkpoint(path)["segplan"]["metadata"]["identity"]
        except Exception as error:
            # torch raises many kinds for a damaged archive; whichever it is, the user must choose what to do.
            remedy = "Remove it to go on from another checkpoint, or use force=true to start over."
            raise RunError(f"the checkpoint cannot be read ({error})", path, remedy) from error
        check_checkpoint(path, saved, identity)
        return path
    return None


def _model_is_written(setup: TrainingSetup) -> bool:
    weights, final = setup.folder / "weights.safetensors", setup.checkpoints / "final.ckpt"
    is_there = weights.exists() and final.exists() and (setup.run_folder / MODEL_FILE).exists()
    return is_there and weights.stat().st_mtime_ns >= final.stat().st_mtime_ns


def _write_model(setup: TrainingSetup) -> None:
    """Write the run's model.json and the fold's weights for prediction, final and best."""
    config = setup.config
    for kind in ("final", "best"):
        path = setup.checkpoints / f"{kind}.ckpt"
        if path.exists():
            state = load_checkpoint(path)["state_dict"]
            weights = {
                key.removeprefix(_NETWORK_PREFIX): value
                for key, value in state.items()
                if key.startswith(_NETWORK_PREFIX)
            }
            write_weights(setup.run_folder, config.fold, weights, kind)
    network = training_parts.plain(config.network)
    _write_model_json(setup, {"name": network.pop("_target_").rpartition(".")[2], **network})


def _write_model_json(setup: TrainingSetup, network: dict[str, Any], scores: dict[str, Any] | None = None) -> None:
    config = setup.config
    parts = [config.dataset, *([config.plan_name] if config.plan_name else []), config.configuration]
    write_model_json(
        setup.run_folder,
        name="/".join(str(part) for part in parts),
        plan=training_parts.plain(config.plan),
        patch_size=setup.patch_size,
        network=network,
        mirror_axes=setup.mirror_axes,
        inference=training_parts.plain(config.inference),
        scores=scores,
    )


def _start_over(setup: TrainingSetup) -> None:
    start_over(setup.folder)
    setup.config.force = False
    # The file too: a requeued job reads it and must not discard what this one trains.
    with atomic_write(setup.folder / "config.yaml") as temporary:
        temporary.write_text(OmegaConf.to_yaml(setup.config), encoding="utf-8")


def _print_header(setup: TrainingSetup) -> None:
    config = setup.config
    kind = training_parts.accelerator(config)
    name, reason = training_parts.precision(config)
    device = torch.cuda.get_device_name() if kind == "cuda" else f"{kind}, {torch.get_num_threads()} threads"
    cases = f"{len(setup.split.train)} train, {len(setup.split.validation)} validation cases"
    compiled = " · compiled" if config.module.compile else ""
    print(f"fold {config.fold} · {cases} · {device} · {name} ({reason}){compiled}", flush=True)


def _read_config(path: Path) -> DictConfig:
    if not path.is_file():
        raise ConfigError("there is no such file", path, "Start a run with python train.py plan=DATASET/CONFIGURATION.")
    config = OmegaConf.load(path)
    if not isinstance(config, DictConfig):
        raise ConfigError("is no configuration of a run", path)
    return config


if __name__ == "__main__":
    sys.exit(main())
