"""A run says how it came about, and can be run again."""

import json
import shutil

import pytest
import torch
from omegaconf import OmegaConf
from tiny_run import make_run

from segplan.cli import main
from segplan.jobs import reproduce
from segplan.jobs.prepare import fold_folder, prepare_run
from segplan.jobs.provenance import git_revision, read_provenance
from segplan.jobs.train_fold import run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    config = make_run(tmp_path_factory.mktemp("reproduce"), "trainer.max_epochs=1", "determinism=strict")
    prepare_run(config)
    assert run(config) == 0
    torch.use_deterministic_algorithms(False)
    return config


def weights(config):
    return (fold_folder(config) / "weights.safetensors").read_bytes()


def test_a_run_folder_has_command_versions_seed_machine_and_data(trained):
    provenance = read_provenance(fold_folder(trained))
    assert "pytest" in provenance["command"]
    [start] = provenance["starts"]
    assert start["versions"]["torch"] == torch.__version__
    assert (start["seed"], start["determinism"]) == (0, "strict")
    assert start["hardware"]["cores"] >= 1
    assert {"plan", "data", "git", "started"} <= start.keys()


def test_each_start_is_noted_and_starting_over_keeps_the_notes(tmp_path):
    config = make_run(tmp_path, "trainer.max_epochs=1")
    assert run(config) == 0
    config.force = True
    assert run(config) == 0
    assert len(read_provenance(fold_folder(config))["starts"]) == 2


def test_strict_determinism_gives_bit_equal_weights(trained, tmp_path, monkeypatch):
    asked = []
    switch = torch.use_deterministic_algorithms
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda on, **k: asked.append(on) or switch(on, **k))
    config = make_run(tmp_path, "trainer.max_epochs=1", "determinism=strict")
    assert run(config) == 0
    switch(False)
    assert True in asked
    assert weights(config) == weights(trained)


def test_an_unknown_determinism_is_refused(tmp_path):
    from segplan.errors import ConfigError

    with pytest.raises(ConfigError, match=r"determinism=very: is unknown\. Use fast or strict"):
        run(make_run(tmp_path, "determinism=very"))


def test_a_run_is_reproduced_bit_by_bit_in_a_folder_of_its_own(trained, capfd):
    assert main(["reproduce", str(fold_folder(trained).parent)]) == 0
    printed = capfd.readouterr().out
    assert "versions, machine, plan and data are those of then" in printed
    assert "weights: bit-equal" in printed
    again = OmegaConf.merge(trained, {"run": "default-again"})
    assert weights(again) == weights(trained)


def test_what_has_changed_since_is_said(trained, tmp_path, capsys):
    """Other packages, another machine, other data: a moved workspace in which one case was preprocessed anew."""
    workspace = tmp_path / "moved"
    shutil.copytree(trained.workspace, workspace)
    fold = workspace / fold_folder(trained).relative_to(trained.workspace)
    provenance = json.loads((fold / "provenance.json").read_text())
    provenance["starts"][0]["versions"]["torch"] = "1.0"
    provenance["starts"][0]["data"] = "other"
    (fold / "provenance.json").write_text(json.dumps(provenance))
    assert reproduce.run(fold, None, None) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["torch", "1.0", torch.__version__] for line in lines)
    assert any(line.split()[:2] == ["data", "other"] for line in lines)


def test_an_edited_plan_and_a_half_trained_run_are_said(trained, tmp_path, capsys):
    workspace = tmp_path / "w"
    shutil.copytree(trained.workspace, workspace)
    fold = workspace / fold_folder(trained).relative_to(trained.workspace)
    (fold / "weights.safetensors").unlink()
    provenance = json.loads((fold / "provenance.json").read_text())
    provenance["starts"][0]["plan file"] = "of then"
    (fold / "provenance.json").write_text(json.dumps(provenance))
    asked = []
    assert reproduce.run(fold, None, None, train=lambda words: asked.append(words) or 0) == 0
    printed = capsys.readouterr().out
    assert "it was not trained to its end" in printed
    assert any(line.strip().startswith("plan file") for line in printed.splitlines())
    [command] = asked
    assert len(command) == 5  # the configuration's hash is the last: a file that is written meanwhile is refused


def test_a_signal_leaves_the_further_folds(trained, tmp_path):
    run_folder = tmp_path / "w" / fold_folder(trained).parent.relative_to(trained.workspace)
    shutil.copytree(trained.workspace, tmp_path / "w")
    shutil.copytree(run_folder / "fold_0", run_folder / "fold_1")
    asked = []
    assert reproduce.run(run_folder, None, None, train=lambda words: asked.append(words) or 130) == 130
    assert len(asked) == 1


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main(["reproduce", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_outside_of_git_there_is_no_revision(tmp_path):
    assert git_revision(tmp_path) is None
