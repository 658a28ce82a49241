"""The dashboards of a fold's training, from the `logger` node: opened when it begins, closed after its validation."""

import contextlib
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segplan.dashboards import DashboardRun, FixedPatch, GuardedLogger, Pictures, fixed_patch, opener
from segplan.errors import ConfigError
from segplan.evaluation import Targets
from segplan.jobs.instantiate import instantiate, locate
from segplan.jobs.provenance import plan_file, read_provenance
from segplan.jobs.run_identity import PROVENANCE_FILE
from segplan.jobs.training_setup import TrainingSetup

PICTURES_NODE = "pictures"


@dataclass(frozen=True)
class Dashboards:
    """Of one training.

    Args:
        loggers: one a dashboard; empty if none is asked for.
        callback: sends what Lightning does not.
    """

    loggers: tuple[GuardedLogger, ...] = ()
    callback: Pictures | None = None


@contextlib.contextmanager
def open_dashboards(setup: TrainingSetup, *, first_rank: bool) -> Iterator[Dashboards]:
    """Prepare the dashboards of the `logger` node; nothing is connected before the first metrics.

    Args:
        setup: the fold.
        first_rank: whether this process is the one that logs.

    Raises:
        ConfigError: a dashboard does not exist, is not installed, or has no such argument.
    """
    nodes = {str(key): node for key, node in setup.config.logger.items() if node is not None}
    settings = _picture_settings(nodes.pop(PICTURES_NODE, {}))
    run = _run_of(setup)
    loggers = tuple(_guarded(name, node, run, enabled=first_rank) for name, node in nodes.items())
    if not loggers:
        yield Dashboards()
        return

    def patches() -> Sequence[FixedPatch]:
        cases = setup.split.validation[: settings.cases]
        # A cascade's network wants the previous stage's segmentation too.
        if setup.config.plan.get("previous_stage"):
            return []
        how = (setup.patch_size, setup.labels, setup.preprocessing)
        return [fixed_patch(setup.store.open(case), *how) for case in cases]

    pictures = Pictures(loggers, patches, setup.labels, setup.folder / "pictures", settings.every)
    status = "failed"
    try:
        yield Dashboards(loggers, pictures)
        status = "success"
    finally:
        for logger in loggers:
            logger.close(status)


def describe_run(dashboards: Dashboards, setup: TrainingSetup, step: int) -> None:
    """Send the resolved configuration, the plan, versions and the git revision of a training that goes on at `step`."""
    if not dashboards.loggers:
        return
    plain: Any = OmegaConf.to_container(setup.config, resolve=True)
    starts = read_provenance(setup.folder).get("starts") or [{}]
    settings = {key: value for key, value in _flat(plain) if not key.startswith("logger.")}
    settings |= {"git": starts[-1].get("git"), "versions": starts[-1].get("versions")}
    files = [setup.folder / "config.yaml", setup.folder / PROVENANCE_FILE, plan_file(setup)]
    for logger in dashboards.loggers:
        logger.log_beginning(step)
        logger.log_hyperparams(settings)
        for path in files:
            if path.is_file():
                logger.log_file(path)


def send_scores(dashboards: Dashboards, setup: TrainingSetup, summary: Mapping[str, Any]) -> None:
    """Send the evaluation of the whole validation cases: a value a class, and a table with a row a case."""
    if not dashboards.loggers:
        return
    names, step = Targets.from_labels(setup.labels).names, _last_step(setup.folder / "metrics.csv")
    means = {f"whole_cases/dice/{name}": summary["mean"][key]["Dice"] for key, name in names.items()}
    means["whole_cases/dice"] = summary["foreground_mean"]["Dice"]
    rows = [
        [_case_name(case), *(f"{case['metrics'][key]['Dice']:.4f}" for key in names)]
        for case in summary["metric_per_case"]
    ]
    rows.append(["mean", *(f"{summary['mean'][key]['Dice']:.4f}" for key in names)])
    for logger in dashboards.loggers:
        logger.log_metrics({key: value for key, value in means.items() if isinstance(value, float)}, step)
        logger.log_rows("whole_cases", ["case", *names.values()], rows)


def _case_name(case: Mapping[str, Any]) -> str:
    return Path(case["prediction_file"]).name.partition(".")[0]


@dataclass(frozen=True)
class PictureSettings:
    """The node `logger.pictures`.

    Args:
        cases: of the fold's validation, of which a patch is shown.
        every: epochs between two pictures; 0: none.
    """

    cases: int = 2
    every: int = 25


def _picture_settings(node: Any) -> PictureSettings:
    try:
        settings = PictureSettings(**{str(key): value for key, value in node.items()})
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"{error}", f"logger.{PICTURES_NODE}", "It has the keys cases and every.") from error
    if not all(isinstance(value, int) and value >= 0 for value in (settings.cases, settings.every)):
        raise ConfigError("cases and every must be whole numbers of at least 0", f"logger.{PICTURES_NODE}")
    return settings


def _guarded(name: str, node: Any, run: DashboardRun, *, enabled: bool) -> GuardedLogger:
    if not isinstance(node, DictConfig) or "_target_" not in node:
        remedy = "Use logger=tensorboard, wandb, mlflow or many, or name a Lightning logger by _target_."
        raise ConfigError("is no dashboard", f"logger.{name}", remedy)
    arguments = {str(key): value for key, value in instantiate(OmegaConf.masked_copy(node, _arguments(node))).items()}
    return GuardedLogger(name, opener(name, locate(str(node["_target_"])), arguments, run), enabled=enabled)


def _arguments(node: DictConfig) -> list[str]:
    return [str(key) for key in node if key != "_target_"]


def _run_of(setup: TrainingSetup) -> DashboardRun:
    config = setup.config
    parts = [config.dataset, *([config.plan_name] if config.plan_name else []), config.configuration, config.run]
    return DashboardRun(
        folder=setup.folder,
        workspace=Path(config.workspace),
        dataset=str(config.dataset),
        group="/".join(map(str, parts)),
        name=f"fold_{config.fold}",
        tags={"configuration": str(config.configuration), "run": str(config.run), "seed": str(config.seed)},
    )


def _last_step(metrics: Path) -> int:
    try:
        with metrics.open(newline="", encoding="utf-8") as file:
            return max((int(row["step"]) for row in csv.DictReader(file)), default=0)
    except (OSError, ValueError, KeyError):
        return 0  # only validated, and without its training's table


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
