"""Look at every case of a raw dataset once: verify it and take its part of the fingerprint in the same read."""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segplan.dataset import Case, Description, Labels, RawDataset, check_case, check_classes, scan_dataset
from segplan.dataset.source_files import files_of
from segplan.errors import ImageError, Problem, SegplanError, VerificationError
from segplan.imaging import atomic_write, axis_codes, nonzero_box, read_image, read_label_map
from segplan.jobs.console import print_problems, progress
from segplan.planning import (
    CaseFingerprint,
    Fingerprint,
    FingerprintAccumulator,
    fingerprint_case,
    read_fingerprint,
    write_fingerprint,
)
from segplan.preprocessing import available_cpus, case_size, run_parallel, usable_memory

_SMALL = 1 << 16


@dataclass(frozen=True)
class Inspection:
    """What one look at a case gave; `fingerprint` is None where a problem is fatal, or once it is merged.

    `present` holds the foreground values of the label map, `orientation` the letters of `segplan.imaging.axis_codes`.
    """

    problems: tuple[Problem, ...]
    fingerprint: CaseFingerprint | None = None
    present: tuple[int, ...] = ()
    orientation: str = ""
    measured: bool = False


def inspect_case(case: Case, description: Description) -> Inspection:
    """Read a training case, check it, and measure it; runs in worker processes.

    Problems are returned, not raised, so that one bad case hides no other.
    """
    try:
        image = read_image(case.images)
        label_map = read_label_map(case.label) if case.label is not None else None
    except ImageError as error:
        problem = Problem(
            case.identifier, error.what if error.where is None else f"{error.where}: {error.what}", error.remedy or ""
        )
        return Inspection((problem,))
    problems = tuple(check_case(case, description, image, label_map))
    if label_map is None or any(problem.fatal for problem in problems):
        return Inspection(problems)
    _, box = nonzero_box(image.array)
    foreground = foreground_mask(label_map.array[0], description.labels)
    present = _values(label_map.array[0][foreground])
    part = fingerprint_case(image.array, image.spacing, foreground, box, case.identifier, labels=present)
    return Inspection(problems, part, tuple(present), axis_codes(image.geometry), measured=True)


def foreground_mask(label_map: np.ndarray, labels: Labels) -> np.ndarray:
    """Where `label_map` (Z, Y, X) holds a structure: above 0 and not the ignore label."""
    mask: np.ndarray = label_map > 0
    return mask if labels.ignore is None else mask & (label_map != labels.ignore)


def _values(labels: np.ndarray) -> list[int]:
    """The different values of `labels` (N,), without sorting them where they are small."""
    if labels.size and int(labels.max()) < _SMALL:
        return [int(value) for value in np.flatnonzero(np.bincount(labels.astype(np.intp, copy=False)))]
    return [int(value) for value in np.unique(labels)]


@dataclass(frozen=True)
class Inspected:
    """The outcome of `inspect_dataset`: its fingerprint, and whether it was made now or found valid."""

    fingerprint: Fingerprint
    fresh: bool
    notes: tuple[Problem, ...]


def inspect_dataset(
    dataset: RawDataset, layout: Sequence[Problem], folder: Path, num_workers: int, *, force: bool = False
) -> Inspected:
    """Verify and fingerprint `dataset`, or take what `folder` (workspace/fingerprints/DATASET) already holds of it.

    Args:
        dataset: the cases that can be opened.
        layout: what is wrong with the files before any is opened (`scan_dataset`).
        folder: for the fingerprint and the record of the verification.
        num_workers: processes; 0 or 1: this one.
        force: look again even if nothing has changed.

    Raises:
        VerificationError: with all problems of all cases, if any is fatal. Nothing is written then.
    """
    if layout:
        raise VerificationError(_all_problems(dataset, layout, num_workers), where=dataset.folder)
    source = hash_of_dataset(dataset)
    fingerprint_file, verification_file = folder / "dataset_fingerprint.json", folder / "verification.json"
    record = _read_record(verification_file)
    if not force and record.get("source_hash") == source and fingerprint_file.is_file():
        known = read_fingerprint(fingerprint_file)
        if known.source_hash == source:
            return Inspected(known, False, tuple(Problem(**note) for note in record.get("notes", [])))
    accumulator = FingerprintAccumulator()
    problems = _collect(dataset, _inspect_all(dataset, num_workers, accumulator))
    if any(problem.fatal for problem in problems):
        raise VerificationError(problems, where=dataset.folder)
    fingerprint = accumulator.result(source)
    folder.mkdir(parents=True, exist_ok=True)
    write_fingerprint(fingerprint_file, fingerprint)
    write_json(
        verification_file,
        {"source_hash": source, "folder": str(dataset.folder), "notes": [asdict(note) for note in problems]},
    )
    return Inspected(fingerprint, True, tuple(problems))


def verify(folder: Path, num_workers: int | None = None) -> int:
    """The job `segplan verify`: every problem of every case as a table; exit code 2 if any is fatal."""
    dataset, layout = scan_dataset(folder)
    problems = _all_problems(dataset, layout, num_workers or available_cpus())
    if any(problem.fatal for problem in problems):
        raise VerificationError(problems, where=folder)
    print_problems(problems)
    print(f"{dataset.name}: {len(dataset.cases)} cases, nothing to mend")
    return 0


def hash_of_dataset(dataset: RawDataset) -> str:
    """A hash of dataset.json and of the name, size and time of every file of every case."""
    description = json.dumps(dict(dataset.description.raw), sort_keys=True)
    return hashlib.blake2b(
        (description + "".join(hash_of_case(case) for case in dataset.cases)).encode(), digest_size=8
    ).hexdigest()


def hash_of_case(case: Case) -> str:
    """A hash of the name, size and modification time of the files of `case`."""
    digest = hashlib.blake2b(case.identifier.encode(), digest_size=8)
    named = (*case.images, *([case.label] if case.label is not None else []))
    for file in (file for path in named for file in files_of(path)):
        if not file.exists():
            continue  # said when the image is read
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns};".encode())
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _all_problems(dataset: RawDataset, layout: Sequence[Problem], num_workers: int) -> list[Problem]:
    """The layout's problems and those of the content of all cases whose files are complete."""
    incomplete = {problem.case for problem in layout}
    cases = tuple(case for case in dataset.cases if case.identifier not in incomplete)
    sound = RawDataset(dataset.folder, dataset.name, dataset.description, cases)
    return [*layout, *_collect(sound, _inspect_all(sound, num_workers, FingerprintAccumulator()))]


def _inspect_all(dataset: RawDataset, num_workers: int, accumulator: FingerprintAccumulator) -> dict[str, Inspection]:
    """Look at every case; its measurements go to `accumulator` as they come, so that they need not be held."""
    work = functools.partial(inspect_case, description=dataset.description)
    results: dict[str, Inspection] = {}
    positions = {case.identifier: number for number, case in enumerate(dataset.cases)}
    # Workers start here, before the progress bar's thread does.
    costs = [case_size(case).inspection_bytes for case in dataset.cases]
    finished = run_parallel(
        work, dataset.cases, num_workers, _identifier, ("SimpleITK",), costs=costs, budget=usable_memory()
    )
    with progress("verify", len(dataset.cases)) as advance:
        for case, result in finished:
            found = _failed(case, result) if isinstance(result, SegplanError) else result
            if found.fingerprint is not None:
                accumulator.add(found.fingerprint, positions[case.identifier])
            results[case.identifier] = replace(found, fingerprint=None)
            advance()
    return results


def _failed(case: Case, error: SegplanError) -> Inspection:
    return Inspection((Problem(case.identifier, error.what, error.remedy or ""),))


def _identifier(case: Case) -> str:
    return case.identifier


def _collect(dataset: RawDataset, inspections: dict[str, Inspection]) -> list[Problem]:
    problems = [problem for case in dataset.cases for problem in inspections[case.identifier].problems]
    readable = [result for result in inspections.values() if result.measured]
    present = {value for result in readable for value in result.present}
    labels = dataset.description.labels
    classes = check_classes(labels, {name for name, values in labels.targets.items() if present & {*values}})
    # A class may occur in a case that could not be read, so only what is complete is noted.
    problems += [problem for problem in classes if readable and (problem.fatal or len(readable) == len(dataset.cases))]
    return problems + _orientation_note([result.orientation for result in readable])


def _orientation_note(orientations: Sequence[str]) -> list[Problem]:
    """A note if the voxel axes of the cases point different ways: training pairs voxels by index (nnU-Net too)."""
    counts = Counter(orientations)
    if len(counts) < 2:
        return []
    shown = ", ".join(f"{count} {letters}" for letters, count in counts.most_common())
    what = f"the axes (x, y, z) of the cases point different ways: {shown}"
    remedy = "Images are used as they are stored; reorient them alike if left and right or up and down should count."
    return [Problem(None, what, remedy, fatal=False)]


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        # A record cut short by a crash of an older version: it is made anew.
        return {}
    return record if isinstance(record, dict) else {}
