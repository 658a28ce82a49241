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
from segplan.interop.nnunet.export import plans_json
from segplan.model_folder import ModelFolder

DATA = Path(__file__).parents[1] / "data"
MODELS = DATA / "interop"
FIXTURES = DATA / "inference" / "models"
FOLDERS = {"resenc": "3d_resenc", "cascade": "3d_cascade_fullres", "regions": "3d_fullres", "ignore": "2d"}


def folder_of(name: str) -> Path:
    return MODELS / name / f"nnUNetTrainer__nnUNetPlans__{FOLDERS[name]}"


def image_files(case: str) -> list[Path]:
    return [DATA / "inference" / "images" / f"{case}_000{channel}.nii.gz" for channel in (0, 1)]


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
        labels, _ = predictor.predict_files(image_files(case))
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
        ({"patch_size": [5, 32, 32]}, "cannot be divided by 4 along axis 0"),
        ({"spacing": [1, 0, -2]}, r"spacing is \[1.0, 0.0, -2.0\]"),
        ({"spacing": [1, 2]}, "spacing is"),
        ({"normalization_schemes": ["ZScoreNormalization"]}, "one entry a channel"),
        ({"normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [False]}, "one entry a channel|for 2"),
        ({"preprocessor_name": "MyPreprocessor"}, "preprocessor_name is MyPreprocessor"),
    ],
)
def test_what_segplan_cannot_repeat_exactly_is_refused(tmp_path, changes, words):
    with pytest.raises(ModelError, match=words):
        import_model(edited_plans(tmp_path / "source", **changes), tmp_path / "model", configuration="3d_fullres")
    assert not (tmp_path / "model").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def edited_checkpoint(folder: Path, **changes) -> Path:
    source = edited_plans(folder)
    shutil.rmtree(source / "fold_1")
    path = source / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False) | changes
    torch.save({key: value for key, value in checkpoint.items() if value is not ...}, path)
    return source


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network_weights": {"a": 3}}, "no network_weights"),
        ({"network_weights": ...}, "no network_weights"),
        ({"inference_allowed_mirroring_axes": "xy"}, "no list of axes"),
        ({"inference_allowed_mirroring_axes": (0, 5)}, r"mirrored along axes \[0, 5\]"),
    ],
)
def test_a_checkpoint_that_makes_no_sense_is_refused(tmp_path, changes, words):
    source = edited_checkpoint(tmp_path / "source", **changes)
    with pytest.raises(ModelError, match=words):
        import_model(source, tmp_path / "model", configuration="3d_fullres")


def test_a_checkpoint_that_says_nothing_of_its_origin_or_mirroring_imports_as_nnunet_takes_it(tmp_path):
    source = edited_checkpoint(tmp_path / "source", init_args=..., inference_allowed_mirroring_axes=...)
    assert import_model(source, tmp_path / "model", configuration="3d_fullres").mirror_axes is None


def test_weights_are_not_imported_as_another_configuration_with_the_same_network(tmp_path):
    with pytest.raises(ModelError, match=r"trained as 3d_fullres, not as 3d_lowres.*configuration=3d_fullres"):
        import_model(FIXTURES / "3d_fullres", tmp_path / "model", configuration="3d_lowres")
    assert not list(tmp_path.iterdir())


def test_a_cascade_takes_no_other_model_for_its_first_stage(tmp_path, imported):
    alone = tmp_path / "results" / folder_of("cascade").name
    shutil.copytree(folder_of("cascade"), alone)
    for other, words in (
        (folder_of("resenc"), "trained as 3d_resenc, not as 3d_lowres"),
        (imported / "resenc", "it is a 3d_resenc, and the cascade was trained on 3d_lowres"),
    ):
        with pytest.raises(ModelError, match=words):
            import_model(alone, tmp_path / "model", previous=other)
    strange = tmp_path / "strange"
    shutil.copytree(imported / "cascade" / "previous", strange)
    data = json.loads((strange / "model.json").read_text())
    data["plan"]["labels"] = {"background": 0, "only": 1}
    (strange / "model.json").write_text(json.dumps(data))
    with pytest.raises(ModelError, match="labels are not the cascade's"):
        import_model(alone, tmp_path / "model", previous=strange)
    assert not (tmp_path / "model").exists()


def test_of_a_run_folder_as_first_stage_only_what_predicting_needs_is_copied(tmp_path, imported):
    alone = tmp_path / "results" / folder_of("cascade").name
    shutil.copytree(folder_of("cascade"), alone)
    run = tmp_path / "run"
    shutil.copytree(imported / "cascade" / "previous", run)
    (run / "fold_0" / "last.ckpt").write_text("the optimizer's state")
    import_model(alone, tmp_path / "model", previous=run)
    kept = sorted(str(path.relative_to(tmp_path / "model")) for path in (tmp_path / "model/previous").rglob("*.*"))
    assert kept == ["previous/fold_0/weights.safetensors", "previous/model.json"]


def test_channels_are_in_the_order_of_their_numbers(tmp_path):
    source = edited_plans(tmp_path / "source")
    data = json.loads((source / "dataset.json").read_text())
    (source / "dataset.json").write_text(json.dumps(data | {"channel_names": {"1": "T2", "0": "T1"}}))
    assert read_configuration(source, "3d_fullres").plan["channels"] == ["T1", "T2"]


def test_a_results_folder_takes_the_name_of_the_models_folder_for_the_configuration(tmp_path):
    for name in ("2d", "3d_fullres"):
        shutil.copytree(FIXTURES / name, tmp_path / "results" / f"nnUNetTrainer__nnUNetPlans__{name}")
    chosen = "configuration=nnUNetTrainer__nnUNetPlans__3d_fullres"
    assert main(["import-nnunet", str(tmp_path / "results"), str(tmp_path / "model"), chosen]) == 0
    assert ModelFolder.open(tmp_path / "model").name.endswith("3d_fullres")


@pytest.mark.parametrize("flag", [b"\x01\x00", b"\x00\x00"])
def test_an_encrypted_or_damaged_zip_is_refused(tmp_path, capsys, flag):
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/plans.json", "{" + " " * 1000 + "}")
    content = bytearray(archive.read_bytes())
    if flag == b"\x01\x00":  # the bit that says that a password is needed, in both headers
        content[6:8] = flag
        start = content.index(b"PK\x01\x02") + 8
        content[start : start + 2] = flag
    else:
        start = content.index(b"plans.json") + len("plans.json")
        content[start : start + 4] = b"\xff\xff\xff\xff"
    archive.write_bytes(content)
    assert main(["import-nnunet", str(archive), str(tmp_path / "model")]) == 2
    assert "model.zip" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("ending", "model", "reader"),
    [
        (".tif", "cascade", "Tiff3DIO"),
        (".tif", "ignore", "NaturalImage2DIO"),
        (".tiff", "ignore", "Tiff3DIO"),
        (".png", "ignore", "NaturalImage2DIO"),
        (".nrrd", "ignore", "SimpleITKIO"),
        (".jpg", "ignore", None),
    ],
)
def test_the_export_names_nnunets_reader_of_the_images(imported, tmp_path, ending, model, reader):
    shutil.copytree(imported / model, tmp_path / "model")
    data = json.loads((tmp_path / "model" / "model.json").read_text())
    data["plan"]["file_ending"] = ending
    (tmp_path / "model" / "model.json").write_text(json.dumps(data))
    if reader is None:
        with pytest.raises(ModelError, match=r"nnU-Net reads no \.jpg files"):
            plans_json(ModelFolder.open(tmp_path / "model"))
    else:
        assert plans_json(ModelFolder.open(tmp_path / "model"))["image_reader_writer"] == reader
