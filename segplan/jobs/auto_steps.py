"""The steps of `segplan auto`: ordinary segplan commands, and how to see that one is done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from segplan.errors import ConfigError, PlanError
from segplan.evaluation.selection_file import SELECTION_FILE, read_selection
from segplan.jobs.console import workspace_word
from segplan.jobs.fold_done import CASCADE, LOWRES, is_fold_done
from segplan.jobs.fold_states import number_of_folds, planned_configurations

Kind = Literal["plan", "train", "select", "export", "report"]


@dataclass(frozen=True)
class AutoSettings:
    """What is to be made.

    Args:
        workspace: the workspace's folder.
        group: DATASET or DATASET/NAME.
        configurations: to train; None: all of the plan that can be.
        folds: of each; None: all of its splits.
        overrides: `key=value` words of every training.
        own_overrides: those of one configuration, on top.
        run: name of the runs.
    """

    workspace: Path
    group: str
    configurations: Sequence[str] | None = None
    folds: Sequence[str] | None = None
    overrides: Sequence[str] = ()
    own_overrides: Mapping[str, Sequence[str]] = field(default_factory=dict)
    run: str = "default"

    @property
    def folder(self) -> Path:
        """Of the dataset's runs."""
        return self.workspace / "runs" / self.group

    @property
    def selection_file(self) -> Path:
        """What `segplan select` writes."""
        return self.folder / (SELECTION_FILE if self.run == "default" else f"inference_{self.run}.yaml")

    @property
    def model_file(self) -> Path:
        """The exported model."""
        return self.workspace / "models" / f"{self._model_name}.zip"

    @property
    def report_file(self) -> Path:
        """The report."""
        return self.workspace / "models" / f"{self._model_name}_report.html"

    @property
    def _model_name(self) -> str:
        return "_".join([*self.group.split("/"), *([] if self.run == "default" else [self.run])])


@dataclass(frozen=True)
class Step:
    """A command of its own.

    Args:
        kind: what it does.
        name: for people.
        words: of the command, after `segplan`.
        plan: DATASET/[NAME/]CONFIGURATION, of a training.
        fold: of a training.
        after: names of the steps whose results it needs.
    """

    kind: Kind
    name: str
    words: tuple[str, ...]
    plan: str = ""
    fold: str = ""
    after: tuple[str, ...] = ()


def list_steps(settings: AutoSettings) -> list[Step]:
    """All steps, in an order in which they can run.

    Raises:
        PlanError: nothing is planned, or no configuration can be trained.
        ConfigError: a configuration or fold does not exist, or nothing says which of several to export.
    """
    place = workspace_word(settings.workspace)
    named = [] if settings.run == "default" else [f"run={settings.run}"]
    chosen = chosen_configurations(settings)
    steps: list[Step] = []
    for configuration in chosen:
        words = [*settings.overrides, *settings.own_overrides.get(configuration, ())]
        plan = f"{settings.group}/{configuration}"
        first_stage = tuple(step.name for step in steps if configuration == CASCADE and _is_first_stage(step))
        previous = [f"plan.previous_stage_run={settings.run}"] if configuration == CASCADE and named else []
        # The second stage trains on what each fold of the first made of the cases that it did not see.
        whole = replace(settings, folds=None) if configuration == LOWRES and CASCADE in chosen else settings
        for fold in folds_of(whole, configuration):
            train = ("train", f"plan={plan}", f"fold={fold}", *named, *previous, *words, *place)
            steps.append(Step("train", f"train {plan} fold {fold}{_of_run(settings)}", train, plan, fold, first_stage))
    return [*steps, *_last_steps(settings, chosen, [*named, *place], tuple(step.name for step in steps))]


def chosen_configurations(settings: AutoSettings) -> list[str]:
    """The configurations to train, the first stage of a cascade before it.

    Raises:
        PlanError, ConfigError: as `list_steps`.
    """
    depth = settings.group.count("/") + 2
    plans = planned_configurations(settings.workspace, settings.group.split("/")[0])
    nodes = {
        address.split("/")[-1]: node
        for address, node in plans.items()
        if address.startswith(f"{settings.group}/") and address.count("/") + 1 == depth
    }
    if not nodes:
        raise PlanError("is not planned", settings.group, "Name the raw dataset's folder: segplan auto FOLDER.")
    able = [name for name, node in nodes.items() if node.get("runnable") is not False]
    wanted = able if settings.configurations is None else list(settings.configurations)
    if unknown := [name for name in wanted if name not in able]:
        what = f"{unknown[0]} is not planned" if unknown[0] not in nodes else f"{unknown[0]} cannot be trained"
        raise ConfigError(what, "configurations", f"Planned: {', '.join(able)}.")
    if not wanted:
        raise PlanError("no configuration can be trained", settings.group, "segplan explain says why.")
    if CASCADE in wanted and LOWRES not in wanted and LOWRES in able:
        wanted.append(LOWRES)
    return sorted(wanted, key=lambda name: (name == CASCADE, name))


def folds_of(settings: AutoSettings, configuration: str) -> list[str]:
    """The folds to train of a configuration; `all` where the dataset has none.

    Raises:
        ConfigError: a fold does not exist.
    """
    count = number_of_folds(settings.workspace, f"{settings.group}/{configuration}")
    known = [str(number) for number in range(count)] or ["all"]
    chosen = known if settings.folds is None else settings.folds
    if unknown := [fold for fold in chosen if fold not in known and fold != "all"]:
        raise ConfigError(f"there is no fold {unknown[0]}", "folds", f"Folds: {', '.join(known)}.")
    return list(chosen)


def is_done(step: Step, settings: AutoSettings, recorded: Mapping[str, Any]) -> bool:
    """Whether a step was done by these very words, and what it made is there and newer than what it was made from."""
    if list(step.words) != recorded.get(step.name):
        return False
    if step.kind == "train":
        return is_fold_done(settings.workspace, step.plan, settings.run, step.fold)
    if step.kind == "plan":
        return (settings.workspace / "plan" / settings.group / "_dataset.yaml").is_file()
    if step.kind == "select":
        summaries = settings.folder.glob("*/*/fold_*/validation/summary.json")
        return _is_newer(settings.selection_file, list(summaries)) and _is_of_run(settings)
    if step.kind == "export":
        return _is_newer(settings.model_file, [settings.selection_file])
    return _is_newer(settings.report_file, [settings.model_file])


def plan_step(words: Sequence[str]) -> Step:
    """The step before all others."""
    return Step("plan", "plan", tuple(words))


def _of_run(settings: AutoSettings) -> str:
    return "" if settings.run == "default" else f" of run {settings.run}"


def _is_first_stage(step: Step) -> bool:
    return step.kind == "train" and step.plan.rpartition("/")[2] == LOWRES


def _last_steps(
    settings: AutoSettings, chosen: Sequence[str], words: Sequence[str], trainings: tuple[str, ...]
) -> list[Step]:
    """From the trainings to a model and a page; without cross-validation there is nothing to select."""
    place = [word for word in words if word.startswith("workspace=")]
    validated = any(fold != "all" for configuration in chosen for fold in folds_of(settings, configuration))
    steps, before = [], trainings
    if validated:
        folds = [] if settings.folds is None else [f"folds=[{','.join(settings.folds)}]"]
        own = [] if settings.run == "default" else [f"output={settings.selection_file}"]
        select = ("select", settings.group, f"configurations=[{','.join(chosen)}]", *folds, *own, *words)
        steps.append(Step("select", f"select{_of_run(settings)}", select, after=trainings))
        source, before = settings.selection_file, (steps[0].name,)
    else:
        source = settings.folder / _only(chosen) / settings.run
    export = ("export-model", str(source), str(settings.model_file), "force=true", *place)
    shown = [f"selection={settings.selection_file}"] if validated and settings.run != "default" else []
    report = ("report", settings.group, f"output={settings.report_file}", *shown, *place)
    steps.append(Step("export", f"export model{_of_run(settings)}", export, after=before))
    return [*steps, Step("report", f"report{_of_run(settings)}", report, after=(steps[-1].name,))]


def _only(chosen: Sequence[str]) -> str:
    """The configuration to export where there is no selection."""
    models = [name for name in chosen if name != LOWRES or CASCADE not in chosen]
    if len(models) > 1:
        what = f"without validation nothing says which of {', '.join(models)} to export"
        raise ConfigError(what, "folds=all", f"Name one: configurations=[{models[-1]}].")
    return models[0]


def _is_of_run(settings: AutoSettings) -> bool:
    """Whether the selection is of this run; `segplan select` by hand may have written another one in its place."""
    try:
        return all(member.run == settings.run for member in read_selection(settings.selection_file).members)
    except ConfigError:
        return False


def _is_newer(path: Path, sources: Sequence[Path]) -> bool:
    try:
        made = path.stat().st_mtime_ns
        return all(source.stat().st_mtime_ns <= made for source in sources)
    except OSError:
        return False
