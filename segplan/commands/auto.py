"""`segplan auto DATASET`."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segplan.entry.launchers import Slurm
    from segplan.jobs.auto import Launch
    from segplan.jobs.auto_steps import AutoSettings, Step

HELP = "plan, train all folds, select, export a model and write a report; stopped at any moment it goes on"

_OF_PLANNING = ("planner", "stages", "num_workers", "name", "split", "verify", "fingerprint")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("dataset", help="the raw dataset's folder, or the name of a planned one")
    help_text = "key=value of every training; planner… and split… go to planning; hydra/launcher=slurm hydra.launcher.…"
    parser.add_argument("override", nargs="*", help=help_text)
    parser.add_argument(
        "--budget", help="100 (epochs), 100x50 (epochs of 50 batches), or 12h (30min, 2d) for all folds"
    )
    parser.add_argument("--configurations", help="such as [2d,3d_fullres]; default: all that are planned")
    parser.add_argument("--folds", help="such as [0,1,2]; default: all; all: train on every case, without scores")
    parser.add_argument("--run", dest="run_name", default="default", help="name of the runs' folders")
    parser.add_argument("--workspace", default=None, help="default $SEGPLAN_WORKSPACE, else ./workspace")
    parser.add_argument("--dry-run", action="store_true", help="print the steps with time and disk, and run none")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.entry.locations import workspace_folder
    from segplan.entry.slurm_chain import pop_cluster
    from segplan.jobs.auto import plan_first, plan_on_cluster, refuse_hours, run_on_cluster, show
    from segplan.jobs.auto import run as auto
    from segplan.jobs.auto_budget import parse_budget
    from segplan.jobs.auto_steps import AutoSettings
    from segplan.jobs.console import workspace_word
    from segplan.jobs.prepare import check_name

    workspace = workspace_folder([f"workspace={options.workspace}"] if options.workspace else [])
    budget = parse_budget(options.budget)
    launcher, overrides = pop_cluster(options.override)
    if launcher is not None:
        refuse_hours(budget)
    planning = [word for word in overrides if _key(word).split(".")[0].split("@")[0] in _OF_PLANNING]
    training = [word for word in overrides if word not in planning]
    dataset = Path(options.dataset).expanduser()
    group = _group(dataset.resolve().name if dataset.is_dir() else options.dataset, planning)
    chosen = _listed(options.configurations)
    check_name(options.run_name)
    settings = AutoSettings(workspace, group, chosen, _listed(options.folds), training, run=options.run_name)
    if dataset.is_dir() and not (options.dry_run and _is_planned(workspace / "plan" / group, chosen)):
        words = ["plan", f"dataset={dataset.resolve()}", *_to_plan(chosen), *planning, *workspace_word(workspace)]
        if launcher is None or options.dry_run:
            code = plan_first(words, _execute, only=options.dry_run)
        else:
            code = plan_on_cluster(settings, words, _launch(settings, replace(launcher, wait=True)))
        if code:
            return code

    def compose(plan: str, overrides: Sequence[str]) -> Mapping[str, Any]:
        return _compose(plan, overrides, workspace)

    if options.dry_run:
        return show(settings, budget, compose, cluster=None if launcher is None else launcher.described)
    if launcher is not None:
        return run_on_cluster(settings, budget, _launch(settings, launcher), compose)
    return auto(settings, budget, _execute, compose)


def _launch(settings: "AutoSettings", launcher: "Slurm") -> "Launch":
    from segplan.entry.slurm_chain import Link, run_chain
    from segplan.jobs.auto_record import job_of_step

    def launch(steps: "Sequence[Step]") -> Mapping[str, int | None]:
        logs = {step.name: None if step.kind == "train" else job_of_step(step, settings).log for step in steps}
        links = [Link(step.name, step.words, step.after, logs[step.name]) for step in steps]
        return run_chain(links, launcher, settings.workspace, ended_count=True)

    return launch


def _is_planned(folder: Path, chosen: Sequence[str] | None) -> bool:
    return all((folder / f"{name}.yaml").is_file() for name in ("_dataset", *(chosen or ())))


def _to_plan(chosen: Sequence[str] | None) -> list[str]:
    """The word that has the chosen configurations planned; none for the default, or where one is the user's own."""
    from segplan.jobs.fold_done import CASCADE, LOWRES
    from segplan.planning import CONFIGURATIONS

    if not chosen or not set(chosen) <= set(CONFIGURATIONS):
        return []
    names = [*([LOWRES] if CASCADE in chosen and LOWRES not in chosen else []), *chosen]
    return [f"configurations=[{','.join(names)}]"]


def _group(dataset: str, planning: Sequence[str]) -> str:
    """DATASET or DATASET/NAME, as planning names it."""
    values = {_key(word): word.partition("=")[2] for word in planning}
    planner = values.get("planner", "default")
    name = values.get("name", "" if planner == "default" else planner)
    return f"{dataset}/{name}" if name else dataset


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [item.strip() for item in text.strip("[] ").split(",") if item.strip()]


def _compose(plan: str, overrides: Sequence[str], workspace: Path) -> Mapping[str, Any]:
    from omegaconf import OmegaConf

    from segplan.entry.arguments import quote
    from segplan.entry.compose import compose_job

    config = compose_job("train", [f"plan={quote(plan)}", *overrides], workspace)
    plain = OmegaConf.to_container(config, resolve=True)
    return {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}


def _execute(words: Sequence[str]) -> int:
    """Run `segplan WORDS` in a process of its own, and hand on what stops this one."""
    import sys

    from segplan.entry.environment import child_environment
    from segplan.entry.processes import run_process

    return run_process([sys.executable, "-m", "segplan.cli", *words], child_environment())
