import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunet_fixture import DATA, import_fixture
from omegaconf import DictConfig, OmegaConf
from PIL import Image as Picture

from segplan.entry.main import device_shares, main
from segplan.errors import ConfigError, ModelError
from segplan.inference import InferenceSettings, Predictor
from segplan.jobs.predict import run, settings_of
from segplan.model_folder import write_model_json, write_weights
from segplan.networks import PlainUNet

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return import_fixture("3d_fullres", tmp_path_factory.mktemp("runs") / "m")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "images", tmp_path / "images (ü, 膝) = 1"))


def config_of(model: Path | None, images: Path, output: Path, **changes) -> DictConfig:
    config = OmegaConf.load(CONFIGS / "predict.yaml")
    config.pop("defaults")
    config.inference = OmegaConf.load(CONFIGS / "inference" / "default.yaml")
    config.inference.mirror = False
    config.trainer.accelerator, config.trainer.precision = "cpu", "32"
    config.folds, config.input, config.output = 0, str(images), str(output)
    config.model = None if model is None else str(model)
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config


def geometry_of(path: Path) -> tuple:
    image = sitk.ReadImage(str(path))
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


def test_the_shipped_defaults_are_those_of_the_settings():
    node = OmegaConf.load(CONFIGS / "inference" / "default.yaml")
    assert settings_of(node) == InferenceSettings()


def test_label_maps_have_the_images_geometry_and_the_predictors_labels(model, images, tmp_path, capsys):
    output = tmp_path / "out, (ü)"
    assert run(config_of(model, images, output)) == 0
    predictor = Predictor.from_model(model, folds=0, device="cpu", precision="32", mirror=False)
    for case in ("t0", "t1"):
        written = output / f"{case}.nii.gz"
        assert geometry_of(written) == geometry_of(images / f"{case}_0000.nii.gz")
        expected, _ = predictor.predict_files([images / f"{case}_{channel:04d}.nii.gz" for channel in range(2)])
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(written))), expected)
        assert expected.any()
    record = json.loads((output / "predict.json").read_text())
    assert set(record["cases"]) == {"t0", "t1"}
    assert set(record["cases"]["t0"]["seconds"]) == {"read", "network", "export", "write"}
    assert record["cases"]["t0"]["precision"] == "32"
    out = capsys.readouterr().out
    assert "2 cases · model Dataset011_FixLabels/3d_fullres fold 0" in out
    assert "2 written to" in out
    assert sorted(path.name for path in output.iterdir()) == ["predict.json", "t0.nii.gz", "t1.nii.gz"]


def test_what_is_done_is_skipped_and_force_redoes_it(model, images, tmp_path, capsys):
    output = tmp_path / "out"
    run(config_of(model, images, output))
    times = {path.name: path.stat().st_mtime_ns for path in output.glob("*.nii.gz")}
    capsys.readouterr()
    assert run(config_of(model, images, output)) == 0
    assert "Nothing to do: 2 cases" in capsys.readouterr().out
    assert times == {path.name: path.stat().st_mtime_ns for path in output.glob("*.nii.gz")}
    run(config_of(model, images, output, force=True))
    assert all(path.stat().st_mtime_ns > times[path.name] for path in output.glob("*.nii.gz"))


@pytest.mark.parametrize("damage", ["deleted", "input"])
def test_only_what_is_missing_or_outdated_is_made(model, images, tmp_path, capsys, damage):
    output = tmp_path / "out"
    run(config_of(model, images, output))
    expected = (output / "t0.nii.gz").read_bytes()
    kept = (output / "t1.nii.gz").stat().st_mtime_ns
    if damage == "deleted":
        (output / "t0.nii.gz").unlink()
    else:
        content = (images / "t0_0001.nii.gz").read_bytes()
        (images / "t0_0001.nii.gz").unlink()
        (images / "t0_0001.nii.gz").write_bytes(content)
    capsys.readouterr()
    assert run(config_of(model, images, output)) == 0
    out = capsys.readouterr().out
    assert "1 case already made" in out
    assert "case=t0 " in out
    assert (output / "t0.nii.gz").read_bytes() == expected
    assert (output / "t1.nii.gz").stat().st_mtime_ns == kept


@pytest.mark.parametrize("also", ["new case", "new input", "probabilities"])
def test_an_edited_prediction_is_kept_and_named_unless_forced(model, images, tmp_path, capsys, also):
    output = tmp_path / "out"
    run(config_of(model, images, output))
    edited = output / "t0.nii.gz"
    edited.write_bytes(b"corrected by hand")
    changes = {"save_probabilities": True} if also == "probabilities" else {}
    for channel in range(2):
        content = (images / f"t1_{channel:04d}.nii.gz").read_bytes()
        if also == "new case":
            (images / f"t9_{channel:04d}.nii.gz").write_bytes(content)
        elif also == "new input":
            (images / f"t0_{channel:04d}.nii.gz").write_bytes(content)
    capsys.readouterr()
    for _ in range(2):  # the first run must not make it forget
        assert run(config_of(model, images, output, **changes)) == 0
        notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
        assert len(notes) == 1
        assert str(edited) in notes[0]
        assert "force=true" in notes[0]
        assert edited.read_bytes() == b"corrected by hand"
    assert (output / "t9.nii.gz").exists() == (also == "new case")
    assert run(config_of(model, images, output, force=True, **changes)) == 0
    assert edited.read_bytes() != b"corrected by hand"


def test_a_kill_between_label_map_and_record_does_not_look_like_an_edit(model, images, tmp_path, monkeypatch):
    output = tmp_path / "out"
    run(config_of(model, images, output))

    def write_and_die(path, *_):
        path.write_bytes(b"other labels")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("segplan.jobs.prediction_results.write_label_map", write_and_die)
        with pytest.raises(KeyboardInterrupt):
            run(config_of(model, images, output, force=True))
    assert run(config_of(model, images, output)) == 0
    assert (output / "t0.nii.gz").read_bytes() != b"other labels"


def test_ctrl_c_reaches_the_entry_point_and_works_again_afterwards(model, images, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("segplan.jobs.prediction_results.write_label_map", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(config_of(model, images, tmp_path / "out"))
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer__accelerator", "foo"),
        ("trainer__accelerator", None),
        ("trainer__devices", 2),
        ("shard", None),
        ("shard", -1),
        ("shard", 1),
        ("shard", "a"),
        ("num_shards", None),
        ("num_shards", 0),
        ("num_shards", 1.5),
        ("num_workers", None),
        ("num_workers", "many"),
        ("num_workers", 1.5),
        ("num_workers", -1),
        ("folds", ["x"]),
        ("folds", 1.5),
        ("inference__step_size", "half"),
        ("inference__step_size", None),
        ("inference__tile_batch_size", None),
        ("inference__mirror", None),
        ("inference__mirror", ["x"]),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_its_key_before_the_model_is_loaded(
    model, images, tmp_path, monkeypatch, key, value
):
    monkeypatch.setattr("segplan.jobs.predict._load", lambda *_: pytest.fail("the model was loaded"))
    name, shown = key.replace("__", "."), "null" if value is None else str(value)
    with pytest.raises(ConfigError) as caught:
        run(config_of(model, images, tmp_path / "out", **{key: value}))
    assert f"{name}=" in str(caught.value)
    assert shown in str(caught.value) or name.startswith("inference.")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_gpu_that_is_not_there_is_refused_before_weights_are_read(model, images, tmp_path, monkeypatch, accelerator):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr("segplan.inference.predictor.load_network", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(ConfigError, match=f"trainer.accelerator={accelerator}: torch finds no .*Use auto or cpu"):
        run(config_of(model, images, tmp_path / "out", trainer__accelerator=accelerator))


def test_an_interrupted_job_goes_on(model, images, tmp_path):
    output = tmp_path / "out"
    run(config_of(model, images, output))
    record = json.loads((output / "predict.json").read_text())
    del record["cases"]["t0"]  # killed between writing the label map and the record
    (output / "predict.json").write_text(json.dumps(record))
    assert run(config_of(model, images, output)) == 0
    assert set(json.loads((output / "predict.json").read_text())["cases"]) == {"t0", "t1"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"folds": 1}, r"folds \['0'\] → \['1'\]"),
        ({"inference__step_size": 0.7}, "step_size 0.5 → 0.7"),
    ],
)
def test_predictions_made_otherwise_are_refused_unless_forced(model, images, tmp_path, changes, said):
    output = tmp_path / "out"
    run(config_of(model, images, output))
    before = (output / "t0.nii.gz").read_bytes()
    with pytest.raises(ConfigError, match=said):
        run(config_of(model, images, output, **changes))
    assert (output / "t0.nii.gz").read_bytes() == before
    assert run(config_of(model, images, output, force=True, **changes)) == 0
    with pytest.raises(ConfigError):
        run(config_of(model, images, output))


def test_a_forced_prediction_leaves_no_probabilities_of_the_other_model(model, images, tmp_path):
    output = tmp_path / "out"
    run(config_of(model, images, output, save_probabilities=True, save_entropy=True))
    (output / "entropy" / "t1.nii.gz").write_bytes(b"edited")
    assert run(config_of(model, images, output, force=True, folds=1)) == 0
    left = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert left == {"t0.nii.gz", "t1.nii.gz", "predict.json", "entropy/t1.nii.gz"}


def test_damaged_probabilities_are_made_again(model, images, tmp_path, capsys):
    config = config_of(model, images / "t0_0000.nii.gz", tmp_path / "out", save_probabilities=True)
    run(config)
    pieces = tmp_path / "out" / "t0.probabilities" / "boxes.bin"
    whole = pieces.read_bytes()
    pieces.write_bytes(whole[:-100])
    capsys.readouterr()
    assert run(config) == 0
    assert "1 written" in capsys.readouterr().out
    assert pieces.read_bytes() == whole


def test_files_of_unknown_origin_are_never_overwritten(model, images, tmp_path):
    output = tmp_path / "labels"
    output.mkdir()
    (output / "t0.nii.gz").write_text("somebody's work")
    with pytest.raises(ConfigError, match="segplan did not make"):
        run(config_of(model, images, output))
    assert (output / "t0.nii.gz").read_text() == "somebody's work"


def test_the_folder_of_the_images_is_no_output_folder(model, images):
    with pytest.raises(ConfigError, match="folder of the images"):
        run(config_of(model, images, images, force=True))


def test_a_bad_case_is_told_at_the_end_and_the_others_are_made(model, images, tmp_path, capsys):
    broken = images / "t0_0001.nii.gz"
    broken.write_bytes(broken.read_bytes()[:2000])
    (images / "t2_0000.nii.gz").write_bytes((images / "t1_0000.nii.gz").read_bytes())
    assert run(config_of(model, images, tmp_path / "out")) == 1
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["t1.nii.gz"]
    summary = capsys.readouterr().out.split("1 written to ")[1]
    assert "2 failed" in summary
    assert "t0_0001.nii.gz" in summary
    assert "t2  " in summary
    assert set(json.loads((tmp_path / "out" / "predict.json").read_text(encoding="utf-8"))["failed"]) == {"t0", "t2"}


def test_no_good_case_at_all_is_the_users_mistake(model, images, tmp_path):
    for path in images.iterdir():
        path.write_bytes(b"no image")
    assert run(config_of(model, images, tmp_path / "out")) == 2


def test_shards_share_the_cases_and_know_each_others_work(model, images, tmp_path, capsys):
    output = tmp_path / "out"
    for shard in (0, 1):
        assert run(config_of(model, images, output, shard=shard, num_shards=2)) == 0
    assert sorted(path.name for path in output.glob("predict*")) == ["predict_0of2.json", "predict_1of2.json"]
    assert {path.name for path in output.glob("*.nii.gz")} == {"t0.nii.gz", "t1.nii.gz"}
    capsys.readouterr()
    assert run(config_of(model, images, output)) == 0
    assert "Nothing to do" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="shard"):
        run(config_of(model, images, output, shard=2, num_shards=2))


def test_several_devices_share_the_cases_a_process_each(model, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "out"
    words = [f"model={model}", f"input={images}", f"output={output}", "folds=0", "inference.mirror=false"]
    cpu = ["trainer.accelerator=cpu", "trainer.precision=32"]
    assert main("predict", [*words, *cpu, "trainer.devices=2"]) == 0
    assert sorted(path.name for path in output.glob("predict*")) == ["predict_0of2.json", "predict_1of2.json"]
    assert {path.name for path in output.glob("*.nii.gz")} == {"t0.nii.gz", "t1.nii.gz"}
    assert capsys.readouterr().out.count("\ndone: ") == 2


@pytest.mark.parametrize("devices", [1, 2])
def test_sigterm_ends_a_prediction_after_what_is_being_written_and_the_same_command_goes_on(
    model, images, tmp_path, devices
):
    more_images(images, 38)
    output, repository = tmp_path / "out", Path(__file__).resolve().parents[2]
    words = [f"model={model}", f"input={images}", f"output={output}", "folds=0", "inference.mirror=true"]
    command = [sys.executable, str(repository / "predict.py"), *words, "trainer.accelerator=cpu"]
    command.append(f"trainer.devices={devices}")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    # Sorted t0, t1, u00, u01 …: two processes take them in turn, and both are at work when each has written two.
    begun = [f"{name}.nii.gz" for name in ("t0", "t1", "u00", "u01")]
    while process.poll() is None and not all((output / name).exists() for name in begun):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "SIGTERM" in told
    assert 4 <= len(list(output.glob("*.nii.gz"))) < 40
    assert not [path for path in output.iterdir() if path.name.startswith(".")]
    assert subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode == 0
    assert len(list(output.glob("*.nii.gz"))) == 40


def more_images(images: Path, count: int) -> None:
    for number in range(count):
        for channel in (0, 1):
            shutil.copy(images / f"t1_000{channel}.nii.gz", images / f"u{number:02}_000{channel}.nii.gz")


def with_torchrun(processes: int, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    repository = Path(__file__).resolve().parents[2]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*torchrun, repository / "predict.py", *words, "trainer.accelerator=cpu", "trainer.devices=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_ranks_that_torchrun_starts_share_the_cases(model, images, tmp_path):
    output = tmp_path / "out"
    words = [f"model={model}", f"input={images}", f"output={output}", "folds=0", "inference.mirror=false"]
    done = with_torchrun(2, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in output.glob("predict*")) == ["predict_0of2.json", "predict_1of2.json"]
    for shard in (0, 1):
        made = json.loads((output / f"predict_{shard}of2.json").read_text(encoding="utf-8"))["cases"]
        assert list(made) == [f"t{shard}"]
    assert {path.name for path in output.glob("*.nii.gz")} == {"t0.nii.gz", "t1.nii.gz"}


def test_torchrun_kills_no_rank_because_anothers_case_cannot_be_read(model, images, tmp_path):
    output = tmp_path / "out"
    more_images(images, 22)
    for path in sorted(images.glob("*_0000.nii.gz"))[::2]:  # the first process's share
        path.write_bytes(b"nothing")
    words = [f"model={model}", f"input={images}", f"output={output}", "folds=0", "inference.step_size=0.2"]
    done = with_torchrun(2, *words, cwd=tmp_path)
    assert done.returncode != 0
    found = {path.name.split(".")[0] for path in output.glob("*.nii.gz")}
    assert found == {"t1", *(f"u{number:02}" for number in range(1, 22, 2))}


def test_a_case_that_one_of_several_devices_cannot_read_is_named_at_the_end(
    model, images, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    broken = images / "t1_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:100])
    words = [f"model={model}", f"input={images}", f"output={tmp_path / 'out'}", "folds=0", "inference.mirror=false"]
    assert main("predict", [*words, "trainer.accelerator=cpu", "trainer.devices=2"]) != 0
    assert broken.name in capsys.readouterr().err


@pytest.mark.parametrize(
    ("devices", "shares"),
    [
        (1, []),
        ("auto", []),
        ([1], []),
        (3, ["hydra.launcher.n_jobs=3", "num_shards=3", "shard=0,1,2"]),
        ("2", ["hydra.launcher.n_jobs=2", "num_shards=2", "shard=0,1"]),
        ([2, 0], ["hydra.launcher.devices=[2,0]", "hydra.launcher.n_jobs=2", "num_shards=2", "shard=0,1"]),
    ],
)
def test_devices_become_shards(devices, shares):
    config = OmegaConf.create({"trainer": {"devices": devices}, "num_shards": 1})
    assert device_shares(config) == shares
    config.num_shards = 2
    assert device_shares(config) == []


def test_probabilities_are_saved_and_agree_with_the_labels(model, images, tmp_path):
    output = tmp_path / "out"
    run(config_of(model, images, output))
    assert run(config_of(model, images, output, save_probabilities="npz")) == 0
    probabilities = np.load(output / "t0.npz")["probabilities"]
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(output / "t0.nii.gz")))
    assert probabilities.shape == (4, *labels.shape)
    assert np.mean(probabilities.argmax(0) == labels) > 0.9999


def test_a_plan_finds_its_run_in_the_workspace(model, images, tmp_path):
    workspace = tmp_path / "workspace"
    shutil.copytree(model, workspace / "runs" / "D" / "3d_fullres" / "default")
    config = config_of(None, images, tmp_path / "out", workspace=str(workspace), plan="D/3d_fullres")
    assert run(config) == 0
    config.plan = "D/2d"
    with pytest.raises(ModelError, match=r"Trained \(plan/run\): D/3d_fullres/default.*train\.py plan=D/2d fold=0"):
        run(config)


@pytest.mark.parametrize("missing", ["input", "output", "model"])
def test_a_missing_key_is_named(model, images, tmp_path, missing):
    config = config_of(model, images, tmp_path / "out")
    config[missing] = None
    with pytest.raises(ConfigError, match=missing):
        run(config)


def test_jpeg_pictures_become_png_label_maps(tmp_path):
    strides, kernels = [[1, 1], [2, 2]], [[3, 3], [3, 3]]
    network = PlainUNet(3, 2, [4, 6], strides, kernels)
    plan = {
        "labels": {"background": 0, "vessel": 1},
        "spacing": [None, 1.0, 1.0],
        "transpose": [0, 1, 2],
        "normalization": ["rgb_to_0_1"] * 3,
        "use_mask_for_norm": [False] * 3,
        "intensities": [None] * 3,
        "file_ending": ".png",
    }
    arguments = {"input_channels": 3, "num_classes": 2, "features": [4, 6], "strides": strides, "kernel_sizes": kernels}
    write_model_json(
        tmp_path / "m",
        name="D/2d",
        plan=plan,
        patch_size=(16, 16),
        network={"name": "PlainUNet", **arguments},
        mirror_axes=(0, 1),
    )
    write_weights(tmp_path / "m", 0, network.state_dict())
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, size=(40, 33, 3)).astype(np.uint8)
    Picture.fromarray(pixels).save(tmp_path / "in" / "eye 1.jpg")
    assert run(config_of(tmp_path / "m", tmp_path / "in", tmp_path / "out")) == 0
    assert np.array(Picture.open(tmp_path / "out" / "eye 1.png")).shape == (40, 33)
