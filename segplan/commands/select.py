"""`segplan select DATASET`."""

import argparse

HELP = "choose the best trained configuration or ensemble, and its postprocessing; write inference.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("dataset", help="DATASET, or DATASET/NAME for the plans of one name")
    parser.add_argument("--metric", default="dice", help="dice (default), iou, nsd, hd95, assd, lesionf1")
    parser.add_argument("--nsd-tolerance", default="2", help="mm (default 2), or by class: liver:3,tumour:1")
    parser.add_argument("--configurations", default="", help="[2d,3d_fullres] (default: all that are trained)")
    parser.add_argument("--run", dest="run_name", default="default", help="name of the training (default: default)")
    parser.add_argument("--folds", default="", help="[0,1,2] (default: all folds of the dataset)")
    parser.add_argument("--ensembles", default="true", help="false: no ensembles, which need probabilities on disk")
    parser.add_argument(
        "--small-components", default="false", help="true: also choose a smallest component size for each class"
    )
    parser.add_argument("--workspace", default=None, help="default $SEGPLAN_WORKSPACE, else ./workspace")
    parser.add_argument("--output", default=None, help="default: WORKSPACE/runs/DATASET/inference.yaml")
    parser.add_argument("--num-workers", type=int, default=None, help="processes (default: the cores at hand)")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from pathlib import Path

    from segplan.entry.compose import compose_training
    from segplan.entry.locations import workspace_folder
    from segplan.errors import ConfigError
    from segplan.jobs.select import Request
    from segplan.jobs.select import run as select

    def flag(key: str) -> bool:
        value = str(getattr(options, key)).lower()
        if value not in ("true", "false"):
            raise ConfigError("must be true or false", f"{key}={value}")
        return value == "true"

    def words(text: str) -> tuple[str, ...]:
        return tuple(word.strip() for word in text.strip("[]").split(",") if word.strip())

    workspace = workspace_folder([f"workspace={options.workspace}"] if options.workspace else [])
    request = Request(
        workspace,
        options.dataset.strip("/"),
        metric=options.metric,
        nsd_tolerance=options.nsd_tolerance,
        configurations=words(options.configurations),
        run=options.run_name,
        folds=words(options.folds),
        ensembles=flag("ensembles"),
        small_components=flag("small_components"),
        output=None if options.output is None else Path(options.output),
        num_workers=options.num_workers,
    )
    return select(request, lambda plan: compose_training(plan, workspace))
