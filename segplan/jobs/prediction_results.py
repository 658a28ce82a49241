"""What becomes of each segmented case: its files, its line on the terminal, its entry in predict.json."""

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import segplan
from segplan.errors import SegplanError, StorageError
from segplan.imaging import write_label_map, write_map
from segplan.inference.probabilities import ProbabilityStore
from segplan.inference.records import Record, file_hash
from segplan.jobs.console import is_terminal, seconds
from segplan.jobs.prediction_models import described
from segplan.jobs.prediction_request import Request
from segplan.model_ensemble import ModelEnsemble

if TYPE_CHECKING:
    from segplan.inference.ensemble import EnsemblePredictor
    from segplan.inference.loop import Segmented
    from segplan.inference.predictor import Predictor


@dataclass
class Results:
    """Writes results as they come, one at a time, and keeps the record up to date.

    Args:
        record: predict.json.
        request: what is made of each case.
        ensemble: the models.
        predictor: they, loaded.
        skipped: cases that were made before.
    """

    record: Record
    request: Request
    ensemble: ModelEnsemble
    predictor: "Predictor | EnsemblePredictor"
    skipped: int
    written: int = 0
    errors: list[Exception] = field(default_factory=list)
    told: set[str] = field(default_factory=set)

    def announce(self, count: int, *, force: bool) -> None:
        """Say what is about to happen, and open the record."""
        axes = len(self._member.tiling.mirror_axes)
        parts = [
            count_of(count)
            + (f" (share {self.record.shard + 1} of {shares})" if (shares := self.record.num_shards) > 1 else ""),
            described(self.ensemble),
            f"mirroring {axes} axes" if axes else "no mirroring",
            _device_name(self.predictor.device),
            self.precision,
            *([f"postprocessing ({len(steps)})"] if (steps := self.ensemble.postprocessing) else []),
        ]
        print(" · ".join(parts), flush=True)
        if self.skipped:
            print(f"{count_of(self.skipped)} already made by this model and settings: skipped (force=true redoes)")
        if force:
            self.record.discard_others()
        # Before the first label map: whatever a kill leaves behind is then known to be ours.
        self.record.save(self._about())

    def handle(self, result: "Segmented") -> None:
        """Write one case and its entry.

        Raises:
            StorageError: nothing can be written any more.
        """
        name = result.case.identifier
        error, timing, outputs = result.error, dict(result.seconds), {}
        before = self.record.cases.pop(name, None) or self.record.replaced.get(name, {})
        if before:
            # Else a kill before the next save would leave a file that its entry does not fit: as if somebody edited it.
            self.record.save(self._about())
        if error is None:
            start = time.perf_counter()
            try:
                outputs = self._write(result)
            except (StorageError, OSError):
                raise
            except (SegplanError, ValueError, RuntimeError) as failure:
                error = failure
            timing["write"] = time.perf_counter() - start
        self._tell(name, result.notes)
        self.record.failed.pop(name, None)
        if error is not None or result.labels is None:
            self.errors.append(error or RuntimeError("no labels"))
            self.record.failed[name] = _message(self.errors[-1])
        else:
            self.written += 1
            self.record.cases[name] = {
                "input": self.request.input_hash(result.case),
                "outputs": outputs,
                "shape": list(result.labels.shape),
                "seconds": {stage: round(value, 3) for stage, value in timing.items()},
                "peak_memory_gb": _peak_memory_gb(),
                "precision": self.precision,
                **({"notes": list(result.notes)} if result.notes else {}),
            }
            self.record.remove_stale(
                name, before
            )  # probabilities of an earlier model beside the labels of this one, say
            _print_case(name, self.record.cases[name])
        self.record.save(self._about())

    def finish(self) -> int:
        """Say what was made and what failed; returns the exit code."""
        failed = len(self.errors)
        print(f"{self.written} written to {self.record.folder}" + (f", {failed} failed:" if failed else ""))
        for name, message in self.record.failed.items():
            print(f"  {name}  {message}")
        if not failed:
            return 0
        hopeless = not self.written and not self.skipped and all(isinstance(e, SegplanError) for e in self.errors)
        return 2 if hopeless else 1

    @property
    def precision(self) -> str:
        """What the networks compute in."""
        from segplan.inference.precision import precision_name

        return precision_name(self._member.tiling.dtype)

    @property
    def _member(self) -> "Predictor":
        from segplan.inference.predictor import Predictor

        return self.predictor if isinstance(self.predictor, Predictor) else self.predictor.members[0]

    def _write(self, result: "Segmented") -> dict[str, str | None]:
        if result.labels is None or result.geometry is None:
            raise ValueError("the result is empty")
        paths = {kind: self.record.folder / name for kind, name in self.request.outputs(result.case).items()}
        if result.store is not None:
            _keep_probabilities(result.store, paths["probabilities"])
        if result.entropy is not None:
            write_map(paths["entropy"], result.entropy, result.geometry)
        write_label_map(paths["labels"], result.labels, result.geometry)
        return {path.relative_to(self.record.folder).as_posix(): file_hash(path) for path in paths.values()}

    def _tell(self, name: str, notes: tuple[str, ...]) -> None:
        for note in notes:
            if note not in self.told:
                print(f"note: {name}: {note}", flush=True)
        self.told.update(notes)

    def _about(self) -> dict[str, Any]:
        import torch

        versions = {"segplan": segplan.__version__, "python": platform.python_version(), "torch": torch.__version__}
        plans = {member.model.name: _plan_hash(member.model.plan) for member in self.ensemble.members}
        about = {"versions": versions | {"numpy": np.__version__}, "device": _device_name(self.predictor.device)}
        return about | {"plan_hashes": plans}


def count_of(number: int) -> str:
    """`1 case`, `2 cases`."""
    return f"{number} case{'' if number == 1 else 's'}"


def _keep_probabilities(store: Path, path: Path) -> None:
    """Move a store to its final name, or turn it into nnU-Net's file."""
    if path.suffix == ".npz":
        ProbabilityStore.open(store).to_npz(path)
        shutil.rmtree(store)
        return
    if path.is_dir():
        shutil.rmtree(path)
    store.replace(path)


def _plan_hash(plan: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(dict(plan), sort_keys=True).encode(), digest_size=8).hexdigest()


def _print_case(name: str, entry: dict[str, Any]) -> None:
    timing, size = entry["seconds"], [str(extent) for extent in reversed(entry["shape"])]
    peak = entry["peak_memory_gb"]
    if is_terminal():
        stages = [f"{stage} {seconds(value)}" for stage, value in timing.items()]
        memory = [f"peak {peak:.1f} GB"] if peak is not None else []
        print(f"{name}  {'×'.join(size)}  {' · '.join([*stages, *memory])}", flush=True)
    else:
        stages = [f"{stage}={value:.2f}" for stage, value in timing.items()]
        print(f"case={name} size={'x'.join(size)} {' '.join(stages)} peak_gb={peak}", flush=True)


def _peak_memory_gb() -> float | None:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    unit = 1 if platform.system() == "Darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)


def _device_name(device: Any) -> str:
    import torch

    return f"1 × {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device.type)


def _message(error: Exception) -> str:
    text = str(error) if isinstance(error, SegplanError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())
