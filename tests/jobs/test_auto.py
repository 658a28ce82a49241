"""`segplan auto`: which steps there are, which are done, and what happens when one fails or is stopped."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from report_workspace import DATASET, plan_files, validated_fold

from segplan.errors import ConfigError, PlanError, RunError
from segplan.evaluation import Member, Selection, write_selection
from segplan.jobs import auto, auto_record
from segplan.jobs.auto_budget import Budget, epochs_within, parse_budget
from segplan.jobs.auto_estimate import measured_epoch, step_seconds
from segplan.jobs.auto_record import job_of_step, read_record
from segplan.jobs.auto_steps import AutoSettings, is_done, list_steps

CONFIG = {"trainer": {"max_epochs": 3, "limit_train_batches": 4, "accelerator": "cpu"}}


class Commands:
    """Does what the commands would leave behind, and notes which were called."""

    def __init__(self, workspace, codes=None):
        self.workspace, self.codes, self.called = workspace, codes or {}, []

    def __call__(self, words):
        self.called.append(" ".join(words[:3]))
        code = self.codes.pop(self.called[-1], 0)
        if code:
            return code
        if words[0] == "train":
            validated_fold(self.workspace, int(words[2].removeprefix("fold=")))
        if words[0] == "select":
            run = next((word.removeprefix("run=") for word in words if word.startswith("run=")), "default")
            named = [word.removeprefix("output=") for word in words if word.startswith("output=")]
            path = Path(*named) if named else self.workspace / "runs" / DATASET / "inference.yaml"
            write_selection(path, Selection(DATASET, (Member(f"{DATASET}/3d_fullres", run),)))
        if words[0] in ("export-model", "report"):
            path = Path(words[2].removeprefix("output="))
            path.parent.mkdir(exist_ok=True)
            path.write_text("")
        return 0


def compose(plan, overrides):
    return CONFIG


@pytest.fixture
def settings(tmp_path):
    validated_fold(tmp_path, 0)
    plan_files(tmp_path, "3d_fullres")
    return AutoSettings(tmp_path, DATASET)


FOLDS = [f"train plan={DATASET}/3d_fullres fold={fold}" for fold in (0, 1)]


def run(settings, commands):
    return auto.run(settings, Budget(), commands, compose)


def test_all_steps_run_once_in_order(settings):
    commands = Commands(settings.workspace)
    assert run(settings, commands) == 0
    assert commands.called[:2] == FOLDS
    assert [word.split()[0] for word in commands.called[2:]] == ["select", "export-model", "report"]
    again = Commands(settings.workspace)
    assert run(settings, again) == 0
    assert again.called == []


@pytest.mark.parametrize("code", [143, 130, 2, -9])
def test_a_step_that_is_stopped_or_refused_ends_it_and_the_same_call_goes_on(settings, code):
    commands = Commands(settings.workspace, {FOLDS[1]: code})
    assert run(settings, commands) == (code if code > 0 else 1)
    assert commands.called == FOLDS
    again = Commands(settings.workspace)
    assert run(settings, again) == 0
    assert again.called[0] == FOLDS[1]


def test_a_fold_that_fails_keeps_no_other_from_training_but_nothing_is_selected(settings, capsys):
    commands = Commands(settings.workspace, {FOLDS[0]: 1})
    assert run(settings, commands) == 1
    assert commands.called == FOLDS
    assert f"failed: train {DATASET}/3d_fullres fold 0" in capsys.readouterr().err


def test_other_overrides_are_tried_again(settings):
    assert run(settings, Commands(settings.workspace)) == 0
    commands = Commands(settings.workspace)
    assert run(AutoSettings(settings.workspace, DATASET, overrides=["seed=1"]), commands) == 0
    assert commands.called[:2] == FOLDS


def test_a_selection_of_another_run_in_its_place_is_made_again(settings):
    assert run(settings, Commands(settings.workspace)) == 0
    write_selection(settings.selection_file, Selection(DATASET, (Member(f"{DATASET}/3d_fullres", "other"),)))
    commands = Commands(settings.workspace)
    assert run(settings, commands) == 0
    assert [word.split()[0] for word in commands.called] == ["select", "export-model", "report"]


def test_another_run_makes_files_of_its_own(settings):
    other = replace(settings, run="b")
    words = {step.kind: step.words for step in list_steps(other)}
    assert f"output={settings.folder / 'inference_b.yaml'}" in words["select"]
    assert words["export"][2] == str(settings.workspace / "models" / f"{DATASET}_b.zip")
    assert f"selection={settings.folder / 'inference_b.yaml'}" in words["report"]
    assert f"output={settings.workspace / 'models' / f'{DATASET}_b_report.html'}" in words["report"]


def test_a_new_summary_makes_selection_and_model_anew(settings):
    assert run(settings, Commands(settings.workspace)) == 0
    summary = settings.folder / "3d_fullres" / "default" / "fold_1" / "validation" / "summary.json"
    summary.write_text(summary.read_text())
    commands = Commands(settings.workspace)
    assert run(settings, commands) == 0
    assert [word.split()[0] for word in commands.called] == ["select", "export-model", "report"]


def test_a_cascade_comes_after_every_fold_of_its_first_stage(settings):
    plan_files(settings.workspace, "3d_lowres", "3d_cascade_fullres")
    chosen = AutoSettings(settings.workspace, DATASET, configurations=["3d_cascade_fullres"], folds=["1"])
    steps = list_steps(chosen)
    assert [step.kind for step in steps] == ["train", "train", "train", "select", "export", "report"]
    assert [(step.plan.rpartition("/")[2], step.fold) for step in steps[:3]] == [
        ("3d_lowres", "0"), ("3d_lowres", "1"), ("3d_cascade_fullres", "1")
    ]  # fmt: skip
    assert steps[2].after == tuple(step.name for step in steps[:2])
    assert steps[3].after == tuple(step.name for step in steps[:3])


def test_a_second_stage_takes_the_first_of_its_own_run(settings):
    plan_files(settings.workspace, "3d_lowres", "3d_cascade_fullres")
    steps = list_steps(replace(settings, configurations=["3d_cascade_fullres"], run="b"))
    assert "plan.previous_stage_run=b" in steps[2].words
    assert "plan.previous_stage_run=b" not in steps[0].words


def test_training_on_all_cases_exports_the_run_without_selecting(settings):
    steps = list_steps(AutoSettings(settings.workspace, DATASET, folds=["all"]))
    assert [step.kind for step in steps] == ["train", "export", "report"]
    assert steps[1].words[1] == str(settings.folder / "3d_fullres" / "default")


def test_of_several_configurations_without_scores_the_cascade_alone_says_what_to_export(settings):
    plan_files(settings.workspace, "2d", "3d_lowres", "3d_cascade_fullres")
    chosen = replace(settings, folds=["all"], configurations=["3d_cascade_fullres"])
    assert list_steps(chosen)[-2].words[1] == str(settings.folder / "3d_cascade_fullres" / "default")
    with pytest.raises(ConfigError, match="which of 2d, 3d_fullres to export"):
        list_steps(replace(chosen, configurations=["2d", "3d_fullres"]))


def test_hours_become_epochs_once_and_are_kept(settings, monkeypatch):
    found = auto.Estimate(36.0, "", 0)
    monkeypatch.setattr(auto, "_estimate", lambda *given: (found, 1000))
    first = auto.with_budget(settings, parse_budget("2h"), compose)
    assert first.own_overrides == {"3d_fullres": ["trainer.max_epochs=100"]}  # 7200 s over two folds of 36 s an epoch
    monkeypatch.setattr(auto, "_estimate", lambda *given: (auto.Estimate(1.0, "", 0), 1000))
    assert auto.with_budget(settings, parse_budget("2h"), compose) == first
    assert read_record(settings)["own_overrides"]["epochs"] == {"3d_fullres": 100}
    assert json.loads((settings.folder / "auto.json").read_text())


def test_steps_are_shown_with_what_is_left(settings, capsys, monkeypatch):
    monkeypatch.setattr(auto, "_estimate", lambda *given: (auto.Estimate(60.0, "as told", 2_000_000_000), 10))
    assert auto.show(settings, Budget(), compose) == 0
    out = capsys.readouterr().out
    assert "10 epochs, 60 s each (as told)" in out
    assert "in all about 17 min of training, and 4.0 GB of disk" in out  # 3 of the 10 epochs of fold 0 are done
    assert not (settings.folder / "auto.json").exists()


def test_an_epoch_that_was_measured_is_believed_only_of_equal_batches(settings):
    import yaml

    config = yaml.safe_load((settings.folder / "3d_fullres/default/fold_0/config.yaml").read_text())
    assert measured_epoch(settings.workspace, f"{DATASET}/3d_fullres", config) == 30.0
    config["data"]["batch_size"] += 1
    assert measured_epoch(settings.workspace, f"{DATASET}/3d_fullres", config) is None


def test_a_step_is_timed_on_the_networks_own_patch(settings):
    import yaml

    config = yaml.safe_load((settings.folder / "3d_fullres/default/fold_0/config.yaml").read_text())
    parameters, seconds = step_seconds(config)
    assert parameters > 1000
    assert seconds > 0


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        (None, Budget()),
        ("100", Budget(100)),
        ("5x20", Budget(5, 20)),
        ("30min", Budget(seconds=1800)),
        ("1.5h", Budget(seconds=5400)),
        ("2d", Budget(seconds=172800)),
    ],
)
def test_a_budget_is_epochs_or_time(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "0", "5x0", "-3", "soon", "3 weeks", "0h"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(ConfigError, match="budget"):
        parse_budget(text)


def test_time_for_too_few_epochs_is_refused_with_what_is_needed():
    assert epochs_within(36_000, 36, 10) == 100
    assert epochs_within(1e9, 36, 10) == 1000
    with pytest.raises(ConfigError, match=r"at least 1\.0h"):
        epochs_within(3000, 36, 10)


def test_what_is_not_planned_or_not_there_is_refused(settings):
    with pytest.raises(PlanError, match="is not planned"):
        list_steps(AutoSettings(settings.workspace, "Dataset998_None"))
    with pytest.raises(ConfigError, match="Planned: 3d_fullres"):
        list_steps(AutoSettings(settings.workspace, DATASET, configurations=["2d"]))
    with pytest.raises(ConfigError, match="Folds: 0, 1"):
        list_steps(AutoSettings(settings.workspace, DATASET, folds=["5"]))


class Cluster:
    """Does what the commands would leave behind when told to, as a cluster does some time later."""

    def __init__(self, settings, codes=None):
        self.settings, self.codes, self.steps = settings, codes or {}, []

    def __call__(self, steps):
        self.steps = list(steps)
        return dict.fromkeys(step.name for step in steps)

    def work(self):
        failed = set()
        for step in self.steps:
            command = job_of_step(step, self.settings)
            if failed & set(step.after):
                failed.add(step.name)  # cancelled: it leaves no code
                continue
            code = self.codes.get(step.name, 0)
            if code == 0:
                Commands(self.settings.workspace)(list(step.words))
            else:
                failed.add(step.name)
            command.code_file.parent.mkdir(parents=True, exist_ok=True)
            command.code_file.write_text(f"{code}\n")


def submit(settings, cluster):
    assert auto.run_on_cluster(settings, Budget(), cluster, compose) == 0
    return [step.name for step in cluster.steps]


ALL = [*(f"train {DATASET}/3d_fullres fold {fold}" for fold in (0, 1)), "select", "export model", "report"]


def test_a_cluster_gets_all_steps_at_once_each_after_what_it_needs(settings):
    cluster = Cluster(settings)
    assert submit(settings, cluster) == ALL
    assert [step.after for step in cluster.steps] == [(), (), tuple(ALL[:2]), ("select",), ("export model",)]


def test_what_a_cluster_did_meanwhile_is_not_done_again_there_or_here(settings):
    cluster = Cluster(settings)
    submit(settings, cluster)
    cluster.work()
    assert submit(settings, Cluster(settings)) == []
    commands = Commands(settings.workspace)
    assert run(settings, commands) == 0
    assert commands.called == []


def test_what_failed_on_a_cluster_is_submitted_again_with_all_that_needs_it(settings):
    cluster = Cluster(settings, {ALL[1]: 1})
    submit(settings, cluster)
    cluster.work()
    again = Cluster(settings)
    assert submit(settings, again) == ALL[1:]
    again.work()
    assert submit(settings, Cluster(settings)) == []


def test_another_run_has_steps_of_its_own(settings):
    cluster = Cluster(settings)
    submit(settings, cluster)
    other = replace(settings, run="b")
    assert submit(other, Cluster(other)) == [f"{name} of run b" for name in ALL]
    cluster.work()
    assert submit(settings, Cluster(settings)) == []


def test_calls_for_other_configurations_forget_nothing_that_is_submitted(settings):
    plan_files(settings.workspace, "2d")
    flat = replace(settings, configurations=["2d"], folds=["0"])
    volume = replace(settings, configurations=["3d_fullres"])
    cluster = Cluster(volume)
    submit(volume, cluster)
    submit(flat, Cluster(flat))
    cluster.work()
    assert ALL[0] not in submit(volume, Cluster(volume))


def test_planning_on_a_cluster_is_done_once_with_the_same_words(settings, capsys):
    launched = []

    def launch(steps):
        launched.extend(step.words for step in steps)
        code_file = job_of_step(steps[0], settings).code_file
        code_file.parent.mkdir(parents=True, exist_ok=True)
        code_file.write_text("0\n")
        return {step.name: 0 for step in steps}

    (settings.workspace / "plan" / DATASET / "_dataset.yaml").touch()
    words = ["plan", "dataset=x"]
    assert auto.plan_on_cluster(settings, words, launch) == 0
    assert auto.plan_on_cluster(settings, words, launch) == 0
    assert "planned already" in capsys.readouterr().out
    assert auto.plan_on_cluster(settings, [*words, "split.k=2"], launch) == 0
    assert launched == [("plan", "dataset=x"), ("plan", "dataset=x", "split.k=2")]


def test_an_old_exit_code_is_not_taken_for_that_of_the_words_that_are_submitted_now(settings):
    cluster = Cluster(settings)
    submit(settings, cluster)
    cluster.work()
    changed = replace(settings, overrides=["seed=1"])
    assert submit(changed, Cluster(changed)) == ALL
    assert submit(changed, Cluster(changed)) == ALL


def test_a_failure_on_a_cluster_that_was_waited_for_is_named(settings, capsys):
    assert auto.run_on_cluster(settings, Budget(), lambda steps: {step.name: 1 for step in steps}, compose) == 1
    assert f"failed: {ALL[0]}, {ALL[1]}" in capsys.readouterr().err


def test_hours_are_no_budget_for_a_cluster():
    with pytest.raises(ConfigError, match="budget=2h"):
        auto.refuse_hours(parse_budget("2h"))
    auto.refuse_hours(parse_budget("100x50"))


def test_a_first_stage_is_not_done_before_it_segmented_its_cases(settings):
    plan_files(settings.workspace, "3d_lowres", "3d_cascade_fullres")
    chosen = replace(settings, configurations=["3d_lowres"])
    [step, *_] = list_steps(chosen)
    source = settings.folder / "3d_fullres" / "default" / "fold_0"
    shutil.copytree(source, settings.folder / "3d_lowres" / "default" / "fold_0")
    assert not is_done(step, chosen, {step.name: list(step.words)})
    (settings.workspace / "plan" / DATASET / "3d_cascade_fullres.yaml").unlink()
    assert is_done(step, chosen, {step.name: list(step.words)})


def test_what_is_in_the_queue_with_other_words_is_neither_waited_for_nor_submitted_beside(settings, monkeypatch):
    submit(settings, Cluster(settings))
    monkeypatch.setattr(auto_record, "job_of", lambda command: "17")
    assert submit(settings, Cluster(settings)) == ALL
    changed = replace(settings, overrides=["seed=1"])
    with pytest.raises(RunError, match=r"with other words are in the queue \(17\).*scancel 17\."):
        auto.run_on_cluster(changed, Budget(), Cluster(changed), compose)
