"""What a report shows of runs: plain values, gathered by the job and laid out by `report_page`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segplan.evaluation import CaseResult, summarize
from segplan.planning.explanation import Explanation
from segplan.reporting.case_shots import Shot


@dataclass(frozen=True)
class ClassLook:
    """A class (label or region) of the dataset.

    Args:
        key: as in summary.json, "3" or "(1, 2)".
        name: for people.
        colour: (R, G, B) in charts and pictures.
    """

    key: str
    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class CaseScore:
    """What summary.json says of a validation case.

    Args:
        identifier: of the case.
        fold: that segmented it.
        metrics: by class key, then by metric: exactly summary.json's numbers.
        voxel_ml: volume of a voxel in millilitres; None where the images tell no size.
    """

    identifier: str
    fold: str
    metrics: Mapping[str, Mapping[str, float]]
    voxel_ml: float | None = None

    @property
    def dice(self) -> float:
        """Mean Dice over the classes that occur; NaN if none does."""
        values = [float(each["Dice"]) for each in self.metrics.values() if not math.isnan(each["Dice"])]
        return math.fsum(values) / len(values) if values else math.nan


@dataclass(frozen=True)
class FoldLook:
    """One fold of a run.

    Args:
        fold: "0", "1", … or "all".
        status: done, running, stopped, failed or missing.
        detail: why, or how that is known.
        max_epochs: what it trains for; None where it has not begun.
        curves: the columns of metrics.csv, NaN where a row has no number.
        command: the words that started it; "" where nobody wrote them down.
        versions: of the software, by package.
        machine: what it ran on, in words; "" where nobody wrote it down.
    """

    fold: str
    status: str
    detail: str = ""
    max_epochs: int | None = None
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""

    @property
    def epochs(self) -> int:
        """Epochs that are done."""
        return len(self.curves.get("epoch", ()))

    @property
    def seconds(self) -> float:
        """Time of all epochs."""
        return math.fsum(value for value in self.curves.get("epoch_s", ()) if not math.isnan(value))


@dataclass(frozen=True)
class Illustrated:
    """A case in pictures.

    Args:
        case: its scores.
        reason: why it is shown, "worst" say.
        shots: one for each plane.
    """

    case: CaseScore
    reason: str
    shots: Sequence[Shot]


@dataclass(frozen=True)
class RunLook:
    """A run of one configuration.

    Args:
        plan: DATASET/[NAME/]CONFIGURATION.
        run: its name.
        classes: in summary.json's order.
        folds: all that the dataset's splits have, and whichever else the run has.
        cases: of all folds that are validated.
        pictures: worst, median and best cases.
        explanation: how the plan came about; None where it cannot be told.
        memory_gb: what training was planned to need; None where it is not known.
        config: the configuration of its first fold, as YAML.
        notes: what is missing and why, a sentence each.
    """

    plan: str
    run: str
    classes: Sequence[ClassLook]
    folds: Sequence[FoldLook]
    cases: Sequence[CaseScore]
    pictures: Sequence[Illustrated] = ()
    explanation: Explanation | None = None
    memory_gb: float | None = None
    config: str = ""
    notes: Sequence[str] = ()

    @property
    def title(self) -> str:
        """CONFIGURATION, with the plan's and the run's names where they are not the default ones."""
        parts = self.plan.split("/")[1:]
        return "/".join(parts) + (f" · run {self.run}" if self.run != "default" else "")

    @property
    def validated(self) -> list[str]:
        """The folds that have cases."""
        return sorted({case.fold for case in self.cases})

    def summary(self, fold: str | None = None) -> dict[str, Any]:
        """The means over all cases, or those of a fold, by the rules of summary.json."""
        chosen = [case for case in self.cases if fold is None or case.fold == fold]
        return summarize([CaseResult(case.metrics, case.identifier, "") for case in chosen])


@dataclass(frozen=True)
class SelectionLook:
    """What `segplan select` decided.

    Args:
        members: DATASET/CONFIGURATION with run and folds, in words.
        postprocessing: its steps, in words.
        scores: what it wrote down, as plain values.
        file: name of the file.
        candidates: the summary of each configuration and ensemble that was compared, by name; none where it is gone.
        best: name of the one that was chosen.
        metric: what decided, as summary.json calls it.
        after: the summary of the chosen one after postprocessing.
        outdated: whether one of the models was trained again since.
    """

    members: Sequence[str]
    postprocessing: Sequence[str]
    scores: Mapping[str, Any]
    file: str
    candidates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    best: str = ""
    metric: str = "Dice"
    after: Mapping[str, Any] | None = None
    outdated: bool = False


@dataclass(frozen=True)
class ReportLook:
    """All that a report shows.

    Args:
        dataset: its name.
        description: one line about it.
        made: when the page was made; the only thing in it that changes from call to call.
        command: the command that made it.
        runs: the best first.
        selection: what was selected, None where nothing was yet.
        case_count: training cases of the dataset; None where it is not known.
    """

    dataset: str
    description: str
    made: str
    command: str
    runs: Sequence[RunLook]
    selection: SelectionLook | None = None
    case_count: int | None = None
