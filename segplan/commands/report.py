"""`segplan report RUN|DATASET`."""

import argparse
from pathlib import Path

HELP = "one HTML page about trained models: scores, cases in pictures, training, plan and commands"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("target", help="a run's folder, or DATASET[/NAME][/CONFIGURATION[/RUN]] in the workspace")
    parser.add_argument("--output", type=Path, help="the page to write (default: DATASET_report.html here)")
    parser.add_argument("--selection", type=Path, help="of segplan select (default: the dataset's inference.yaml)")
    parser.add_argument("--workspace", default=None, help="default $SEGPLAN_WORKSPACE, else ./workspace")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.entry.compose import compose_training
    from segplan.entry.locations import workspace_folder
    from segplan.jobs.explain import explanation_of
    from segplan.jobs.report import find_runs
    from segplan.jobs.report import run as report
    from segplan.planning.explanation import Explanation

    given = workspace_folder([f"workspace={options.workspace}"] if options.workspace else [])
    workspace, _ = find_runs(options.target, given)

    def explain(plan: str) -> Explanation:
        return explanation_of(compose_training(plan, workspace), (workspace / "plan" / plan).parent, plan)[0]

    words = ["segplan", "report", options.target]
    words += [f"{key}={value}" for key in ("output", "selection") if (value := getattr(options, key))]
    return report(options.target, options.output, workspace, explain, words, selection_file=options.selection)
