"""The job behind `plan.py`: verify, fingerprint, plan, preprocess; a stage that is done and still valid is skipped."""

import json
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from segplan.dataset import Description, RawDataset, read_splits, scan_dataset
from segplan.errors import ConfigError, DatasetError, PlanError
from segplan.jobs.console import print_problems, print_table, seconds, workspace_word
from segplan.jobs.fill_stores import drop_other_cases, preprocess_all
from segplan.jobs.folds import SplitSettings, write_folds
from segplan.jobs.inspection import inspect_dataset, write_json
from segplan.jobs.plan_description import read_plan_description
from segplan.jobs.plan_node import check_plan, store_folder
from segplan.jobs.planner_settings import measure_for, planner_settings, refuse_unknown
from segplan.planning import (
    CONFIGURATIONS,
    DatasetPlan,
    Fingerprint,
    Kept,
    PlannerSettings,
    describe_images,
    emit,
    emitted_configurations,
    plan_dataset,
    plan_table,
    read_fingerprint,
    write_fingerprint,
)
from segplan.preprocessing import available_cpus

STAGES = ("verify", "fingerprint", "plan", "preprocess")
_MOST_LINES = 24
_DECISIVE = ("channel_names", "modality", "labels", "regions_class_order", "numTraining", "file_ending")  # dataset.json

Compose = Callable[[str], Mapping[str, Any]]
"""Address of a plan, DATASET/[NAME/]CONFIGURATION, to the configuration that training with it composes."""


@dataclass(frozen=True)
class _Job:
    workspace: Path
    stages: tuple[str, ...]
    configurations: tuple[str, ...]
    planner: PlannerSettings
    split: SplitSettings
    name: str | None
    num_workers: int
    memory: int | None
    shard: int
    num_shards: int
    force: bool

    def plan_folder(self, dataset: str) -> Path:
        folder = self.workspace / "plan" / dataset
        return folder / self.name if self.name else folder

    def check_configurations(self, dataset: str) -> None:
        """Refuse a configuration that is neither one of the method's nor a file of the user's own."""
        folder = self.plan_folder(dataset)
        own = [name for name in self.configurations if name not in CONFIGURATIONS]
        if unknown := [name for name in own if not (folder / f"{name}.yaml").is_file()]:
            raise ConfigError(
                f"there is no configuration {unknown[0]}",
                remedy=f"Choose among {', '.join(CONFIGURATIONS)}, or write {folder / unknown[0]}.yaml.",
            )


def run(config: DictConfig, compose: Compose) -> int:
    """Run the stages that `config` (configs/plan.yaml, composed) asks for; returns the exit code.

    Args:
        config: the job's configuration.
        compose: composes a planned configuration, a user's own file included.
    """
    job = _job_of(config)
    if config.fingerprint is not None:
        return _plan_from_files(job, config)
    if config.dataset is None:
        raise ConfigError(
            "dataset= is missing", remedy="Name a folder in nnU-Net's raw layout: python plan.py dataset=FOLDER."
        )
    start = time.perf_counter()
    dataset, layout = scan_dataset(_dataset_folder(str(config.dataset), job.workspace))
    job.check_configurations(dataset.name)
    _print_title(dataset)
    records = job.workspace / "fingerprints" / dataset.name
    again = job.force and ("verify" in job.stages or "fingerprint" in job.stages)
    inspected = inspect_dataset(dataset, layout, records, job.num_workers, force=again)
    spent = seconds(time.perf_counter() - start) if inspected.fresh else "done before"
    if inspected.notes:
        print_problems(inspected.notes)
    print(
        f"{'verify':13}{len(dataset.cases)} ok, {len(inspected.notes)} note{'' if len(inspected.notes) == 1 else 's'}"
    )
    print(f"{'fingerprint':13}{describe_images(inspected.fingerprint)}  {spent}")
    if "plan" in job.stages:
        _plan(job, dataset.name, inspected.fingerprint, dataset.description, dataset)
    if "preprocess" in job.stages:
        _preprocess(job, dataset, inspected.fingerprint, compose)
    _print_next(job, dataset.name)
    return 0


def _plan_from_files(job: _Job, config: DictConfig) -> int:
    if config.dataset_json is None:
        raise ConfigError(
            "fingerprint= needs dataset_json= too", remedy="Name the dataset.json that belongs to the fingerprint."
        )
    file = Path(str(config.fingerprint))
    description = read_plan_description(Path(str(config.dataset_json)))
    name = str(description.raw.get("name") or file.absolute().parent.name)
    fingerprint = read_fingerprint(file)
    job.check_configurations(name)
    print(f"{name} · {len(fingerprint.spacings)} cases")
    _plan(job, name, fingerprint, description)
    return 0


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
    if not configurations:
        raise ConfigError("configurations=[] asks for nothing", remedy=f"Choose among {', '.join(CONFIGURATIONS)}.")
    if not 0 <= config.shard < config.num_shards:
        raise ConfigError(f"shard={config.shard} must lie between 0 and num_shards-1 ({config.num_shards - 1})")
    workers = available_cpus() if config.num_workers == "auto" else config.num_workers
    if not isinstance(workers, int) or workers < 0:
        raise ConfigError(f"num_workers={workers} must be auto or a whole number of at least 0")
    settings = planner_settings(_plain(config.planner))
    usual = None if settings.name == "default" else settings.name
    if settings.adopt is not None:
        usual = "adopted"  # it must not take the place of the dataset's own plan
    name = config.name if config.name is not None else usual
    split = _plain(config.split)
    refuse_unknown(split, SplitSettings, "split")
    return _Job(
        Path(config.workspace),
        stages,
        configurations,
        settings,
        SplitSettings(**split),
        name,
        workers,
        _memory(config.memory_gb),
        config.shard,
        config.num_shards,
        bool(config.force),
    )


def _memory(given: Any) -> int | None:
    """`memory_gb` in bytes; None for auto."""
    if given == "auto":
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or given <= 0:
        raise ConfigError(f"memory_gb={given} must be auto or a number above 0")
    return int(given * 2**30)


def _plain(node: DictConfig) -> dict[str, Any]:
    container = OmegaConf.to_container(node, resolve=True)
    return {str(key): value for key, value in container.items()} if isinstance(container, dict) else {}


def _dataset_folder(given: str, workspace: Path) -> Path:
    """The raw folder that `given` names: a path, or the name of a dataset that was verified here before."""
    if Path(given).expanduser().is_dir():
        return Path(given).expanduser().resolve()
    record = workspace / "fingerprints" / given / "verification.json"
    if record.is_file():
        return _verified_folder(record)
    known = sorted(path.parent.name for path in (workspace / "fingerprints").glob("*/verification.json"))
    more = f" or the name of a dataset known here ({', '.join(known)})" if known else ""
    raise DatasetError("no such folder", where=given, remedy=f"Give the path of the raw dataset{more}.")


def _verified_folder(record: Path) -> Path:
    try:
        return Path(json.loads(record.read_text(encoding="utf-8"))["folder"])
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError("is damaged", record, "Name the path of the raw dataset: dataset=FOLDER.") from error


def _plan(
    job: _Job, dataset: str, fingerprint: Fingerprint, description: Description, raw: RawDataset | None = None
) -> None:
    """Plan what is asked for and what the folder holds already, so that all its files are of one plan."""
    folder = job.plan_folder(dataset)
    names = [name for name in CONFIGURATIONS if name in {*job.configurations, *emitted_configurations(folder)}]
    if not names:
        return
    plan = plan_dataset(
        fingerprint,
        description,
        job.planner,
        names,
        dataset=dataset,
        plan_name=job.name,
        measure=measure_for(job.planner),
    )
    own = None if raw is None else raw.folder / "splits_final.json"
    first = folder.parent / "splits_final.json" if job.name else None
    identifiers = fingerprint.case_ids if raw is None else [case.identifier for case in raw.cases]
    path = folder / "splits_final.json"  # first: folds that cannot be made leave the plan as it is
    notes = write_folds(path, identifiers, job.split, fingerprint, own=own, sibling=first, force=job.force)
    emission = emit(plan, folder)
    write_json(folder / "dataset.json", dict(description.raw))
    write_fingerprint(folder / "dataset_fingerprint.json", fingerprint)
    _print_plan(plan)
    for gone in emission.removed:
        settled = gone.name.endswith(".new.yaml")
        print(f"removed {gone}: {'its question is settled' if settled else 'it is not planned any more'}")
    for path in emission.edited:
        print(f"note: {path} was edited: what it says counts, not the line above")
    for kept in emission.kept:
        _print_kept(kept)
    for note in notes:
        print(f"note: {note}")


def _preprocess(job: _Job, dataset: RawDataset, fingerprint: Fingerprint, compose: Compose) -> None:
    folder = job.plan_folder(dataset.name)
    address = folder.relative_to(job.workspace / "plan").as_posix()
    planned = [name for name in job.configurations if (folder / f"{name}.yaml").is_file()]
    if not planned:
        raise PlanError("nothing is planned yet", where=dataset.name, remedy="Add plan to stages.")
    nodes = {name: dict(compose(f"{address}/{name}")["plan"]) for name in planned}
    for name, node in nodes.items():
        check_plan(node, f"{address}/{name}")
        if node["dataset"] != dataset.name:
            raise PlanError(f"is a plan of {node['dataset']}", f"{address}/{name}", "Plan this dataset first.")
    _check_fresh(nodes, folder, fingerprint, dataset)
    cases = dataset.cases[job.shard :: job.num_shards]
    spacings = set(fingerprint.spacings)
    preprocess_all(
        dataset.folder,
        cases,
        nodes,
        job.workspace,
        job.num_workers,
        memory=job.memory,
        spacings=spacings,
        force=job.force,
    )
    if job.num_shards == 1:
        drop_other_cases(cases, nodes, job.workspace)
    for name, node in nodes.items():
        if name not in CONFIGURATIONS:
            print(f"{'':13}{name} has its data in {store_folder(job.workspace, node).name}")


def _check_fresh(nodes: Mapping[str, Mapping[str, Any]], folder: Path, now: Fingerprint, raw: RawDataset) -> None:
    """Notice a plan that was made from other images, or from another dataset.json, than those at hand."""
    known = now.hash()
    name = next((name for name, node in nodes.items() if node.get("fingerprint", known) != known), None)
    if name is None and _is_described_as(raw, folder / "dataset.json"):
        return
    made_from = folder / "dataset_fingerprint.json"
    planned = read_fingerprint(made_from) if name is not None and made_from.is_file() else None
    if planned is not None and planned.source_hash is None and len(planned.spacings) == len(now.spacings):
        print(f"note: {name} was planned from a given fingerprint, not from these images")
        return
    raise PlanError(
        "the dataset has changed since it was planned (cases, images or dataset.json)",
        raw.name,
        "Plan again: add plan to stages.",
    )


def _is_described_as(raw: RawDataset, planned: Path) -> bool:
    if not planned.is_file():
        return True
    before = read_plan_description(planned).raw
    return all(before.get(key) == raw.description.raw.get(key) for key in _DECISIVE)


def _print_title(dataset: RawDataset) -> None:
    description = dataset.description
    classes = len(description.labels.targets)
    noun = f"{classes} class" if classes == 1 else f"{classes} classes"
    print(f"{dataset.name} · {len(dataset.cases)} cases · {', '.join(description.channel_names)} · {noun}")


def _print_plan(plan: DatasetPlan) -> None:
    rows = [
        [row.configuration, row.patch, row.batch, row.stages, row.parameters, row.memory, row.note]
        for row in plan_table(plan)
    ]
    planned = [row for row in rows if row[1]]
    print_table([], [["plan".ljust(11) if index == 0 else "", *row] for index, row in enumerate(planned)])
    missing: dict[str, list[str]] = {}
    for row in rows[len(planned) :]:
        missing.setdefault(row[-1], []).append(row[0])
    for why, names in missing.items():
        print(f"{'':13}{', '.join(names)}: {why}")
    for name, configuration in plan.configurations.items():
        if configuration.warning:
            print(f"warning: {name} {configuration.warning}")


def _print_kept(kept: Kept) -> None:
    if kept.new is None:
        print(f"kept {kept.path}, which was edited, although it is not planned any more")
        return
    print(f"kept {kept.path}, which was edited; the new plan is {kept.new.name} beside it (- yours, + new):")
    for line in kept.difference[:_MOST_LINES]:
        print(f"  {line}")
    if len(kept.difference) > _MOST_LINES:
        print(f"  … and {len(kept.difference) - _MOST_LINES} more lines")
    print('  Take over what you want. With its line "# content …" taken over too, the question is settled.')


def _print_next(job: _Job, dataset: str) -> None:
    folder = job.plan_folder(dataset)
    splits = folder / "splits_final.json"
    fold = "all" if splits.is_file() and not read_splits(splits) else "0"  # too few cases have no folds
    for name in sorted(job.configurations, key=lambda name: (name != "3d_fullres", name != "2d")):
        file = folder / f"{name}.yaml"
        if file.is_file() and "\n  runnable: false" not in file.read_text(encoding="utf-8", errors="replace"):
            address = folder.relative_to(job.workspace / "plan").as_posix()
            words = [f"plan={address}/{name}", f"fold={fold}", *workspace_word(job.workspace)]
            print(f"Next: python train.py {shlex.join(words)}")
            return
