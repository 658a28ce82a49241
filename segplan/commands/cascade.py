"""`segplan cascade DATASET`."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segplan.entry.launchers import Slurm

HELP = "train a cascade: all folds of 3d_lowres, its segmentations of their cases, then 3d_cascade_fullres"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("dataset", help="name of a planned dataset")
    parser.add_argument("overrides", nargs="*", help="key=value of both trainings, or hydra/launcher=slurm …")
    parser.add_argument("--name", default=None, help="name of the plan, where it is not the default planner's")
    parser.add_argument("--folds", default=None, help="of the second stage, such as 0,1 (default: all)")
    parser.add_argument("--workspace", default=None, help="default $SEGPLAN_WORKSPACE, else ./workspace")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run none")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.entry.locations import workspace_folder
    from segplan.entry.slurm_chain import pop_cluster
    from segplan.jobs.cascade import run as cascade

    workspace: Path = workspace_folder([f"workspace={options.workspace}"] if options.workspace else [])
    launcher, overrides = pop_cluster(options.overrides)
    if launcher is not None and not options.dry_run:
        return _on_cluster(options, overrides, launcher, workspace)
    return cascade(
        workspace,
        options.dataset,
        overrides,
        train=None if options.dry_run else _train,
        name=options.name,
        folds=options.folds,
    )


def _on_cluster(options: argparse.Namespace, overrides: list[str], launcher: "Slurm", workspace: Path) -> int:
    from segplan.entry.slurm_chain import Link, run_chain
    from segplan.jobs.cascade import chain

    first, second = chain(workspace, options.dataset, overrides, name=options.name, folds=options.folds)
    before = [shlex.join(words[:3]) for words in first]
    links = [Link(name, ["train", *words]) for name, words in zip(before, first, strict=True)]
    links += [Link(shlex.join([*words[:2], words[3]]), ["train", *words], after=before) for words in second]
    codes = run_chain(links, launcher, workspace)
    return max(code or 0 for code in codes.values())


def _train(words: list[str]) -> int:
    from segplan.entry.environment import child_environment
    from segplan.entry.processes import run_process

    # A process of its own: training replaces the process that composes it.
    command = [sys.executable, "-m", "segplan.cli", "train", *words]
    return run_process(command, child_environment())
