"""Train a fold, write its weights as a model folder, segment its whole validation cases."""

import json
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from segplan.errors import RunError
from segplan.imaging import atomic_write, remove_leftovers
from segplan.jobs import training_device, training_parts
from segplan.jobs.dashboards import Dashboards, describe_run, open_dashboards, send_scores
from segplan.jobs.disk_space import check_disk
from segplan.jobs.fold_validation import is_validated, print_scores, tiling_of, validate_fold
from segplan.jobs.network_node import recorded_network
from segplan.jobs.provenance import note_start
from segplan.jobs.run_identity import check_checkpoint, check_run_folder, claim_run_folder, run_identity, start_over
from segplan.jobs.training_setup import TrainingSetup, prepare_training
from segplan.model_folder import MODEL_FILE, PREVIOUS, WEIGHT_FILES, write_model_json, write_weights
from segplan.training import load_checkpoint
from segplan.training.after_training import Ranks, ToldByFirstRankError
from segplan.training.callbacks import StopOnSignal, TrainingStoppedError

_NETWORK_PREFIX = "network."


def run(config: DictConfig) -> int:
    """Do what the resolved `config` of a fold asks for, as far as it is not done yet; returns the exit code."""
    setup = prepare_training(config)
    identity = run_identity(config)
    check_run_folder(setup.folder, identity, starting_over=setup.starts_over, trains=config.mode == "train")
    tiling_of(setup)  # refuses now what could not be validated after the training
    if training_parts.is_first_rank():
        _print_header(setup)
    with open_dashboards(setup, first_rank=training_parts.is_first_rank()) as dashboards:
        trained = False
        if config.mode == "train":
            stopped_by, trained = _train(setup, identity, dashboards)
            if stopped_by is not None:
                # The first rank's code counts. Where another leaves with one, Lightning kills all of them.
                return _exit_code(stopped_by) if training_parts.is_first_rank() else 0
        try:
            _finish(setup, dashboards, trained=trained)
        except ToldByFirstRankError:
            return 0
    return 0


def _finish(setup: TrainingSetup, dashboards: Dashboards, *, trained: bool) -> None:
    """Write the weights and validate; what has not trained just now is validated by the first rank alone."""
    ranks = Ranks.joined() if trained else Ranks()
    is_first = training_parts.is_first_rank()
    if trained:
        ranks.do(lambda: _write_model(setup) if is_first else None)
    if is_first:
        _validate(setup, dashboards, ranks, again=trained or setup.config.mode == "validate")
    elif trained:
        validate_fold(setup, ranks)


def _train(setup: TrainingSetup, identity: dict[str, Any], dashboards: Dashboards) -> tuple[str | None, bool]:
    """Train to the end; returns the signal that stopped it before, if one did, and whether there was anything to do."""
    resume = None if setup.starts_over else _checkpoint_to_resume(setup, identity)
    if resume is not None and _is_finished(saved := load_checkpoint(resume), setup.config):
        if training_parts.is_first_rank():
            if because := saved["segplan"].get("ended_because"):  # more epochs would change nothing
                print(f"the training has ended: {because}", flush=True)
            claim_run_folder(setup.folder, identity)
            _finish_writing(setup, resume)
        return None, False
    if resume is not None:
        setup = replace(setup, config=training_parts.as_begun(setup.config, load_checkpoint(resume)))
    module = training_parts.build_module(setup, identity, fresh=resume is None)
    data = training_parts.build_data(setup)
    stop = StopOnSignal()
    trainer = training_parts.build_trainer(setup, stop, dashboards)
    if training_parts.is_first_rank():
        for folder in (setup.checkpoints, setup.folder, setup.validation):
            remove_leftovers(folder)  # of a command that was killed while it wrote
        check_disk(setup.checkpoints, module)
        _begin(setup, identity)  # not before all is built: what cannot work must not discard what is there
        describe_run(dashboards, setup, 0 if resume is None else int(load_checkpoint(resume)["global_step"]))
        notes = (training_parts.loader_processes(data, trainer), training_parts.warmup_note(setup.config))
        print(*filter(None, notes), sep="\n", flush=True)
    try:
        training_parts.fit(setup, trainer, module, data, resume)
    except TrainingStoppedError as stopped:
        where = f"epoch {trainer.current_epoch + 1}, step {trainer.global_step}"
        if training_parts.is_first_rank():
            print(f"stopped by {stopped} at {where}; saved: the same command goes on", flush=True)
        return str(stopped), True
    except SystemExit:
        if trainer.interrupted:  # Lightning leaves with 1 after a Ctrl-C that nothing took over
            raise KeyboardInterrupt from None
        raise
    return None, True


def _is_finished(checkpoint: dict[str, Any], config: DictConfig) -> bool:
    """Whether all epochs are done, or the schedule ended the training before."""
    done = checkpoint["epoch"] >= config.trainer.max_epochs
    return bool(done or checkpoint["segplan"].get("ended_because"))


def _begin(setup: TrainingSetup, identity: dict[str, Any]) -> None:
    if setup.starts_over:
        start_over(setup.folder)
        _forget_force(setup)
    claim_run_folder(setup.folder, identity)
    if setup.previous is not None:
        setup.previous.take_along(setup.run_folder / PREVIOUS)
    note_start(setup)


def _validate(setup: TrainingSetup, dashboards: Dashboards, ranks: Ranks, *, again: bool) -> None:
    if setup.config.mode == "validate":
        _write_weights_to_validate(setup)
    summary_file = setup.validation / "summary.json"
    if is_validated(setup) and not again:
        print("nothing is left to do: the fold is trained and validated")
    else:
        if not again:
            print(f"the fold is trained: its {len(setup.split.validation)} validation cases are left", flush=True)
        send_scores(dashboards, setup, validate_fold(setup, ranks))
        if setup.config.force:
            _forget_force(setup)
    print_scores(setup, json.loads(summary_file.read_text(encoding="utf-8")))


def _checkpoint_to_resume(setup: TrainingSetup, identity: dict[str, Any]) -> Path | None:
    for name in ("last", "final"):
        path = setup.checkpoints / f"{name}.ckpt"
        if path.exists():
            check_checkpoint(path, _read_checkpoint(path)["segplan"]["metadata"]["identity"], identity)
            return path
    return None


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        checkpoint = load_checkpoint(path)
        checkpoint["segplan"]["metadata"]["identity"], checkpoint["global_step"]
    except Exception as error:
        # torch raises many kinds for a damaged archive; whichever it is, the user must choose what to do.
        remedy = "Remove it to go on from another checkpoint, or use force=true to start over."
        raise RunError(f"the checkpoint cannot be read ({error})", path, remedy) from error
    return checkpoint


def _finish_writing(setup: TrainingSetup, last: Path) -> None:
    """Write what a training that reached its end could not: it was killed, or the disk was full."""
    final = setup.checkpoints / "final.ckpt"
    if not final.exists() or _read_checkpoint(final)["global_step"] != _read_checkpoint(last)["global_step"]:
        with atomic_write(final) as temporary:
            shutil.copyfile(last, temporary)
    weights = setup.folder / "weights.safetensors"
    is_written = weights.exists() and weights.stat().st_mtime_ns >= final.stat().st_mtime_ns
    if not (is_written and (setup.run_folder / MODEL_FILE).exists()):
        _write_model(setup)


def _write_model(setup: TrainingSetup, kinds: Sequence[str] = ("best", "final")) -> None:
    """Write the run's model.json and the fold's weights for prediction; the final ones last: they say that all is."""
    config = setup.config
    for kind in kinds:
        # The scores of the weights that are replaced; without them the validation is due again.
        (setup.validation_of(kind) / "summary.json").unlink(missing_ok=True)
    parts = [config.dataset, *([config.plan_name] if config.plan_name else []), config.configuration]
    write_model_json(
        setup.run_folder,
        name="/".join(str(part) for part in parts),
        plan=training_parts.plain(config.plan),
        patch_size=setup.patch_size,
        network=recorded_network(config.network),
        mirror_axes=setup.mirror_axes,
        mirror_swap=setup.mirror_swap,
    )
    for kind in kinds:
        path = setup.checkpoints / f"{kind}.ckpt"
        if path.exists():
            state = load_checkpoint(path)["state_dict"]
            weights = {
                key.removeprefix(_NETWORK_PREFIX): value
                for key, value in state.items()
                if key.startswith(_NETWORK_PREFIX)
            }
            write_weights(setup.run_folder, config.fold, weights, kind)


def _write_weights_to_validate(setup: TrainingSetup) -> None:
    """Of a training that was stopped, or whose best was reached since, the weights may not be written yet."""
    checkpoint = setup.checkpoints / f"{setup.weights}.ckpt"
    written = setup.folder / WEIGHT_FILES[setup.weights]
    if checkpoint.exists():
        if not written.exists() or written.stat().st_mtime_ns < checkpoint.stat().st_mtime_ns:
            _write_model(setup, [setup.weights])
    elif not written.exists():
        remedy = "Run it with mode=train; ckpt=best validates the best weights of a training that was stopped."
        raise RunError(f"the training has left no {setup.weights} weights", setup.folder, remedy)


def _forget_force(setup: TrainingSetup) -> None:
    setup.config.force = False
    # The file too: a requeued job reads it and must not discard what this one trains.
    with atomic_write(setup.folder / "config.yaml") as temporary:
        temporary.write_text(OmegaConf.to_yaml(setup.config), encoding="utf-8")


def _exit_code(stopped_by: str) -> int:
    """128 + the signal's number, as shells count; 1 for a limit of its own."""
    number = signal.Signals.__members__.get(stopped_by)
    return 1 if number is None else 128 + number


def _print_header(setup: TrainingSetup) -> None:
    config = setup.config
    kind = training_device.accelerator(config)
    name, reason = training_device.precision(config)
    device = torch.cuda.get_device_name() if kind == "cuda" else f"{kind}, {torch.get_num_threads()} threads"
    cases = f"{len(setup.split.train)} train, {len(setup.split.validation)} validation cases"
    compiled = " · compiled" if config.module.compile is True else ""
    print(f"fold {config.fold} · {cases} · {device} · {name} ({reason}){compiled}", flush=True)
