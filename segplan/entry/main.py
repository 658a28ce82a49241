"""The command line of the three jobs: compose once, check, write the configuration, run, turn errors into codes."""

import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from segplan.entry.arguments import name_selection, quote_paths
from segplan.entry.compose import compose_job, compose_training
from segplan.entry.environment import child_environment
from segplan.entry.help import help_text
from segplan.entry.launched import Rank, launched_rank, leaving_together, take_share
from segplan.entry.locations import planned, workspace_folder
from segplan.errors import ConfigError, SegplanError, StorageError, StoreError, VerificationError
from segplan.jobs.console import print_problems

_SEVERAL = ("hydra/launcher=", "hydra.launcher.", "hydra/sweeper=", "hydra.sweeper.")  # no -m needed: they say so
_MULTIRUN = ("-m", "--multirun")
_HYDRA_FLAGS = ("--hydra-help", "--info", "-i", "--shell-completion", "-sc")


def main(job: str, arguments: Sequence[str] | None = None) -> int:
    """Run `job` (plan, train or predict) as the command line says; returns the exit code.

    0: done. 2: the user's input is wrong, said in one line on stderr. 1: anything else.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "debug=true" in given or "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    try:
        return _dispatch(job, given)
    except SegplanError as error:
        if debug:
            raise
        return report_error(error)
    except KeyboardInterrupt:
        print("segplan: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except OSError as error:
        translated = StorageError.from_os_error(error)
        if translated is None or debug:
            raise
        return report_error(translated)


def report_error(error: SegplanError) -> int:
    """Print `error` as users see it and return its exit code."""
    if isinstance(error, VerificationError):
        print_problems(error.problems)
    print(f"segplan: {error}", file=sys.stderr)
    return error.exit_code


def _dispatch(job: str, arguments: list[str]) -> int:
    workspace = workspace_folder(arguments)
    if any(argument in ("-h", "--help") for argument in arguments):
        print(help_text(job, workspace))
        return 0
    multirun = any(argument in _MULTIRUN or argument.lstrip("+").startswith(_SEVERAL) for argument in arguments)
    if job == "predict":
        arguments = [name_selection(argument) for argument in arguments]
    quoted = quote_paths(arguments, planned(workspace), multirun=multirun)
    if any(argument.startswith(_HYDRA_FLAGS) for argument in arguments):
        from segplan.entry.multirun import show_hydra

        return show_hydra(job, quoted, workspace)
    rank = launched_rank(os.environ) if job == "predict" else None  # a training's ranks are Lightning's
    if multirun and rank is not None:
        what = "-m starts processes of its own, and this is one of several already"
        raise ConfigError(what, remedy="Leave out -m, or torchrun and srun.")
    if multirun:
        return _dispatch_several(job, [argument for argument in quoted if argument not in _MULTIRUN], workspace)
    show = _pop_option(quoted, "--cfg", "-c")
    if show not in (None, "job"):
        raise ConfigError(f"--cfg {show} is not possible", remedy="--cfg job prints the composed configuration.")
    _check_options(job, quoted)
    config = compose_job(job, _required(job, quoted, workspace), workspace)
    if show is not None:
        print(OmegaConf.to_yaml(config, resolve=True), end="")
        return 0
    return _run(job, config, quoted, workspace, rank)


def _run(job: str, config: DictConfig, words: list[str], workspace: Path, rank: Rank | None) -> int:
    """Run what is composed of `words`: here, or shared among devices, or this process's share of it."""
    if rank is not None:
        from segplan.entry.launchers import visible_gpus

        take_share(config, rank, visible_gpus(), os.environ)
        with leaving_together(rank):
            return run_composed(job, config)
    if job == "predict" and (shares := device_shares(config)):
        from segplan.entry.multirun import run_sweep

        return run_sweep(job, [word for word in words if not _sets_devices(word)] + shares, workspace)
    try:
        return run_composed(job, config)
    except StoreError as error:
        changed = [word for word in words if word.startswith("plan.")]
        if not changed:
            raise
        remedy = f"Preprocessing does not see {changed[0]} here: write it into a file of your own (docs/plans.md)."
        raise StoreError(error.what, error.where, remedy) from error


def _dispatch_several(job: str, arguments: list[str], workspace: Path) -> int:
    from segplan.entry.multirun import run_sweep
    from segplan.entry.search import pop_sweeper, run_search

    if _pop_option(arguments, "--cfg", "-c") is not None:
        raise ConfigError("--cfg shows one configuration", remedy="Leave -m, the launcher and the sweeper out.")
    _check_options(job, arguments)
    search, others = pop_sweeper(arguments)
    if search is None:
        return run_sweep(job, _required(job, others, workspace), workspace)
    if job != "train":
        raise ConfigError("only trainings can be searched", "hydra/sweeper", f"See python {job}.py --help.")
    return run_search(search, _required(job, others, workspace), workspace)


def _check_options(job: str, arguments: Sequence[str]) -> None:
    unknown = [argument for argument in arguments if argument.startswith("-")]
    if unknown:
        raise ConfigError(f"unknown option {unknown[0]}", remedy=f"See python {job}.py --help.")


def run_composed(job: str, config: DictConfig) -> int:
    """Check the composed `config`, write it where the job reads it, and run the job.

    A training becomes `python -m segplan.jobs.train RUN/fold_K/config.yaml`, so that Lightning's further ranks and a
    requeued job repeat that command and never compose again.
    """
    if job == "plan":
        from segplan.jobs.plan import run as run_plan

        return run_plan(config, functools.partial(compose_training, workspace=Path(config.workspace)))
    if job == "predict":
        from segplan.jobs.predict import run as run_predict

        return run_predict(config)
    from segplan.jobs.prepare import prepare_command

    command = prepare_command(config)
    if os.name == "nt":
        return subprocess.call(command, env=child_environment())
    sys.stdout.flush()
    return os.execve(sys.executable, command, child_environment())  # noqa: S606 replaces this process: never returns


def device_shares(config: DictConfig) -> list[str]:
    """The words that share a prediction's cases among its devices, a process each; none for one device."""
    devices, shards = config.trainer.devices, config.num_shards
    if shards != 1:
        return []
    if isinstance(devices, ListConfig):
        names = [str(device) for device in devices]
        chosen = [f"hydra.launcher.devices=[{','.join(names)}]"]
    else:
        names = [str(number) for number in range(int(devices))] if str(devices).isdigit() else []
        chosen = []
    if len(names) < 2:
        return []
    shares = ",".join(str(number) for number in range(len(names)))
    return [*chosen, f"hydra.launcher.n_jobs={len(names)}", f"num_shards={len(names)}", f"shard={shares}"]


def _sets_devices(word: str) -> bool:
    return word.partition("=")[0].lstrip("+") == "trainer.devices"


def _required(job: str, arguments: list[str], workspace: Path) -> list[str]:
    keys = {argument.partition("=")[0].lstrip("+") for argument in arguments}
    if job == "train" and "plan" not in keys:
        plans = planned(workspace)
        known = (
            f"Planned: {', '.join(plans)}."
            if plans
            else f"Nothing is planned in {workspace} yet: run python plan.py dataset=FOLDER."
        )
        raise ConfigError("plan= is missing: say what to train, plan=DATASET/CONFIGURATION", remedy=known)
    return arguments


def _pop_option(arguments: list[str], *names: str) -> str | None:
    """Take an option out of `arguments`; its value, empty if it has none, or None if it is not there."""
    for position, argument in enumerate(arguments):
        name, separator, value = argument.partition("=")
        if name in names:
            end = position + (1 if separator else 2)
            value = value if separator else "".join(arguments[position + 1 : end])
            del arguments[position:end]
            return value
    return None
