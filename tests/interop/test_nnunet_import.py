"""Models that nnU-Net itself wrote must predict here what they predict there."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from segplan import Predictor
from segplan.cli import main
from segplan.errors import ModelError
from segplan.interop.nnunet import export_nnunet, import_model, read_checkpoint, read_configuration
from segplan.interop.nnunet.checkpoint import canonical_weights
from segplan.model_folder import ModelFolder

DATA = Path(__file__).parents[1] / "data"
MODELS = DATA / "interop"
FIXTURES = DATA / "inference" / "models"
FOLDERS = {"resenc": "3d_resenc", "cascade": "3d_cascade_fullres", "regions": "3d_fullres", "ignore": "2d"}


def folder_of(name: str) -> Path:
    return MODELS / name / f"nnUNetTrainer__nnUNetPlans__{FOLDERS[name]}"


def test_images(case: str) -> list[Path]:
    return [DATA / "inference" / "images" / f"{case}_000{channel}.nii.gz" for channel in (0, 1)]


test_images.__test__ = False


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    root = tmp_path_factory.mktemp("imported")
    for name in FOLDERS:
        import_model(folder_of(name), root / name)
    return root


@pytest.mark.parametrize("name", FOLDERS)
def test_the_network_gives_nnunets_logits(imported, name):
    predictor = Predictor.from_model(imported / name, device="cpu", precision=32)
    channels = next(predictor.networks[0].parameters()).shape[1]
    noise = np.random.default_rng(5).normal(size=(1, channels, *predictor.model.patch_size)).astype(np.float32)
    with torch.no_grad():
        logits = predictor.networks[0](torch.from_numpy(noise))[0].numpy()
    steps = [slice(None, None, step) for step in (2, 4, 4)][-(logits.ndim - 1) :]
    expected = np.load(MODELS / f"{name}.npz")["patch_logits"]
    np.testing.assert_allclose(logits[(slice(None), *steps)], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FOLDERS)
def test_predictions_are_nnunets_wherever_it_is_sure(imported, name):
    predictor = Predictor.from_model(imported / name, device="cpu", precision=32)
    expected = np.load(MODELS / f"{name}.npz")
    for case in ("t0", "t1"):
        labels, _ = predictor.predict_files(test_images(case))
        sure = np.unpackbits(expected[f"sure_{case}"], count=labels.size).reshape(labels.shape).astype(bool)
        assert sure.mean() > 0.9
        assert len(np.unique(expected[case])) > 1
        np.testing.assert_array_equal(labels[sure], expected[case][sure])


def test_a_cascade_brings_its_first_stage_along_and_runs_it(imported):
    predictor = Predictor.from_model(imported / "cascade", device="cpu", precision=32)
    assert predictor.previous is not None
    assert predictor.model.network["input_channels"] == 2 + 3


def test_a_cascade_without_its_first_stage_is_refused_and_takes_one_that_is_named(tmp_path):
    alone = tmp_path / "results" / folder_of("cascade").name
    shutil.copytree(folder_of("cascade"), alone)
    with pytest.raises(ModelError, match=r"previous stage 3d_lowres is not beside it.*previous="):
        import_model(alone, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    lowres = MODELS / "cascade" / "nnUNetTrainer__nnUNetPlans__3d_lowres"
    import_model(lowres, tmp_path / "lowres")
    import_model(alone, tmp_path / "model", previous=tmp_path / "lowres")
    assert ModelFolder.open(tmp_path / "model").previous.name.endswith("3d_lowres")


def test_plans_in_the_words_of_old_versions_describe_the_same_network(tmp_path):
    plans = json.loads((FIXTURES / "3d_fullres" / "plans.json").read_text())
    new = read_configuration(FIXTURES / "3d_fullres", "3d_fullres")
    own = plans["configurations"]["3d_fullres"]
    arguments = own.pop("architecture")["arch_kwargs"]
    own |= {"UNet_class_name": "PlainConvUNet", "UNet_base_num_features": 4, "unet_max_num_features": 6}
    own |= {"n_conv_per_stage_encoder": [2] * 4, "n_conv_per_stage_decoder": [2] * 3}
    own |= {"pool_op_kernel_sizes": arguments["strides"], "conv_kernel_sizes": arguments["kernel_sizes"]}
    plans["foreground_intensity_properties_by_modality"] = plans.pop("foreground_intensity_properties_per_channel")
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    dataset = json.loads((FIXTURES / "3d_fullres" / "dataset.json").read_text())
    dataset["modality"] = dataset.pop("channel_names")
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    old = read_configuration(tmp_path, "3d_fullres")
    assert old == new


def edited_plans(folder: Path, **changes) -> Path:
    shutil.copytree(FIXTURES / "3d_fullres", folder)
    plans = json.loads((folder / "plans.json").read_text())
    own = plans["configurations"]["3d_fullres"]
    for key, value in changes.items():
        own[key] = value
    (folder / "plans.json").write_text(json.dumps(plans))
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resampling_fn_data": "resample_torch_fornnunet"}, "resamples data by resample_torch_fornnunet"),
        ({"resampling_fn_seg_kwargs": {"is_seg": True, "order": 0}}, "resamples seg"),
        ({"normalization_schemes": ["MyNormalization", "ZScoreNormalization"]}, "segplan has no MyNormalization"),
        ({"inherits_from": "3d_fullres"}, "inherits from itself"),
        ({"patch_size": None}, "no plan of nnU-Net"),
    ],
)
def test_what_segplan_cannot_repeat_exactly_is_refused(tmp_path, changes, words):
    with pytest.raises(ModelError, match=words):
        import_model(edited_plans(tmp_path / "source", **changes), tmp_path / "model", configuration="3d_fullres")
    assert not (tmp_path / "model").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_weights_of_another_network_than_the_plan_describes_are_refused(tmp_path):
    source = edited_plans(tmp_path / "source")
    path = source / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    first = next(key for key in checkpoint["network_weights"] if key.endswith("norm.weight"))
    checkpoint["network_weights"][first.replace("weight", "running_mean")] = torch.zeros(4)
    torch.save(checkpoint, path)
    with pytest.raises(ModelError, match="does not hold the network"):
        import_model(source, tmp_path / "model", configuration="3d_fullres")


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"network_weights": {}, "trainer_name": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(ModelError, match="more than weights"):
        read_checkpoint(tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()


def test_a_truncated_checkpoint_is_named(tmp_path):
    content = (FIXTURES / "2d" / "fold_0" / "checkpoint_final.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"cut\.pth.*cannot be read"):
        read_checkpoint(tmp_path / "cut.pth")


def test_names_that_wrappers_add_are_dropped():
    weights = {"_orig_mod.module.encoder.conv.weight": torch.ones(1, dtype=torch.float16)}
    assert list(canonical_weights(weights)) == ["encoder.conv.weight"]


def test_a_zip_as_nnunet_exports_it_imports_and_its_paths_cannot_escape(tmp_path, capsys):
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder_of("ignore").rglob("*"):
            file.write(
                path, Path("Dataset011_FixLabels", folder_of("ignore").name, path.relative_to(folder_of("ignore")))
            )
        file.writestr("../../escaped/plans.json", "{}")
    assert main(["import-nnunet", str(archive), str(tmp_path / "model"), "configuration=2d"]) == 0
    assert "imported Dataset011_FixLabels/2d" in capsys.readouterr().out
    assert not (tmp_path.parent / "escaped").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere", "no such folder or zip"),
        (str(DATA / "losses"), "no trained model"),
        (str(FIXTURES), "holds 3 models"),
    ],
)
def test_sources_that_name_no_single_model_are_refused_in_a_line(tmp_path, capsys, source, words):
    assert main(["import-nnunet", source, str(tmp_path / "model")]) == 2
    assert words in capsys.readouterr().err


def test_an_existing_folder_is_never_overwritten(tmp_path):
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(ModelError, match="there already"):
        import_model(folder_of("ignore"), tmp_path)
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("name", FOLDERS)
def test_exported_back_it_has_every_name_and_value_of_nnunets_own_checkpoint(imported, tmp_path, name):
    folders = export_nnunet(ModelFolder.open(imported / name), tmp_path)
    assert [folder.name for folder in folders][-1] == folder_of(name).name
    own, original = (
        torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
        for folder in (folders[-1], folder_of(name))
    )
    assert own.keys() == original.keys()
    assert all(torch.equal(own[key], original[key]) for key in original)
    again = import_model(folders[-1], tmp_path / "again")
    first = ModelFolder.open(imported / name)
    assert (again.network, again.patch_size, again.mirror_axes) == (first.network, first.patch_size, first.mirror_axes)
    decisive = ("spacing", "transpose", "normalization", "use_mask_for_norm", "intensities", "labels")
    assert {key: again.plan[key] for key in decisive} == {key: first.plan[key] for key in decisive}


def test_labels_that_nnunet_cannot_have_are_not_exported(imported, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(imported / "ignore", folder)
    data = json.loads((folder / "model.json").read_text())
    data["plan"]["labels"] = {"background": 0, "A": 10, "B": 20, "C": 255}
    (folder / "model.json").write_text(json.dumps(data))
    with pytest.raises(ModelError, match="labels are 0, 10, 20, 255"):
        export_nnunet(ModelFolder.open(folder), tmp_path / "results")


def test_importing_needs_no_lightning_and_no_hydra(tmp_path):
    code = (
        "import sys; from segplan.interop.nnunet import import_model; from pathlib import Path; "
        f"import_model(Path({str(folder_of('ignore'))!r}), Path({str(tmp_path / 'model')!r})); "
        "sys.exit(any(name in sys.modules for name in ('pytorch_lightning', 'hydra', 'SimpleITK')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
