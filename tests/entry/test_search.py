"""Hyper-parameter search: what is drawn, cut short, shared and gone on with."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from small_dataset import make_dataset

from segplan.entry import main, search
from segplan.entry.compose import parse_overrides
from segplan.entry.trial import Ending, metric_rows
from segplan.jobs import fold_record
from segplan.jobs.fold_record import is_alive, this_process

ROOT = Path(__file__).parents[2]
PLAN = "plan=Dataset003_Boxes/3d_fullres"


@pytest.fixture(scope="module")
def planned_workspace(tmp_path_factory):
    root = tmp_path_factory.mktemp("search")
    raw = make_dataset(root / "Dataset003_Boxes", cases=5)
    assert (
        main("plan", [f"dataset={raw}", f"workspace={root / 'w'}", "num_workers=0", "configurations=[3d_fullres]"]) == 0
    )
    return root / "w"


class Trainings:
    """Stands in for the training processes: the objective is 1 - |lr - 0.01|, half of it after the first epoch."""

    def __init__(self):
        self.rates, self.folders, self.pruned, self.endings = [], [], [], []

    def __call__(self, command, folder, watch, objective, is_hopeless):
        from omegaconf import OmegaConf

        rate = OmegaConf.load(folder / "config.yaml").optimizer.lr
        self.rates.append(rate)
        self.folders.append(folder)
        if self.endings:
            return self.endings.pop(0)
        value = 1 - abs(rate - 0.01)
        for epoch in (1, 2, 3):
            if is_hopeless(epoch, value * epoch / 3):
                self.pruned.append(rate)
                return Ending(0, is_pruned=True)
        return Ending(0, value)


@pytest.fixture
def trainings(monkeypatch):
    fake = Trainings()
    monkeypatch.setattr(search, "run_trial", fake)
    return fake


def run(workspace, tmp_path, *words):
    storage = f"hydra.sweeper.storage='{tmp_path / 's.journal'}'"
    words = ["-m", "hydra/sweeper=optuna", PLAN, f"workspace={workspace}", storage, *words]
    return main("train", words)


LR = "optimizer.lr=tag(log,interval(0.001,0.5))"


def test_values_come_from_the_command_line_and_each_trial_is_a_run(planned_workspace, trainings, tmp_path, capsys):
    assert run(planned_workspace, tmp_path, LR, "hydra.sweeper.n_trials=4", "seed=3") == 0
    assert len(set(trainings.rates)) == 4
    assert all(0.001 <= rate <= 0.5 for rate in trainings.rates)
    assert [folder.parent.name[-5:] for folder in trainings.folders] == ["-0000", "-0001", "-0002", "-0003"]
    best = min(trainings.rates, key=lambda rate: abs(rate - 0.01))
    assert f"Best: python train.py {PLAN.split('=')[0]}=" in (printed := capsys.readouterr().out)
    assert f"optimizer.lr={best}" in printed.splitlines()[-1]


def test_the_ready_search_space_composes(planned_workspace, trainings, tmp_path):
    assert run(planned_workspace, tmp_path, "hydra.sweeper.n_trials=3") == 0
    assert all(0.001 <= rate <= 0.03 for rate in trainings.rates)


def test_hopeless_trials_are_cut_short(planned_workspace, trainings, tmp_path):
    words = [LR, "hydra.sweeper.n_trials=8", "hydra.sweeper.startup_trials=3", "hydra.sweeper.warmup_epochs=1"]
    assert run(planned_workspace, tmp_path, *words) == 0
    assert trainings.pruned
    assert len(trainings.rates) == 8
    ended = [rate for rate in trainings.rates if rate not in trainings.pruned]
    assert min(abs(rate - 0.01) for rate in ended) < min(abs(rate - 0.01) for rate in trainings.pruned)


def test_a_search_goes_on_and_draws_other_values(planned_workspace, trainings, tmp_path, capsys):
    assert run(planned_workspace, tmp_path, LR, "hydra.sweeper.n_trials=2") == 0
    assert run(planned_workspace, tmp_path, LR, "hydra.sweeper.n_trials=5") == 0
    assert "2 of 5 trials are there" in capsys.readouterr().out
    assert len(set(trainings.rates)) == len(trainings.rates) == 5


def test_a_trial_that_was_stopped_goes_on_in_its_own_folder(planned_workspace, trainings, tmp_path, monkeypatch):
    trainings.endings = [Ending(143, was_stopped=True)]
    assert run(planned_workspace, tmp_path, LR, "hydra.sweeper.n_trials=1") == 130
    monkeypatch.setattr("psutil.pid_exists", lambda pid: False)  # the process that searched is gone
    assert run(planned_workspace, tmp_path, LR, "hydra.sweeper.n_trials=1") == 0
    assert trainings.rates[0] == trainings.rates[1]
    assert trainings.folders[0] == trainings.folders[1]


def test_an_objective_that_trials_do_not_have_ends_the_search(planned_workspace, trainings, tmp_path, capsys):
    trainings.endings = [Ending(0)] * 5
    assert run(planned_workspace, tmp_path, LR, "hydra.sweeper.objective=emma") == 1
    assert len(trainings.endings) == 2
    assert "it has no emma; there are dice" in capsys.readouterr().out


def test_a_study_with_other_choices_is_not_gone_on_with(planned_workspace, trainings, tmp_path, capsys):
    assert run(planned_workspace, tmp_path, "loss=dice_ce,dice_topk", "hydra.sweeper.n_trials=1") == 0
    assert run(planned_workspace, tmp_path, "loss=dice_ce,dice_focal", "hydra.sweeper.n_trials=2") == 2
    assert "was begun with another search space" in capsys.readouterr().err


def test_a_training_that_outlived_its_search_is_waited_for(tmp_path, capsys):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.5)"])
    attempt = replace(this_process(), process=child.pid, born=fold_record._born(child.pid))
    (tmp_path / "attempt.json").write_text(json.dumps(asdict(attempt)))
    search._await_orphan(tmp_path)
    assert f"process {child.pid} trains it already" in capsys.readouterr().out
    assert not is_alive(attempt)
    child.wait()


def test_only_trainings_are_searched(capsys):
    assert main("predict", ["hydra/sweeper=optuna", "plan=a/b", "input=x", "output=y"]) == 2
    assert "only trainings can be searched" in capsys.readouterr().err


def test_a_failing_trial_stops_no_other_but_many_in_a_row_do(planned_workspace, trainings, tmp_path):
    trainings.endings = [Ending(1)]
    assert run(planned_workspace, tmp_path, LR, "hydra.sweeper.n_trials=2") == 1
    assert len(trainings.rates) == 3
    trainings.endings = [Ending(1)] * 5
    assert run(planned_workspace, tmp_path, LR, "hydra.sweeper.n_trials=9") == 1
    assert len(trainings.endings) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fold=0,1"], "fold: cannot be searched"),
        (["hydra.sweeper.trials=3"], "Did you mean hydra.sweeper.n_trials"),
        (["hydra.sweeper.pruner=best"], "Use median, hyperband or none"),
        (["hydra/launcher=slurm"], "they share the study"),
        (["optimzer.lr=interval(0.1,0.2)"], "unknown key optimzer.lr. Did you mean optimizer.lr?"),
        (["optimizer.lr=interval(0.2,0.1)"], "is no interval"),
        (["optimizer.lr=tag(log,interval(0,0.1))"], "is no interval"),
        (["hydra.sweeper.startup_trials=few"], "startup_trials=few: must be a whole number from 0"),
        (["hydra.sweeper.storage='sqlite:///a.db'"], "must be a file"),
        (["--cfg", "job"], "--cfg shows one configuration"),
        (["--bogus"], "unknown option --bogus"),
    ],
)
def test_what_cannot_be_searched_is_refused(planned_workspace, trainings, tmp_path, capsys, words, message):
    assert run(planned_workspace, tmp_path, *words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a=interval(1,4)", "FloatDistribution"),
        ("a=int(interval(1,4))", "IntDistribution"),
        ("a=choice(x,y)", "CategoricalDistribution"),
        ("a=range(1,9,2)", "CategoricalDistribution"),
    ],
)
def test_hydras_sweeps_become_distributions(text, kind):
    [item] = parse_overrides([text])
    assert type(search._distribution(item)).__name__ == kind


def test_a_row_that_is_being_written_is_not_read(tmp_path):
    (tmp_path / "m.csv").write_text("epoch,ema\n1,0.5\n2,nan\n3,0.25\n4,0.")
    assert metric_rows(tmp_path / "m.csv", "ema") == [(1, 0.5), (3, 0.25)]


def test_two_machines_share_a_study_without_drawing_one_value_twice(tmp_path):
    """Two processes ask the same journal at the same time."""
    code = (
        "import sys, json; from segplan.entry import search\n"
        "from segplan.entry.compose import parse_overrides\n"
        "from pathlib import Path\n"
        "item = parse_overrides(['a=interval(0,1)'])[0]\n"
        "s = search.Search(10, 'x', sys.argv[1], 0, 'dice', 'ema', 'none', 5, 1, {})\n"
        "study = search._open(s, 'x', Path('.'))\n"
        "for _ in range(5): study.tell(study.ask({'a': search._distribution(item)}), 0.5)\n"
        "print(json.dumps([t.number for t in study.trials]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "s.journal")]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
        for _ in range(2)
    ]
    outs = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in both]
    assert max(outs, key=len) == list(range(10))


@pytest.mark.slow
def test_a_real_search_trains_and_evaluates(planned_workspace, tmp_path, capfd):
    budget = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.accelerator=cpu", "data.num_workers=0"]
    words = [LR, *budget, "hydra.sweeper.n_trials=2", "inference.mirror=false"]
    assert run(planned_workspace, tmp_path, *words) == 0
    assert capfd.readouterr().out.count("dice 0.") == 2


def test_the_shipped_file_has_the_keys_of_the_search():
    from dataclasses import fields

    from omegaconf import OmegaConf

    node = OmegaConf.load(ROOT / "configs" / "hydra" / "sweeper" / "optuna.yaml")
    assert list(node) == [field.name for field in fields(search.Search)]
