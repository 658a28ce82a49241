"""Averages the saved probabilities of several predictions of the same images, slab by slab, and writes label maps."""

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from segplan.dataset import Labels
from segplan.errors import ConfigError, DatasetError, Problem, VerificationError
from segplan.imaging import IMAGE_ENDINGS, Geometry, read_label_map, split_ending, write_label_map
from segplan.inference.probabilities import SUFFIX, Kind
from segplan.jobs.console import progress

_WITH = "Predict each with save_probabilities=true into a folder of its own."


def run(folders: Sequence[Path], output: Path, dataset_json: Path | None = None) -> int:
    """Average folders of predictions with probabilities (CASE.probabilities or CASE.npz).

    Args:
        folders: at least two, with the same cases; each also holds the label maps, which give the geometry.
        output: folder for the label maps of the mean.
        dataset_json: says the labels; by default dataset.json in the first folder.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: too few folders, or the output is one of them.
        DatasetError: nothing tells the labels.
        VerificationError: the folders' cases differ, or a case lacks its label map.
        StoreError: probabilities are damaged, or do not fit each other.
    """
    if len(folders) < 2 or output.resolve() in [folder.resolve() for folder in folders]:
        what = "one folder is no ensemble" if len(folders) < 2 else "is one of the folders to average"
        raise ConfigError(what, output, "Give two or more folders, and another one for the result.")
    labels = _labels(folders[0], dataset_json)
    maps = _check_cases(folders)
    output.mkdir(parents=True, exist_ok=True)
    with progress("ensemble", len(maps)) as advance:
        for identifier, label_map in maps.items():
            geometry = read_label_map(label_map).geometry
            average_case(folders, identifier, labels, output / label_map.name, geometry, scratch=output)
            advance()
    source = dataset_json or folders[0] / "dataset.json"
    if source.resolve() != (output / "dataset.json").resolve():
        shutil.copyfile(source, output / "dataset.json")
    print(f"{len(maps)} cases · mean of {len(folders)} predictions: {output}")
    return 0


def average_case(
    folders: Sequence[Path],
    identifier: str,
    labels: Labels,
    path: Path,
    geometry: Geometry,
    *,
    scratch: Path | None = None,
) -> None:
    """Write the label map of the mean of a case's probabilities.

    Args:
        folders: each with the case's CASE.probabilities or CASE.npz.
        identifier: the case's.
        labels: what the channels stand for.
        path: of the label map.
        geometry: of the image.
        scratch: folder for temporary files.

    Raises:
        StoreError: probabilities are missing, damaged, or do not fit each other.
    """
    from segplan.inference.averaging import average_stores
    from segplan.inference.npz_probabilities import open_probabilities, probabilities_path

    kind: Kind = "sigmoid" if labels.has_regions else "softmax"
    with ExitStack() as stack:
        stores = []
        for folder in folders:
            found = probabilities_path(folder, identifier) or folder / f"{identifier}{SUFFIX}"
            stores.append(stack.enter_context(open_probabilities(found, kind, scratch)))
        result, _ = average_stores(stores, labels)
    write_label_map(path, result, geometry)


def _check_cases(folders: Sequence[Path]) -> dict[str, Path]:
    """The label map of each case in the first folder, when all folders have probabilities of the same cases."""
    problems: list[Problem] = []
    cases = [_cases(folder) for folder in folders]
    for identifier in sorted(set().union(*cases)):
        for folder, known in zip(folders, cases, strict=True):
            if identifier not in known:
                problems.append(Problem(identifier, f"there are no probabilities in {folder}", _WITH))
    maps = {
        split_ending(path.name)[0]: path
        for path in sorted(folders[0].iterdir())
        if path.is_file() and path.name.lower().endswith(IMAGE_ENDINGS)
    }
    for identifier in sorted(cases[0] - maps.keys()):
        problems.append(Problem(identifier, f"there is no label map in {folders[0]}", "It gives the image's geometry."))
    if not any(cases):
        problems.append(Problem(None, "there are no probabilities", _WITH))
    if problems:
        raise VerificationError(problems, folders[0])
    return {identifier: maps[identifier] for identifier in sorted(cases[0])}


def _cases(folder: Path) -> set[str]:
    """The cases whose probabilities a folder holds."""
    if not folder.is_dir():
        raise ConfigError("is no folder", folder, "Give folders of predictions.")
    return {
        path.name.removesuffix(ending)
        for ending in (SUFFIX, ".npz")
        for path in folder.glob(f"*{ending}")
        if not path.name.startswith(".") and not path.name.endswith("_labels.npz")
    }


def _labels(folder: Path, dataset_json: Path | None) -> Labels:
    path = dataset_json or folder / "dataset.json"
    try:
        return Labels.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        remedy = "Give the dataset.json of the training: dataset_json=FILE."
        raise DatasetError("cannot be read", path, remedy) from error
