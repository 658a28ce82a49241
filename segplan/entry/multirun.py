"""Sweeps: Hydra starts the jobs, each in a process of its own; one that fails does not stop the others."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from segplan.entry.compose import add_to_search_path, compose_job
from segplan.entry.locations import configs_folder
from segplan.errors import SegplanError


def run_hydra(job: str, arguments: list[str], workspace: Path) -> int:
    """Hand `arguments` to Hydra's own command line; returns the highest exit code of the jobs.

    A line for each job of a sweep is printed at the end: its overrides and how it ended.
    """
    results: list[tuple[str, int]] = []

    def task(_: DictConfig) -> None:
        overrides = [str(item) for item in HydraConfig.get().overrides.task]
        results.append((" ".join(overrides), _run_one(job, overrides, workspace)))

    if job == "train":
        add_to_search_path(workspace)
    sys.argv = [sys.argv[0], *arguments]
    hydra.main(version_base="1.3", config_path=str(configs_folder()), config_name=job)(task)()
    if len(results) > 1:
        for overrides, code in results:
            print(f"{'done' if code == 0 else f'failed ({code})'}: {overrides}")
    return max((code for _, code in results), default=0)


def _run_one(job: str, overrides: list[str], workspace: Path) -> int:
    from segplan.entry.main import report_error, run_composed

    try:
        return run_composed(job, compose_job(job, overrides, workspace), own_process=True)
    except SegplanError as error:
        return report_error(error)
