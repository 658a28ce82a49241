"""What a training must not discard, overwrite or find out too late."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tiny_run import make_run

from segplan.errors import ConfigError, ModelError, RunError, StorageError, StoreError
from segplan.inference import precision as inference_precision
from segplan.inference.probabilities import ProbabilityStore
from segplan.jobs import fold_validation, train
from segplan.jobs.prepare import fold_folder, prepare_run
from segplan.jobs.run_identity import run_identity
from segplan.jobs.train_fold import run
from segplan.jobs.training_setup import PRECISIONS
from segplan.training import load_checkpoint

ROOT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


needs_no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workspace = tmp_path_factory.mktemp("workspace")
    assert run(make_run(workspace, "trainer.max_epochs=1")) == 0
    return workspace


@pytest.fixture
def workspace(finished, tmp_path):
    """A copy of a workspace with a trained and validated fold."""
    shutil.copytree(finished, tmp_path / "w")
    return tmp_path / "w"


def changed(workspace: Path, *overrides: str):
    return make_run(workspace, "trainer.max_epochs=1", *overrides)


def test_validating_again_with_force_keeps_the_training(workspace):
    config = changed(workspace, "mode=validate", "force=true")
    folder = fold_folder(config)
    kept = {name: data for name, data in contents(folder).items() if not name.startswith(("validation", "config"))}
    assert len(kept) >= 5
    (folder / "validation" / "left_over.txt").touch()
    assert run(config) == 0
    after = contents(folder)
    assert {name: after.get(name) for name in kept} == kept
    assert "validation/left_over.txt" not in after
    assert "validation/summary.json" in after
    assert OmegaConf.load(folder / "config.yaml").force is False


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["finetune.checkpoint=/no/such/file.safetensors"], ModelError),
        (["loss._target_=segplan.training.DiceBCELoss"], ConfigError),
        (["loss.class_weights=[1,1,1,1,1,1,1,1,1]"], ConfigError),
        (["loss.class_weights=3"], ConfigError),
        (["optimizer.lr=-1"], ConfigError),
        (["trainer.bogus=1"], ConfigError),
        (["validation.every_n_epochs=2"], ConfigError),
        pytest.param(["augmentation.device=cuda"], ConfigError, marks=needs_no_cuda),
        (["data.patch_size=null"], ConfigError),
        (["data.patch_size=32"], ConfigError),
        (["data.patch_size=[32.5,32,32]"], ConfigError),
    ],
)
def test_force_discards_nothing_for_a_training_that_cannot_begin(workspace, overrides, error):
    config = changed(workspace, "force=true", *overrides)
    before = contents(fold_folder(config))
    with pytest.raises(error):
        run(config)
    assert contents(fold_folder(config)) == before


def test_folds_of_one_run_must_have_one_configuration(workspace):
    config = changed(workspace, "fold=1", "data.batch_size=3")
    shutil.rmtree(fold_folder(config))
    with pytest.raises(RunError, match=r"run's folds have another config \(data.batch_size 2 → 3\).*run=NAME"):
        prepare_run(config)
    assert not fold_folder(config).exists()
    config.force = True
    with pytest.raises(RunError, match=r"other folds have another config.*this fold only"):
        prepare_run(config)
    assert not fold_folder(config).exists()


def test_a_fold_may_differ_in_seed_and_starting_weights(workspace):
    weights = fold_folder(changed(workspace)) / "weights.safetensors"
    assert prepare_run(changed(workspace, "fold=1", "seed=5", f"finetune.checkpoint={weights}")).is_file()


def test_a_run_from_before_there_was_a_common_identity_gets_one(workspace):
    config = changed(workspace)
    common = fold_folder(config).parent / "identity.json"
    common.unlink()
    assert run(config) == 0
    assert json.loads(common.read_text())["data.batch_size"] == 2
    assert "fold" not in json.loads(common.read_text())


def test_scores_of_replaced_weights_do_not_pass_as_current(workspace, monkeypatch):
    config = make_run(workspace, "trainer.max_epochs=2")
    summary = fold_folder(config) / "validation" / "summary.json"
    before = summary.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr("segplan.jobs.train_fold.validate_fold", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert not summary.exists()
    assert run(config) == 0
    assert summary.stat().st_mtime_ns > before


def killed(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("older", [False, True])
def test_a_final_checkpoint_that_could_not_be_written_is_made_from_the_last(workspace, tmp_path, older):
    config = make_run(workspace, "trainer.max_epochs=2")
    folder = fold_folder(config)
    first = tmp_path / "first.ckpt"
    shutil.copy(folder / "checkpoints" / "final.ckpt", first)
    old_weights = (folder / "weights.safetensors").read_bytes()
    assert run(config) == 0
    new_weights = (folder / "weights.safetensors").read_bytes()
    assert new_weights != old_weights
    # As if it had been killed after last.ckpt.
    (folder / "checkpoints" / "final.ckpt").unlink()
    (folder / "weights.safetensors").write_bytes(old_weights)
    if older:
        shutil.copy(first, folder / "checkpoints" / "final.ckpt")
        os.utime(folder / "checkpoints" / "final.ckpt", (1, 1))
    assert run(config) == 0
    assert (folder / "weights.safetensors").read_bytes() == new_weights
    assert load_checkpoint(folder / "checkpoints" / "final.ckpt")["global_step"] == 8


def test_a_label_whose_name_holds_a_comma_keeps_its_rows_on_resuming(tmp_path):
    config = make_run(tmp_path, "trainer.max_epochs=1")
    config.plan.labels = OmegaConf.create({"background": 0, "left, bright": 1, "dark": 2})
    assert run(config) == 0
    before = (fold_folder(config) / "metrics.csv").read_text().splitlines()
    config.trainer.max_epochs = 2
    assert run(config) == 0
    after = (fold_folder(config) / "metrics.csv").read_text().splitlines()
    assert '"patch_dice/left, bright"' in before[0]
    assert after[:2] == before
    assert len(after) == 3


def test_the_inference_node_decides_how_a_fold_is_validated(tmp_path):
    config = make_run(tmp_path, "inference.mirror=[1]", "inference.step_size=0.75", "inference.accumulator=float16")
    tiling = fold_validation.tiling_of(prepared(config))
    assert (tiling.mirror_axes, tiling.step_size, tiling.exact_half) == ((1,), 0.75, True)


def prepared(config):
    from segplan.jobs.training_setup import prepare_training

    return prepare_training(config)


@pytest.mark.parametrize(
    ("overrides", "command"),
    [
        (["plan_name=big"], "name=big 'stages=[preprocess]' 'configurations=[3d_fullres]' workspace="),
        (
            ["configuration=small", "plan.configuration=3d_fullres"],
            "Tiny 'stages=[preprocess]' 'configurations=[small]' workspace=",
        ),
    ],
)
def test_the_command_that_preprocesses_names_the_plan(tmp_path, overrides, command):
    config = make_run(tmp_path, "plan.spacing=[2.0,2.0,2.0]")
    make_run(tmp_path)
    shutil.rmtree(tmp_path / "preprocessed")
    with pytest.raises(StoreError) as caught:
        prepared(OmegaConf.merge(config, OmegaConf.from_dotlist(overrides)))
    assert command in str(caught.value)


def test_precisions_are_those_that_validation_computes_in():
    assert set(PRECISIONS) == {"auto", *inference_precision._FORMATS}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.precision=64-true", "trainer.precision=64-true: is unknown. Use auto, 32"),
        ("trainer.accelerator=gpus", "trainer.accelerator=gpus: is unknown"),
        ("inference.step_size=2", "inference.step_size=2"),
        ("inference.step_size=half", "inference.step_size=half"),
        ("inference.mirror=up", "inference.mirror=up"),
        ("seed=-1", "seed=-1"),
        ("seed=one", "seed=one"),
    ],
)
def test_values_are_refused_before_anything_is_written(tmp_path, override, message):
    config = make_run(tmp_path, override)
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(ConfigError) as caught:
        prepare_run(config)
    assert message in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inference.mirror=[0,3]", "mirrored axes [0, 1, 2] only"),
        ("optimizer.lr=-0.1", "optimizer: torch.optim.SGD refuses a value (Invalid learning rate: -0.1)"),
        ("trainer.bogus=1", "trainer.bogus: there is no such key"),
        ("data.x=1", "data.x: there is no such key"),
        ("data.seed=1", "data.seed: is set by segplan itself"),
        ("module.x=1", "module.x: there is no such key"),
        ("checkpoint.x=1", "checkpoint.x: there is no such key"),
        ("trainer.num_sanity_val_steps=1", "trainer.num_sanity_val_steps: is decided by segplan"),
        ("trainer.callbacks=[]", "trainer.callbacks: is set by segplan itself"),
        ("trainer.devices=0", "Lightning refuses a value"),
    ],
)
def test_values_are_refused_before_training_begins(tmp_path, override, message, capsys):
    config = make_run(tmp_path, override)
    assert train.main([str(fold_folder(config) / "config.yaml")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (fold_folder(config) / "identity.json").exists()


def test_what_segplan_switches_off_may_be_said_again(tmp_path, capsys):
    assert run(make_run(tmp_path, "trainer.max_epochs=1", "trainer.enable_progress_bar=false")) == 0
    assert "0 loader processes: asked for" in capsys.readouterr().out


@needs_no_cuda
@pytest.mark.parametrize("name", ["gpu", "cuda"])
def test_a_device_that_is_not_there_is_said_in_one_line(tmp_path, name, capsys):
    config = make_run(tmp_path, f"trainer.accelerator={name}")
    assert train.main([str(fold_folder(config) / "config.yaml")]) == 2
    assert f"trainer.accelerator={name}: this machine has no cuda device" in capsys.readouterr().err


def test_the_choice_of_loader_processes_is_printed_with_its_reason(tmp_path, capsys):
    assert run(make_run(tmp_path, "trainer.max_epochs=1", "data.num_workers=auto")) == 0
    assert "the network computes on the" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["metrics", "weights"])
def test_a_full_disk_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, place):
    config = make_run(tmp_path, "trainer.max_epochs=1")

    def full(*_, **__):
        raise OSError(28, os.strerror(28))

    target = "segplan.training.callbacks.metrics_csv.MetricsCSV._append"
    monkeypatch.setattr(target if place == "metrics" else "safetensors.torch.save_file", full)
    assert train.main([str(fold_folder(config) / "config.yaml")]) == 2
    error = capsys.readouterr().err
    assert ("metrics.csv" if place == "metrics" else "weights") in error
    assert "no space left" in error.lower()
    assert "Traceback" not in error


def test_an_interruption_outside_of_training_is_one_line_and_exit_code_130(workspace, monkeypatch, capsys):
    config = changed(workspace, "mode=validate")
    monkeypatch.setattr("segplan.jobs.train_fold.validate_fold", killed)
    assert train.main([str(fold_folder(config) / "config.yaml")]) == 130
    assert capsys.readouterr().err == "segplan: interrupted; the same command goes on from what is saved\n"


def test_the_command_handles_errors_before_torch_loads():
    code = "import sys, segplan.jobs.train, segplan.jobs.training_setup; sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0


@pytest.mark.parametrize("images", [True, False])
def test_probabilities_and_label_maps_agree_and_stand_in_files_of_their_own(workspace, monkeypatch, images):
    plain = changed(workspace, "mode=validate")
    folder = fold_folder(plain) / "validation"
    monkeypatch.setattr(fold_validation, "_can_write_images", lambda: False)
    assert run(plain) == 0
    expected = np.load(folder / "e_labels.npz")["labels"]
    monkeypatch.setattr(fold_validation, "_can_write_images", lambda: images)
    calls = []
    whole = fold_validation.segment_case
    monkeypatch.setattr(fold_validation, "segment_case", lambda *a, **k: calls.append(1) or whole(*a, **k))
    assert run(changed(workspace, "mode=validate", "force=true", "validation.save_probabilities=true")) == 0
    probabilities = ProbabilityStore.open(folder / "e.probabilities").read(0, len(expected))
    assert np.mean(probabilities.argmax(axis=0) == expected) > 0.999, "half precision leaves few ties"
    assert len(calls) == 2
    assert (folder / "e.nii.gz").exists() == images
    assert (folder / "e_labels.npz").exists() != images


def test_probabilities_in_the_form_of_nnunet_replace_the_store(workspace):
    config = changed(workspace, "mode=validate", "force=true", "validation.save_probabilities=true")
    folder = fold_folder(config) / "validation"
    assert run(config) == 0
    store = ProbabilityStore.open(folder / "e.probabilities")
    expected = store.read(0, store.shape[0])
    assert run(changed(workspace, "mode=validate", "validation.save_probabilities=npz", "force=true")) == 0
    assert np.array_equal(np.load(folder / "e.npz")["probabilities"], expected)
    assert not (folder / "e.probabilities").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["validation.save_probabilities=zip"], "save_probabilities=zip"),
        (["validation.save_probabilities=true", "inference.mode=fast"], "labels only"),
    ],
)
def test_validations_that_cannot_be_made_are_refused(workspace, change, message):
    with pytest.raises(ConfigError, match=message):
        run(changed(workspace, "mode=validate", *change))


def test_storage_errors_of_model_folders_name_the_file(tmp_path):
    from segplan.model_folder import write_weights

    (tmp_path / "fold_0").write_text("a file where a folder must be")
    with pytest.raises(StorageError, match=r"weights\.safetensors"):
        write_weights(tmp_path, 0, {"weight": torch.zeros(1)})


def test_a_checkpoint_that_another_version_wrote_in_another_way_is_refused(workspace):
    config = changed(workspace, "trainer.max_epochs=2")
    path = fold_folder(config) / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    del saved["segplan"]["format"]
    torch.save(saved, path)
    with pytest.raises(RunError, match=r"is of format 1, and this version of segplan resumes format 2.*force=true"):
        run(config)


def test_a_run_begun_before_labels_had_a_choice_of_resampling_goes_on(tmp_path):
    begun = run_identity(make_run(tmp_path))
    assert run_identity(make_run(tmp_path, "plan.label_resampling=votes")) == begun
    assert run_identity(make_run(tmp_path, "plan.label_resampling=nearest")) != begun
    of_spatial = "augmentation.spatial.unannotated=nearest"
    assert run_identity(make_run(tmp_path, of_spatial)) == begun
    ignoring = [run_identity(make_run(tmp_path, "plan.ignore_label=3", *words)) for words in ([], [of_spatial])]
    assert ignoring[0] != ignoring[1]


def test_a_validation_with_other_overrides_is_told_to_repeat_them_not_to_start_over(tmp_path):
    run(make_run(tmp_path, "trainer.max_epochs=1"))
    with pytest.raises(RunError, match=r"Give the overrides that it was trained with.*config\.yaml") as refused:
        run(make_run(tmp_path, "mode=validate", "data.batch_size=3"))
    assert "force" not in str(refused.value)
