"""Segment a fold's whole validation cases with its trained weights and evaluate them against their references."""

import importlib.util
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segplan.errors import ConfigError
from segplan.evaluation import (
    CaseResult,
    Targets,
    case_metrics,
    cases_counted,
    mean_over_occurring,
    summarize,
    write_summary,
)
from segplan.imaging import Geometry, atomic_write, write_label_map
from segplan.inference import Tiling, load_network, make_tiling, resolve_precision, streaming
from segplan.inference.mirror_swap import mirror_swap
from segplan.inference.probabilities import SUFFIX, ProbabilityStore, ProbabilityWriter
from segplan.inference.settings import FAST
from segplan.inference.tiled import Network
from segplan.jobs import training_device
from segplan.jobs.console import print_table, progress
from segplan.jobs.next_stage import NextStage, next_stages, segmented_for
from segplan.jobs.training_setup import TrainingSetup
from segplan.model_folder import ModelFolder
from segplan.preprocessing import CascadeCases, PreprocessedCase, StoredCase
from segplan.training.after_training import Ranks


def validate_fold(setup: TrainingSetup, ranks: Ranks | None = None) -> dict[str, Any]:
    """Write RUN/fold_K/validation, or validation_best: a label map a case and summary.json, whose content is returned.

    With `force` what is there is discarded first. Needs neither the raw dataset nor SimpleITK: without it label maps
    are written as CASE_labels.npz (key `labels`). The first stage of a cascade also leaves RUN/predicted_next_stage.

    `ranks` that have trained together share the cases, and all must call this, once the weights are written. They go on
    case by case together; where something goes wrong on one, all end (`Ranks.do`).
    """
    ranks = ranks or Ranks()
    folder, cases, count = setup.validation, setup.split.validation, ranks.count
    validation = ranks.do(lambda: _Validation.prepare(setup))
    ranks.do(lambda: None if ranks.number else _discard(setup))
    results: list[tuple[int, CaseResult]] = []
    with progress("validation", len(cases)) if ranks.number == 0 else nullcontext(lambda: None) as advance:
        for first in range(0, len(cases), count):
            numbers = range(first, min(first + count, len(cases)))
            mine = numbers[ranks.number : ranks.number + 1]
            results += ranks.do(partial(validation.of, mine))
            for _ in numbers:
                advance()
    gathered = sorted((pair for own in ranks.gather(results) for pair in own), key=itemgetter(0))
    summary = summarize([result for _, result in gathered])
    if ranks.number == 0:
        write_summary(folder / "summary.json", summary)
    return summary


@dataclass(frozen=True)
class _Validation:
    """What a fold's cases are validated with, on this rank's device."""

    setup: TrainingSetup
    network: Network
    tiling: Tiling
    device: torch.device
    stages: Sequence[NextStage]
    ending: str

    @classmethod
    def prepare(cls, setup: TrainingSetup) -> "_Validation":
        ending = str(setup.config.plan.label_ending) if _can_write_images() else "_labels.npz"
        device = torch.device(training_device.accelerator(setup.config))
        model, target = ModelFolder.open(setup.run_folder), str(setup.config.network._target_)
        network = load_network(model, str(setup.config.fold), setup.weights, target).to(device)
        return cls(setup, network, tiling_of(setup), device, _next_stages(setup), ending)

    def of(self, numbers: Iterable[int]) -> list[tuple[int, CaseResult]]:
        """Validate the cases of these numbers; returns each with its number."""
        return [(number, self._case(self.setup.split.validation[number])) for number in numbers]

    def _case(self, identifier: str) -> CaseResult:
        """Write a case's label map, and whatever else is wanted, and compare it with the reference."""
        setup, folder = self.setup, self.setup.validation
        case = setup.store.open(identifier)
        with _probabilities(setup, case, folder) as writer:
            labels = segment_case(
                setup,
                self.network,
                case,
                self.tiling,
                device=self.device,
                stages=self.stages,
                probabilities=writer,
            )
        path = folder / f"{identifier}{self.ending}"
        _write(path, labels, case)
        metrics = case_metrics(labels, case.reference(), setup.labels)
        return CaseResult(metrics, str(path), f"{setup.store.folder}: reference of {identifier}")


def _discard(setup: TrainingSetup) -> None:
    """Remove an earlier summary, which must not stand beside label maps that it does not describe; with `force` all."""
    if setup.config.force and setup.validation.exists():
        shutil.rmtree(setup.validation)
    (setup.validation / "summary.json").unlink(missing_ok=True)


def is_validated(setup: TrainingSetup) -> bool:
    """Whether the fold's validation is done, and a cascade's second stage has what it needs of it."""
    has_scores = (setup.validation / "summary.json").exists()
    return has_scores and all(stage.is_made for stage in _next_stages(setup))


def segment_case(
    setup: TrainingSetup,
    network: Network,
    case: StoredCase,
    tiling: Tiling,
    *,
    device: torch.device,
    stages: Sequence[NextStage] = (),
    probabilities: ProbabilityWriter | None = None,
) -> NDArray[np.unsignedinteger]:
    """Segment a case of the store with a network of the training; returns labels (Z, Y, X) in the original frame.

    Args:
        setup: the training's.
        network: on `device`.
        case: as the store opens it.
        tiling: see `tiling_of`.
        device: where the network is.
        stages: those that the case is segmented for too.
        probabilities: an open store to write them to.
    """
    earlier = None
    if setup.previous is not None:
        earlier = CascadeCases(setup.store, setup.previous.segmentations).open(case.identifier).previous
    result = streaming.segment_case(
        network,
        PreprocessedCase(case.image, earlier, case.properties),
        setup.preprocessing,
        setup.labels,
        tiling,
        device=device,
        probabilities=probabilities,
        label_channels=0 if earlier is None else len(setup.labels.foreground_labels),
        watch=lambda slabs: segmented_for(stages, setup, case, slabs),
    )
    for note in result.notes:
        print(f"note: {case.identifier}: {note}", flush=True)
    return result.labels


def print_scores(setup: TrainingSetup, summary: Mapping[str, Any]) -> None:
    """Print the Dice of every target over the fold's whole validation cases."""
    rows = [
        [name, f"{summary['mean'][key]['Dice']:.4f}", f"{cases_counted(summary, key)}"]
        for key, name in Targets.from_labels(setup.labels).names.items()
    ]
    rows.append(["mean", f"{mean_over_occurring(summary):.4f}", f"{len(summary['metric_per_case'])}"])
    print_table(["whole cases", "Dice", "cases"], rows)
    print(f"{setup.validation}")


def tiling_of(setup: TrainingSetup) -> Tiling:
    """How the fold's whole validation cases are segmented.

    Raises:
        ConfigError: the `inference` node does not fit the training, or what is asked of the validation.
    """
    wanted = setup.config.validation.save_probabilities
    if wanted not in (True, False, "npz"):
        raise ConfigError("must be true, false or npz", f"validation.save_probabilities={wanted}", "Use true.")
    if wanted and setup.inference.mode == FAST:
        what = "makes labels only, and validation.save_probabilities asks for more"
        raise ConfigError(what, f"inference.mode={FAST}", "Leave out one of them.")
    device = torch.device(training_device.accelerator(setup.config))
    return make_tiling(
        setup.patch_size,
        setup.labels.num_heads,
        setup.inference,
        mirror_axes=setup.mirror_axes,
        swap=mirror_swap(setup.mirror_swap, setup.labels, is_cascade=bool(setup.config.plan.get("previous_stage"))),
        dtype=resolve_precision(training_device.precision(setup.config)[0], device),
        device=device,
        regions=setup.labels.has_regions,
    )


@contextmanager
def _probabilities(setup: TrainingSetup, case: StoredCase, folder: Path) -> Iterator[ProbabilityWriter | None]:
    """The store for a case's probabilities, if they are wanted; turned into nnU-Net's file at the end, if that is."""
    wanted = setup.config.validation.save_probabilities
    if not wanted:
        yield None
        return
    store, file = folder / f"{case.identifier}{SUFFIX}", folder / f"{case.identifier}.npz"
    about = {"case": case.identifier, "geometry": case.properties.geometry}
    with streaming.open_probabilities(store, case.properties, setup.labels, about=about) as writer:
        yield writer
    if wanted == "npz":
        ProbabilityStore.open(store).to_npz(file)
        shutil.rmtree(store)
    else:
        file.unlink(missing_ok=True)  # an older one would be another validation's


def _write(path: Path, labels: NDArray[Any], case: StoredCase) -> None:
    if path.suffix == ".npz":
        with atomic_write(path) as temporary:
            np.savez_compressed(temporary, labels=labels)
    else:
        write_label_map(path, labels, Geometry.from_json(case.properties.geometry))


def _next_stages(setup: TrainingSetup) -> list[NextStage]:
    return next_stages(setup) if setup.weights == "final" else []


def _can_write_images() -> bool:
    return importlib.util.find_spec("SimpleITK") is not None
