"""Hyper-parameter search: `-m hydra/sweeper=optuna`. Each trial is a run of its own, trained in a process of its own.

The study is a journal file: started again the search goes on, and machines that share the folder share the study.
"""

import difflib
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from omegaconf import OmegaConf

from segplan.entry.compose import compose_job, parse_overrides
from segplan.entry.locations import configs_folder
from segplan.entry.trial import WHOLE_CASES, Ending, columns, run_trial
from segplan.errors import ConfigError, SegplanError
from segplan.jobs.fold_record import is_alive, read_attempt
from segplan.jobs.prepare import fold_folder, prepare_command

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

_GROUP, _NODE = "hydra/sweeper", "hydra.sweeper."
_FAILURES_IN_A_ROW = 3  # that end a search: something else than the values is wrong


@dataclass(frozen=True)
class Search:
    """The node `hydra.sweeper` of `hydra/sweeper=optuna`; its YAML file says what each key means."""

    n_trials: int
    study: str | None
    storage: str | None
    seed: int | None
    objective: str
    watch: str
    pruner: Literal["median", "hyperband", "none"]
    startup_trials: int
    warmup_epochs: int
    params: dict[str, str]


def pop_sweeper(arguments: Sequence[str]) -> tuple[Search | None, list[str]]:
    """The search that a command line asks for, or None, and its other arguments.

    Raises:
        ConfigError: there is no such sweeper or setting.
    """
    mine = [word for word in arguments if word.lstrip("+").startswith((f"{_GROUP}=", _NODE))]
    others = [word for word in arguments if word not in mine]
    parsed = [(item.key_or_group, item.value()) for item in parse_overrides(mine)]
    name = next((str(value) for key, value in reversed(parsed) if key == _GROUP), "basic" if not parsed else "optuna")
    if name == "basic":
        return None, others
    if name != "optuna":
        raise ConfigError(f"no {_GROUP}={name}", remedy="There are: basic (every combination), optuna.")
    node: Any = OmegaConf.to_container(OmegaConf.load(configs_folder() / "hydra" / "sweeper" / "optuna.yaml"))
    known = [field.name for field in fields(Search)]
    for key, value in parsed:
        if key == _GROUP:
            continue
        first = key.removeprefix(_NODE)
        if first not in known:
            close = difflib.get_close_matches(first, known, n=1)
            hint = f". Did you mean {_NODE}{close[0]}?" if close else ""
            raise ConfigError(f"there is no {_NODE}{first}{hint}", remedy=f"There are {', '.join(known)}.")
        node[first] = value
    _check_settings(node)
    return Search(**node), others


def _check_settings(node: dict[str, Any]) -> None:
    if node["pruner"] not in ("median", "hyperband", "none"):
        raise ConfigError("is unknown", f"{_NODE}pruner={node['pruner']}", "Use median, hyperband or none.")
    for key, least in (("n_trials", 1), ("startup_trials", 0), ("warmup_epochs", 0), ("seed", 0)):
        value = node[key]
        is_number = isinstance(value, int) and not isinstance(value, bool) and value >= least
        if not is_number and not (key == "seed" and value is None):
            raise ConfigError(f"must be a whole number from {least}", f"{_NODE}{key}={value}")
    if node["storage"] is not None and "://" in str(node["storage"]):
        raise ConfigError("must be a file", f"{_NODE}storage={node['storage']}", "Name a path that all machines see.")
    if not isinstance(node["params"], dict):
        raise ConfigError(
            "must be a mapping", f"{_NODE}params={node['params']}", "Sweeps on the command line do it too."
        )


def run_search(search: Search, arguments: Sequence[str], workspace: Path) -> int:
    """Run trials until the study has `n_trials`; returns the exit code.

    Raises:
        ConfigError: optuna is not installed, or the search space or the configuration cannot work.
    """
    if any(word.lstrip("+").startswith(("hydra/launcher=", "hydra.launcher.")) for word in arguments):
        remedy = "Start the same command in several jobs: they share the study."
        raise ConfigError("a search runs its trials itself", "hydra/launcher", remedy)
    overrides = parse_overrides([word for word in arguments if not word.startswith("-")])
    fixed = [item for item in overrides if not item.is_sweep_override()]
    swept = [item for item in overrides if item.is_sweep_override()] or parse_overrides(
        [f"{key}={text}" for key, text in search.params.items()]
    )
    space = {item.get_key_element(): _distribution(item) for item in swept}
    words = [str(item.input_line) for item in fixed]
    name = search.study or _study_name([*words, *_first_values(space)], workspace)
    study = _open(search, name, workspace)
    failures, highest = 0, 0
    while (trial := _next_trial(study, space, search, name)) is not None:
        ending = _run(study, trial, [*words, f"run={name}-{trial.number:04d}"], search, workspace)
        if ending is None:
            print("stopped; the same command goes on with this trial")
            return 130
        failures = failures + 1 if ending.has_failed else 0
        highest = max(highest, ending.code, int(ending.has_failed))
        if failures == _FAILURES_IN_A_ROW:
            print(f"{failures} trials in a row failed; the search ends here")
            break
    _report(study, words)
    return highest


def _distribution(item: Override) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    key, value = item.key_or_group, item.value()
    if key in ("fold", "run", "plan", "workspace"):
        raise ConfigError("cannot be searched", key, "Give it one value.")
    if isinstance(value, ChoiceSweep):
        return CategoricalDistribution(list(item.sweep_string_iterator()))
    if isinstance(value, IntervalSweep) and value.start is not None and value.end is not None:
        log = "log" in value.tags
        if value.start > value.end or (log and value.start <= 0):
            remedy = "The smaller end comes first; by its logarithm only what is above 0 can be drawn."
            raise ConfigError("is no interval", str(item.input_line), remedy)
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(value.start, value.end, log=log)
        return FloatDistribution(float(value.start), float(value.end), log=log)
    if isinstance(value, RangeSweep) and value.start is not None and value.stop is not None:
        return CategoricalDistribution(list(item.sweep_string_iterator()))
    raise ConfigError("cannot be searched", str(item.input_line), "Write interval(a,b), choice(a,b) or range(a,b).")


def _first_values(space: "dict[str, BaseDistribution]") -> list[str]:
    """An override a key that is searched: a misspelt one is refused before the first trial."""
    return [f"{key}={one.choices[0] if hasattr(one, 'choices') else one.low}" for key, one in space.items()]  # type: ignore[attr-defined]


def _study_name(words: Sequence[str], workspace: Path) -> str:
    config = compose_job("train", words, workspace)  # refuses now what no trial could do
    parts = ["search", *([config.plan_name] if config.plan_name else []), config.configuration]
    return re.sub(r"[^\w.-]+", "_", "-".join([str(config.dataset), *map(str, parts)]))


def _open(search: Search, name: str, workspace: Path) -> "optuna.Study":
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("optuna is not installed", _GROUP, "Install it: pip install 'segplan[sweep]'.") from error
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = Path(search.storage) if search.storage else workspace / "searches" / f"{name}.journal"
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = None if path.exists() else search.seed  # one that goes on must not draw its first values again
    storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
    pruners: dict[str, optuna.pruners.BasePruner] = {
        "median": optuna.pruners.MedianPruner(search.startup_trials, search.warmup_epochs),
        "hyperband": optuna.pruners.HyperbandPruner(max(1, search.warmup_epochs)),
        "none": optuna.pruners.NopPruner(),
    }
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.startup_trials),
        pruner=pruners[search.pruner],
        load_if_exists=True,
    )
    done = len(study.get_trials(deepcopy=False))
    print(f"study {name} in {path}: {done} of {search.n_trials} trials are there")
    return study


def _next_trial(study: "optuna.Study", space: dict[str, Any], search: Search, name: str) -> "optuna.Trial | None":
    """The trial that this machine left unfinished, else a new one, else None."""
    import psutil
    from optuna.trial import Trial, TrialState

    trials = study.get_trials(deepcopy=False)
    for known in trials:
        here = known.user_attrs.get("host") == socket.gethostname()
        if known.state == TrialState.RUNNING and here and not psutil.pid_exists(int(known.user_attrs.get("pid", 0))):
            print(f"\ntrial {known.number} goes on")
            return Trial(study, known._trial_id)
    if sum(known.state != TrialState.FAIL for known in trials) >= search.n_trials:
        return None
    try:
        return study.ask(space)
    except ValueError as error:  # optuna's word for a choice that has other values than in earlier trials
        remedy = f"Begin another search: {_NODE}study=NAME."
        raise ConfigError("was begun with another search space", name, remedy) from error


def _run(
    study: "optuna.Study", trial: "optuna.Trial", words: Sequence[str], search: Search, workspace: Path
) -> Ending | None:
    """Run a trial and tell the study; None if it was stopped from outside, and is to go on."""
    import os

    from optuna.trial import TrialState

    trial.set_user_attr("host", socket.gethostname())
    trial.set_user_attr("pid", os.getpid())
    chosen = [f"{key}={value}" for key, value in trial.params.items()]
    print(f"\ntrial {trial.number}: {' '.join(chosen)}", flush=True)
    try:
        config = compose_job("train", [*words, *chosen], workspace)
        command = prepare_command(config)
    except SegplanError as error:
        print(f"segplan: {error}", flush=True)
        study.tell(trial, state=TrialState.FAIL)
        return Ending(error.exit_code)
    reported = set(study.trials[trial.number].intermediate_values)

    def is_hopeless(epoch: int, value: float) -> bool:
        if epoch not in reported:
            reported.add(epoch)
            trial.report(value, epoch)
        return trial.should_prune()

    _await_orphan(fold_folder(config))
    ending = run_trial(command, fold_folder(config), search.watch, search.objective, is_hopeless)
    if ending.is_pruned:
        study.tell(trial, state=TrialState.PRUNED)
        print(f"trial {trial.number}: cut short")
    elif ending.was_stopped:
        return None
    elif ending.code or ending.value is None:
        study.tell(trial, state=TrialState.FAIL)
        why = ending.code or f"it has no {search.objective}; {_columns(fold_folder(config))}"
        print(f"trial {trial.number}: failed ({why})")
    else:
        study.tell(trial, ending.value)
        print(f"trial {trial.number}: {search.objective} {ending.value:.4f}")
    return ending


def _await_orphan(folder: Path) -> None:
    """Wait for the training of a search that was killed: it may outlive it, and no second one may join it."""
    attempt = read_attempt(folder)
    if attempt is None or attempt.exit_code is not None or not is_alive(attempt):
        return
    print(f"process {attempt.process} trains it already; waiting for its end", flush=True)
    while is_alive(attempt):
        time.sleep(0.5)


def _columns(folder: Path) -> str:
    """What `objective` and `watch` may be."""
    return f"there are {', '.join([WHOLE_CASES, *columns(folder / 'metrics.csv')])}"


def _report(study: "optuna.Study", words: Sequence[str]) -> None:
    from optuna.trial import TrialState

    from segplan.jobs.console import print_table

    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    best = sorted(complete, key=lambda trial: -(trial.value or 0.0))
    print()
    if not best:
        print("no trial was completed")
        return
    rows = [
        [str(trial.number), f"{trial.value:.4f}", " ".join(f"{key}={value}" for key, value in trial.params.items())]
        for trial in best[:5]
    ]
    print_table(["trial", "value", "overrides"], rows)
    print(f"Best: python train.py {' '.join(words)} {rows[0][2]}")
