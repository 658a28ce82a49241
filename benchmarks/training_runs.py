"""The same training budget in both programs: preparing a dataset, training fold 0, and the seconds of each epoch."""

import csv
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measure import BenchmarkFailed, Measurement, core_count, neutral_environment, run_measured
from reference_environment import Reference, ReferenceFolders, planning_command

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Budget:
    """How long a training is. `validation_batches` do not change the weights."""

    epochs: int
    iterations: int
    validation_batches: int
    batch_size: int = 2


@dataclass(frozen=True)
class SegplanTraining:
    """segplan's trainings of one dataset in one workspace."""

    workspace: Path
    dataset: Path
    configuration: str = "3d_fullres"

    def prepare(self) -> None:
        """Plan and preprocess; done in seconds where the workspace holds it already."""
        command = [sys.executable, "plan.py", f"dataset={self.dataset}", f"workspace={self.workspace}"]
        command += [f"configurations=[{self.configuration}]"]
        run_measured(command, self.workspace / "plan.log", neutral_environment())

    def fold_folder(self, run: str) -> Path:
        return self.workspace / "runs" / self.dataset.name / self.configuration / run / "fold_0"

    def train(self, run: str, budget: Budget, *overrides: str) -> Measurement:
        """Train fold 0 as the run's folder says, going on where a stopped run is."""
        command = [sys.executable, "train.py", f"plan={self.dataset.name}/{self.configuration}", "fold=0", f"run={run}"]
        command += [f"workspace={self.workspace}", f"data.batch_size={budget.batch_size}"]
        command += [f"trainer.max_epochs={budget.epochs}", f"trainer.limit_train_batches={budget.iterations}"]
        command += [f"trainer.limit_val_batches={budget.validation_batches}", *overrides]
        return run_measured(command, self.workspace / f"{run}.log", neutral_environment())

    def epoch_seconds(self, run: str) -> list[float]:
        """Seconds of each epoch, training and validation batches together, from the run's metrics.csv.

        Raises:
            BenchmarkFailed: the file holds none.
        """
        path = self.fold_folder(run) / "metrics.csv"
        with path.open(newline="") as file:
            seconds = [float(row["epoch_s"]) for row in csv.DictReader(file) if row.get("epoch_s")]
        if not seconds:
            raise BenchmarkFailed(f"{path} has no epoch_s")
        return seconds

    def summary(self, run: str) -> dict[str, Any] | None:
        """The final validation of a finished run, None where it is not finished."""
        path = self.fold_folder(run) / "validation" / "summary.json"
        return dict(json.loads(path.read_text())) if path.is_file() else None


@dataclass(frozen=True)
class ReferenceTraining:
    """nnU-Net's trainings of one dataset, with folders under `root`."""

    reference: Reference
    root: Path
    dataset: Path
    configuration: str = "3d_fullres"

    def prepare(self) -> None:
        """Plan and preprocess where `root` does not hold it already."""
        folders = ReferenceFolders(self.root)
        marker = self.root / "prepared"
        if marker.exists():
            return
        folders.hold(self.dataset)
        command = planning_command(self.reference, self.dataset, [self.configuration])
        run_measured(command, self.root / "plan.log", folders.environment())
        marker.touch()

    def result(self, name: str) -> dict[str, Any] | None:
        """What reference_train.py wrote for a run, None where it is not finished."""
        path = self._result_path(name)
        return dict(json.loads(path.read_text())) if path.is_file() else None

    def train(self, name: str, budget: Budget, validate: bool) -> Measurement:
        """Train fold 0 from the start.

        Augmentation runs in the main process: on a CPU the network takes all cores anyway.
        """
        settings = asdict(budget) | {
            "dataset": self.dataset.name,
            "configuration": self.configuration,
            "threads": core_count(),
            "validate": validate,
        }
        driver = str(HERE / "reference_train.py")
        command = [str(self.reference.python), driver, json.dumps(settings), str(self._result_path(name))]
        environment = ReferenceFolders(self.root).environment(nnUNet_n_proc_DA="0", nnUNet_compile="f")
        return run_measured(command, self.root / f"{name}.log", environment)

    def epoch_seconds(self, name: str) -> list[float]:
        """Seconds of each epoch, training and validation batches together, as nnU-Net logs them.

        Raises:
            BenchmarkFailed: the run is not finished.
        """
        result = self.result(name)
        if result is None:
            raise BenchmarkFailed(f"{self._result_path(name)} is not there")
        return list(result["epoch_seconds"])

    def _result_path(self, name: str) -> Path:
        return self.root / f"{name}.json"
