"""`segplan inspect`: look at every case of a raw dataset and write one HTML page."""

import functools
import time
from collections.abc import Sequence
from pathlib import Path

from segplan.dataset import Case, Description, Labels, check_classes, scan_dataset
from segplan.errors import ConfigError, Problem, SegplanError
from segplan.imaging import atomic_write
from segplan.jobs.console import progress, seconds
from segplan.preprocessing import available_cpus, case_size, run_parallel, usable_memory
from segplan.reporting.inspect_page import Survey, inspect_page
from segplan.reporting.survey import CaseLook, look_at_case


def run(folder: Path, output: Path | None = None, num_workers: int | None = None) -> int:
    """Write the page; returns the exit code, 0 also where cases have problems: the page shows them.

    Every worker holds one case at a time.

    Args:
        folder: the dataset, in nnU-Net's raw layout.
        output: the page; by default DATASET_inspect.html in the current folder. A folder: the page of that name in it.
        num_workers: processes; None: the cores at hand.

    Raises:
        DatasetError: dataset.json is missing or wrong.
        ConfigError: the page cannot have this name.
        StorageError: it cannot be written.
    """
    start = time.perf_counter()
    dataset, layout = scan_dataset(folder)
    target = _target(output, dataset.name)
    cases = [case for case in dataset.cases if _is_there(case)]  # of the others `layout` tells
    looks = _look_at_all(cases, dataset.description, available_cpus() if num_workers is None else num_workers)
    ordered = [looks.get(case.identifier, CaseLook(case.identifier, ())) for case in dataset.cases]
    whole = _of_the_whole(ordered, dataset.description.labels)
    survey = Survey(dataset.name, str(dataset.folder), dataset.description, ordered, [*layout, *whole])
    content = inspect_page(survey)
    with atomic_write(target) as temporary:
        temporary.write_text(content, encoding="utf-8")
    fatal = sum(problem.fatal for problem in survey.all_problems)
    notes = len(survey.all_problems) - fatal
    size = len(content.encode()) / 1e6
    spent = seconds(time.perf_counter() - start)
    found = f"{fatal} problem{'s' if fatal != 1 else ''}, {notes} note{'s' if notes != 1 else ''}"
    print(f"{dataset.name}: {len(ordered)} cases, {found}  {spent}")
    print(f"written: {target} ({size:.1f} MB); open it in a browser")
    return 0


def _look_at_all(cases: Sequence[Case], description: Description, num_workers: int) -> dict[str, CaseLook]:
    work = functools.partial(look_at_case, description=description)
    looks: dict[str, CaseLook] = {}
    costs = [case_size(case).inspection_bytes for case in cases]
    preload = ("SimpleITK", "scipy.ndimage")
    # Workers start here, before the progress bar's thread does.
    finished = run_parallel(work, cases, num_workers, _identifier, preload, costs=costs, budget=usable_memory())
    with progress("inspect", len(cases)) as advance:
        for case, result in finished:
            looks[case.identifier] = _failed(case, result) if isinstance(result, SegplanError) else result
            advance()
    return looks


def _is_there(case: Case) -> bool:
    return all(path.exists() for path in (*case.images, *([] if case.label is None else [case.label])))


def _target(output: Path | None, name: str) -> Path:
    default = f"{name}_inspect.html"
    if output is None:
        return Path.cwd() / default
    if output.is_dir():
        return output / default
    if output.suffix.lower() not in (".html", ".htm"):
        raise ConfigError("the page must end in .html", f"output={output}", f"For example output={default}.")
    return output


def _of_the_whole(looks: Sequence[CaseLook], labels: Labels) -> list[Problem]:
    measured = [look for look in looks if look.targets]
    names = enumerate(labels.targets)
    occurring = {name for place, name in names if any(look.targets[place].voxels for look in measured)}
    return check_classes(labels, occurring) if measured else []


def _failed(case: Case, error: SegplanError) -> CaseLook:
    return CaseLook(case.identifier, (Problem(case.identifier, error.what, error.remedy or ""),))


def _identifier(case: Case) -> str:
    return case.identifier
