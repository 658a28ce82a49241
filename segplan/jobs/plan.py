"""The job behind `plan.py`: verify, fingerprint, plan, preprocess; a stage that is done and still valid is skipped."""

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, ListConfig, OmegaConf

from segplan.dataset import Description, RawDataset, make_splits, read_splits, scan_dataset, write_splits
from segplan.errors import ConfigError, DatasetError, PlanError
from segplan.jobs.console import print_problems, print_table, seconds
from segplan.jobs.fill_stores import drop_other_cases, preprocess_all, read_plan_node
from segplan.jobs.inspection import inspect_dataset, write_json
from segplan.planning import (
    CONFIGURATIONS,
    DatasetPlan,
    Fingerprint,
    PlannerSettings,
    emit,
    plan_dataset,
    plan_table,
    read_fingerprint,
)
from segplan.preprocessing import available_cpus

STAGES = ("verify", "fingerprint", "plan", "preprocess")
FOLDS = 5


@dataclass(frozen=True)
class _Job:
    workspace: Path
    stages: tuple[str, ...]
    configurations: tuple[str, ...]
    planner: PlannerSettings
    name: str | None
    num_workers: int
    shard: int
    num_shards: int
    force: bool

    def plan_folder(self, dataset: str) -> Path:
        folder = self.workspace / "plan" / dataset
        return folder / self.name if self.name else folder


def run(config: DictConfig) -> int:
    """Run the stages that `config` (configs/plan.yaml, composed) asks for; returns the exit code."""
    job = _job_of(config)
    if config.fingerprint is not None:
        return _plan_from_files(job, config)
    if config.dataset is None:
        raise ConfigError(
            "dataset= is missing", remedy="Name a folder in nnU-Net's raw layout: python plan.py dataset=FOLDER."
        )
    start = time.perf_counter()
    dataset, layout = scan_dataset(_dataset_folder(str(config.dataset), job.workspace))
    _print_title(dataset)
    records = job.workspace / "fingerprints" / dataset.name
    again = job.force and ("verify" in job.stages or "fingerprint" in job.stages)
    inspected = inspect_dataset(dataset, layout, records, job.num_workers, force=again)
    spent = seconds(time.perf_counter() - start) if inspected.fresh else "done before"
    if inspected.notes:
        print_problems(inspected.notes)
    print(f"{'verify':13}{len(dataset.cases)} ok, {len(inspected.notes)} notes")
    print(f"{'fingerprint':13}{_describe(inspected.fingerprint)}  {spent}")
    if "plan" in job.stages:
        plan = plan_dataset(
            inspected.fingerprint,
            dataset.description,
            job.planner,
            job.configurations,
            dataset=dataset.name,
            plan_name=job.name,
        )
        _write_plan(job, plan, dataset.description, [case.identifier for case in dataset.cases], dataset.folder)
        _print_plan(plan)
    if "preprocess" in job.stages:
        _preprocess(job, dataset, inspected.fingerprint)
    _print_next(job, dataset.name)
    return 0


def _plan_from_files(job: _Job, config: DictConfig) -> int:
    if config.dataset_json is None:
        raise ConfigError(
            "fingerprint= needs dataset_json= too", remedy="Name the dataset.json that belongs to the fingerprint."
        )
    file = Path(str(config.fingerprint))
    description = _description(Path(str(config.dataset_json)))
    name = str(description.raw.get("name") or file.absolute().parent.name)
    fingerprint = read_fingerprint(file)
    plan = plan_dataset(fingerprint, description, job.planner, job.configurations, dataset=name, plan_name=job.name)
    print(f"{name} · {len(fingerprint.spacings)} cases")
    _write_plan(job, plan, description, fingerprint.case_ids, None)
    _print_plan(plan)
    return 0


def _description(path: Path) -> Description:
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot be read as JSON ({error})", where=path, remedy="Name a dataset.json.") from error
    return Description.from_json(raw, path)


def _job_of(config: DictConfig) -> _Job:
    for key, kind in (("stages", ListConfig), ("configurations", ListConfig), ("shard", int), ("num_shards", int)):
        if not isinstance(config[key], kind):
            raise ConfigError(f"{key}={config[key]} must be {'a list' if kind is ListConfig else 'a whole number'}")
    stages = tuple(str(stage) for stage in config.stages)
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise ConfigError(
            f"stages={list(stages)}: there is no stage {unknown[0]}", remedy=f"Choose among {', '.join(STAGES)}."
        )
    configurations = tuple(str(name) for name in config.configurations)
    if unknown := [name for name in configurations if name not in CONFIGURATIONS]:
        raise ConfigError(
            f"there is no configuration {unknown[0]}", remedy=f"Choose among {', '.join(CONFIGURATIONS)}."
        )
    if not 0 <= config.shard < config.num_shards:
        raise ConfigError(f"shard={config.shard} must lie between 0 and num_shards-1 ({config.num_shards - 1})")
    workers = available_cpus() if config.num_workers == "auto" else config.num_workers
    if not isinstance(workers, int) or workers < 0:
        raise ConfigError(f"num_workers={workers} must be auto or a whole number of at least 0")
    planner: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in _plain(config.planner).items()
    }
    settings = PlannerSettings(**planner)
    name = config.name if config.name is not None else (None if settings.name == "default" else settings.name)
    return _Job(
        Path(config.workspace),
        stages,
        configurations,
        settings,
        name,
        workers,
        config.shard,
        config.num_shards,
        bool(config.force),
    )


def _plain(node: DictConfig) -> dict[str, Any]:
    container = OmegaConf.to_container(node, resolve=True)
    return {str(key): value for key, value in container.items()} if isinstance(container, dict) else {}


def _dataset_folder(given: str, workspace: Path) -> Path:
    """The raw folder that `given` names: a path, or the name of a dataset that was verified here before."""
    if Path(given).expanduser().is_dir():
        return Path(given).expanduser().resolve()
    record = workspace / "fingerprints" / given / "verification.json"
    if record.is_file():
        return Path(json.loads(record.read_text(encoding="utf-8"))["folder"])
    known = sorted(path.parent.name for path in (workspace / "fingerprints").glob("*/verification.json"))
    more = f" or the name of a dataset known here ({', '.join(known)})" if known else ""
    raise DatasetError("no such folder", where=given, remedy=f"Give the path of the raw dataset{more}.")


def _write_plan(
    job: _Job, plan: DatasetPlan, description: Description, identifiers: Sequence[str], raw: Path | None
) -> None:
    folder = job.plan_folder(plan.dataset)
    for file in emit(plan, folder):
        if file.name.endswith(".new.yaml"):
            print(f"kept {file.name.replace('.new', '')}, which was edited; the new plan is {file}")
    write_json(folder / "dataset.json", dict(description.raw))
    _write_splits(folder / "splits_final.json", identifiers, raw, force=job.force)


def _write_splits(path: Path, identifiers: Sequence[str], raw: Path | None, *, force: bool) -> None:
    """The dataset's own split file if it has one, else nnU-Net's five folds; fixed from the raw cases, once."""
    if raw is not None and (raw / path.name).is_file():
        write_splits(path, read_splits(raw / path.name))
        return
    if not identifiers:
        return
    known = read_splits(path) if path.is_file() else []
    covered = {name for split in known for name in (*split.train, *split.validation)}
    if covered == set(identifiers):
        return
    if covered and not force:
        print(f"note: {path} was made for other cases; force=true makes it anew")
    elif len(identifiers) >= FOLDS:
        write_splits(path, make_splits(sorted(identifiers)))
    else:
        print(f"note: {len(identifiers)} cases are too few for {FOLDS} folds; fold=all trains on all of them")
        write_splits(path, [])


def _preprocess(job: _Job, dataset: RawDataset, fingerprint: Fingerprint) -> None:
    folder = job.plan_folder(dataset.name)
    nodes = {name: node for name in job.configurations if (node := read_plan_node(folder, name)) is not None}
    if not nodes:
        raise PlanError("nothing is planned yet", where=dataset.name, remedy="Add plan to stages.")
    cases = dataset.cases[job.shard :: job.num_shards]
    spacings = set(fingerprint.spacings)
    preprocess_all(dataset.folder, cases, nodes, job.workspace, job.num_workers, spacings=spacings, force=job.force)
    if job.num_shards == 1:
        drop_other_cases(cases, nodes, job.workspace)


def _print_title(dataset: RawDataset) -> None:
    description = dataset.description
    classes = len(description.labels.targets)
    print(f"{dataset.name} · {len(dataset.cases)} cases · {', '.join(description.channel_names)} · {classes} classes")


def _describe(fingerprint: Fingerprint) -> str:
    spacing = "×".join(f"{value:.3g}" for value in np.median(fingerprint.spacings, axis=0))
    shape = "×".join(f"{value:.0f}" for value in np.median(fingerprint.shapes_after_crop, axis=0))
    return f"spacing {spacing} mm (median)  size {shape}"


def _print_plan(plan: DatasetPlan) -> None:
    rows = [
        [row.configuration, row.patch, row.batch, row.stages, row.parameters, row.memory, row.note]
        for row in plan_table(plan)
    ]
    planned = [row for row in rows if row[1]]
    print_table([], [["plan" if index == 0 else "", *row] for index, row in enumerate(planned)])
    for row in rows[len(planned) :]:
        print(f"{'':13}{row[0]}: {row[-1]}")


def _print_next(job: _Job, dataset: str) -> None:
    folder = job.plan_folder(dataset)
    elsewhere = job.workspace != Path("workspace").absolute()
    for name in ("3d_fullres", "2d"):
        if (folder / f"{name}.yaml").is_file():
            address = folder.relative_to(job.workspace / "plan").as_posix()
            words = [f"plan={address}/{name}", "fold=0", *([f"workspace={job.workspace}"] if elsewhere else [])]
            print(f"Next: python train.py {shlex.join(words)}")
            return
