"""What each kind of dashboard does with metrics, settings, files, pictures and tables; over Lightning's loggers."""

import functools
import importlib
import inspect
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pytorch_lightning.loggers import Logger

from segplan.errors import ConfigError
from segplan.imaging import atomic_write

IDS_FILE = "dashboards.json"
"""In RUN/fold_K: by which id each dashboard knows the run, so that a resumed run goes on in it."""
_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


@dataclass(frozen=True)
class DashboardRun:
    """The run as dashboards name it.

    Args:
        folder: RUN/fold_K.
        workspace: where MLflow's own database stands if there is no server.
        dataset: the dataset's name; W&B's project and MLflow's experiment unless set.
        group: DATASET/[NAME/]CONFIGURATION/RUN: what the folds share.
        name: `fold_K`.
        tags: further plain values by which runs are found.
    """

    folder: Path
    workspace: Path
    dataset: str
    group: str
    name: str
    tags: Mapping[str, str]

    def known_id(self, kind: str) -> str | None:
        """The id under which the dashboard `kind` has this run already."""
        try:
            found = json.loads((self.folder / IDS_FILE).read_text(encoding="utf-8")).get(kind)
        except (OSError, ValueError, AttributeError):
            return None
        return None if found is None else str(found)

    def remember(self, kind: str, identifier: str) -> None:
        """Write down the id under which the dashboard `kind` has this run."""
        path = self.folder / IDS_FILE
        try:
            ids = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            ids = {}
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(ids | {kind: identifier}, indent=1), encoding="utf-8")


class Dashboard(Protocol):
    """What a dashboard is sent; each call may fail and is made again then."""

    def begins(self, step: int) -> None:
        """A training (re)starts after this step; comes before everything else of it."""

    def metrics(self, values: Mapping[str, float], step: int | None) -> None:
        """Values of one step."""

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Settings, flat."""

    def file(self, path: Path) -> None:
        """A text file."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """A PNG, the next one of those called `name`."""

    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table of text."""

    def close(self, status: str) -> None:
        """The run is over."""


def opener(
    name: str, factory: Callable[..., Any], arguments: Mapping[str, Any], run: DashboardRun
) -> Callable[[], Dashboard]:
    """What connects to a dashboard; what the user can mend is refused now, in the training's own thread.

    Args:
        name: its name in the configuration.
        factory: `tensorboard`, `wandb` or `mlflow` of this module, or the class of a Lightning logger.
        arguments: its keyword arguments.
        run: the run to be shown.

    Raises:
        ConfigError: an argument does not exist, or the package is not installed.
    """
    takes_run = "run" in inspect.signature(factory).parameters
    bound = functools.partial(factory, run, **arguments) if takes_run else functools.partial(factory, **arguments)
    try:
        inspect.signature(factory).bind(*bound.args, **bound.keywords)
    except TypeError as error:
        known = ", ".join(key for key in inspect.signature(factory).parameters if key != "run")
        raise ConfigError(f"{error}", f"logger.{name}", f"There are {known}.") from error
    if takes_run:
        if (package := _PACKAGES.get(factory.__name__)) is not None:
            _import(package, name)
        return bound
    built = bound()
    return lambda: _Plain(built)


def tensorboard(run: DashboardRun, save_dir: str | None = None) -> Dashboard:
    """Event files that TensorBoard reads.

    Args:
        run: given by the job.
        save_dir: where; None: RUN/fold_K/tensorboard, so that `tensorboard --logdir workspace/runs` shows all runs.
    """
    folder = run.folder / "tensorboard" if save_dir is None else Path(save_dir, run.group, run.name)
    return _TensorBoard(folder)


def wandb(
    run: DashboardRun,
    *,
    mode: Literal["online", "offline"] = "online",
    project: str | None = None,
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
) -> Dashboard:
    """Weights & Biases.

    Args:
        run: given by the job.
        mode: offline writes RUN/fold_K/wandb, which `wandb sync` sends later.
        project: None: the dataset's name.
        entity: user or team; None: your default one.
        group: None: configuration and run, which the folds share.
        tags: further tags.
    """
    from pytorch_lightning.loggers import WandbLogger
    from wandb import Settings

    identifier = run.known_id("wandb") or uuid.uuid4().hex[:12]
    run.remember("wandb", identifier)
    logger = WandbLogger(
        name=run.name,
        save_dir=str(run.folder),
        id=identifier,
        project=project or run.dataset,
        offline=mode == "offline",
        entity=entity,
        group=group or run.group,
        tags=list(tags),
        resume="allow",
        settings=Settings(silent=True, console="off"),
    )
    _ = logger.experiment  # connects
    return _Wandb(logger)


def mlflow(run: DashboardRun, tracking_uri: str | None = None, experiment: str | None = None) -> Dashboard:
    """MLflow.

    Args:
        run: given by the job.
        tracking_uri: the server; None: $MLFLOW_TRACKING_URI, else a database in the workspace, no server needed.
        experiment: None: the dataset's name. The folds of a run have the tag `group` in common.
    """
    # MLflow's own patience is minutes a call; here the queue waits, and tries again.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from pytorch_lightning.loggers import MLFlowLogger

    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    known = run.known_id("mlflow")
    logger = MLFlowLogger(
        experiment_name=experiment or run.dataset,
        run_name=f"{run.group.partition('/')[2]} {run.name}",
        tracking_uri=uri or f"sqlite:///{run.workspace / 'mlflow.db'}",
        tags={"group": run.group, "fold": run.name, **run.tags},
        artifact_location=None if uri else (run.workspace / "mlflow").as_uri(),
        run_id=known,
    )
    identifier = logger.run_id  # connects
    if known is None and identifier is not None:
        run.remember("mlflow", identifier)
    elif known is not None:
        logger.experiment.update_run(known, status="RUNNING")
    return _MLflow(logger, is_new=known is None)


class _Plain:
    """Any Lightning logger: it takes metrics and settings."""

    def __init__(self, logger: Logger) -> None:
        self.logger: Any = logger

    def begins(self, step: int) -> None:
        """What it has of later steps is sent again, and stands there twice."""

    def metrics(self, values: Mapping[str, float], step: int | None) -> None:
        self.logger.log_metrics(dict(values), step)

    def parameters(self, values: Mapping[str, Any]) -> None:
        self.logger.log_hyperparams(dict(values))

    def file(self, path: Path) -> None:
        """Nowhere to put it."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """Nowhere to put it."""

    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Nowhere to put it."""

    def close(self, status: str) -> None:
        self.logger.finalize(status)


class _TensorBoard(_Plain):
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        super().__init__(_tensorboard_logger(folder))

    def begins(self, step: int) -> None:
        # TensorBoard then hides the events of steps that a killed training had reached beyond its last save.
        self.logger = _tensorboard_logger(self._folder, purge_step=step + 1)

    def parameters(self, values: Mapping[str, Any]) -> None:
        """The whole configuration comes as a file; the plug-in for settings wants a session of its own."""

    def file(self, path: Path) -> None:
        lines = path.read_text(encoding="utf-8").splitlines()
        self.logger.experiment.add_text(path.name, "\n".join(f"    {line}" for line in lines))

    def picture(self, name: str, path: Path, step: int) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as picture:
            self.logger.experiment.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        lines = [header, ["---"] * len(header), *rows]
        self.logger.experiment.add_text(name, "\n".join(f"| {' | '.join(line)} |" for line in lines))


def _tensorboard_logger(folder: Path, **more: Any) -> Logger:
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(save_dir=str(folder), name="", version="", default_hp_metric=False, **more)


class _Wandb(_Plain):
    def parameters(self, values: Mapping[str, Any]) -> None:
        # Of a resumed run some, such as trainer.max_epochs, may have changed.
        self.logger.experiment.config.update(dict(values), allow_val_change=True)

    def file(self, path: Path) -> None:
        # What stands in the run's own folder is sent with it; in a folder below, as W&B has a config.yaml of its own.
        folder = Path(self.logger.experiment.dir, "segplan")
        folder.mkdir(exist_ok=True)
        shutil.copyfile(path, folder / path.name)

    def picture(self, name: str, path: Path, step: int) -> None:
        self.logger.log_image(name, [str(path)], step)

    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.logger.log_table(name, list(header), [list(row) for row in rows])

    def close(self, status: str) -> None:
        self.logger.experiment.finish(exit_code=0 if status == "success" else 1)


class _MLflow(_Plain):
    def __init__(self, logger: Logger, *, is_new: bool) -> None:
        super().__init__(logger)
        self._is_new = is_new

    def parameters(self, values: Mapping[str, Any]) -> None:
        if self._is_new:  # MLflow refuses to change one
            super().parameters(values)

    def file(self, path: Path) -> None:
        self.logger.experiment.log_artifact(self.logger.run_id, str(path))

    def picture(self, name: str, path: Path, step: int) -> None:
        self.logger.experiment.log_artifact(self.logger.run_id, str(path), name)

    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        columns = {key: [row[index] for row in rows] for index, key in enumerate(header)}
        self.logger.experiment.log_dict(self.logger.run_id, columns, f"{name}.json")


def _import(package: str, name: str) -> None:
    """Load a tracker in the main thread, before loader processes are forked.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        importlib.import_module(package)
    except ImportError as error:
        wanted = package if package == "wandb" else f"'segplan[{package}]'"
        remedy = f"Install it: pip install {wanted}."
        raise ConfigError(f"the package {package} is not installed", f"logger.{name}", remedy) from error
