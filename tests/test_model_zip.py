"""A model as one zip: the same model, whole or refused, and nothing of it is run or written anywhere."""

import json
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from segplan.cli import main
from segplan.errors import ModelError
from segplan.imaging import atomic_folder
from segplan.model_ensemble import Member, ModelEnsemble
from segplan.model_folder import ModelFolder, write_model_json, write_weights
from segplan.model_zip import write_zip
from segplan.networks import PlainUNet

ARGUMENTS = {"input_channels": 1, "num_classes": 2, "features": [4, 6], "strides": [[1, 1, 1], [2, 2, 2]]}
ARGUMENTS["kernel_sizes"] = [[3, 3, 3], [3, 3, 3]]
PLAN = {
    "labels": {"background": 0, "organ": 1},
    "spacing": [1.0, 1.0, 1.0],
    "transpose": [0, 1, 2],
    "normalization": ["zscore"],
    "use_mask_for_norm": [False],
    "intensities": [None],
    "file_ending": ".nii.gz",
}


def make(folder: Path, folds=(0, 1), kind="final", **plan) -> Path:
    torch.manual_seed(len(folder.name))
    network = {"name": "PlainUNet", **ARGUMENTS}
    if "previous_stage" in plan:
        network["input_channels"] = 2
    write_model_json(
        folder, name=f"D/{folder.name}", plan=PLAN | plan, patch_size=(8, 8, 8), network=network, mirror_axes=(0,)
    )
    for fold in folds:
        arguments = {key: value for key, value in network.items() if key != "name"}
        write_weights(folder, fold, PlainUNet(**arguments).state_dict(), kind)
    return folder


@pytest.fixture
def packed(tmp_path):
    folder = make(tmp_path / "m")
    assert main(["export-model", str(folder), str(tmp_path / "m.zip")]) == 0
    return tmp_path / "m.zip"


def rewrite(source: Path, target: Path, change=None, extra=()) -> Path:
    """Copy a zip; `change` maps a name and content to new ones, `extra` are further members."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            entry = (info.filename, old.read(info))
            entry = entry if change is None else change(*entry)
            if entry is not None:
                new.writestr(*entry)
        for entry in extra:
            new.writestr(*entry)
    return target


def test_a_zip_holds_the_model_and_nothing_else(tmp_path, packed):
    (tmp_path / "m" / "fold_0" / "config.yaml").write_text("secret: path")
    write_zip(ModelEnsemble.open(tmp_path / "m"), tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        weights = [f"fold_{fold}/weights.safetensors" for fold in (0, 1)]
        assert archive.namelist() == ["model.json", *weights, "checksums.json"]
        assert list(json.loads(archive.read("checksums.json"))["sha256"]) == ["model.json", *weights]


def test_a_zip_is_read_where_it_lies_and_is_the_same_model(tmp_path, packed):
    folder, zipped = ModelFolder.open(tmp_path / "m"), ModelFolder.open(packed)
    before = set(tmp_path.rglob("*"))
    assert zipped.folds() == ("0", "1")
    assert zipped.identity(["0", "1"]) == folder.identity(["0", "1"])
    ours, theirs = zipped.read_weights(1), folder.read_weights(1)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert set(tmp_path.rglob("*")) == before


def test_chosen_folds_and_the_best_weights_come_along(tmp_path):
    make(tmp_path / "m", folds=(0, 1, 2))
    assert main(["export-model", str(tmp_path / "m"), str(tmp_path / "two.zip"), "folds=[0,2]"]) == 0
    assert ModelFolder.open(tmp_path / "two.zip").folds() == ("0", "2")
    make(tmp_path / "b", kind="best")
    assert main(["export-model", str(tmp_path / "b"), str(tmp_path / "best.zip"), "format=zip"]) == 0
    with pytest.raises(ModelError, match="checkpoint=best"):
        ModelFolder.open(tmp_path / "best.zip").select_folds()
    assert ModelFolder.open(tmp_path / "best.zip").select_folds(checkpoint="best") == ("0", "1")


def test_a_first_stage_with_the_best_weights_alone_comes_along(tmp_path):
    make(tmp_path / "c", folds=(0,), previous_stage="3d_lowres")
    make(tmp_path / "c" / "previous", folds=(0,), kind="best")
    assert main(["export-model", str(tmp_path / "c"), str(tmp_path / "c.zip")]) == 0
    model = ModelFolder.open(tmp_path / "c.zip")
    assert model.previous is not None
    assert model.previous.best_kind == "best"
    assert model.identity(["0"]) == ModelFolder.open(tmp_path / "c").identity(["0"])


def test_a_model_that_a_person_packed_as_a_folder_opens_too(tmp_path, packed):
    nested = rewrite(packed, tmp_path / "n.zip", lambda name, content: (f"my model/{name}", content))
    assert ModelFolder.open(nested).read_weights(0)


def test_an_unpacked_zip_is_a_model_folder_whose_checksums_hold(tmp_path, packed):
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "u")
    assert ModelFolder.open(tmp_path / "u").read_weights(0)
    weights = tmp_path / "u" / "fold_0" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(ModelError, match=r"fold_0/weights.safetensors: is damaged or changed"):
        ModelFolder.open(tmp_path / "u").read_weights(0)


@pytest.mark.parametrize("damaged", ["model.json", "fold_0/weights.safetensors"])
def test_a_changed_file_is_refused_by_its_checksum(tmp_path, packed, damaged):
    bad = rewrite(packed, tmp_path / "bad.zip", lambda name, old: (name, old + b" " if name == damaged else old))
    with pytest.raises(ModelError, match=f"{damaged}: is damaged or changed"):
        ModelFolder.open(bad).read_weights(0)


def test_a_missing_file_and_one_that_no_checksum_covers_are_refused(tmp_path, packed):
    lacking = rewrite(packed, tmp_path / "l.zip", lambda *entry: None if "fold_1" in entry[0] else entry)
    with pytest.raises(ModelError, match=r"lacks fold_1/weights\.safetensors"):
        ModelFolder.open(lacking)
    added = rewrite(packed, tmp_path / "a.zip", extra=[("fold_2/weights.safetensors", b"x")])
    with pytest.raises(ModelError, match="does not list it"):
        ModelFolder.open(added).read_weights(2)


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (("../evil", b""), "leads out of it"),
        (("/etc/evil", b""), "leads out of it"),
        (("a/../../evil", b""), "leads out of it"),
        (("a\\..\\evil", b""), "leads out of it"),
        (("C:evil", b""), "leads out of it"),
        ((link("fold_9"), "/etc"), "leads out of it"),
        (("bomb", bytes(200 << 20)), "unpacked it would be 20"),
    ],
)
def test_names_links_and_sizes_that_no_model_has_are_refused(tmp_path, packed, member, said):
    with pytest.raises(ModelError, match=said):
        ModelFolder.open(rewrite(packed, tmp_path / "bad.zip", extra=[member]))


def test_what_is_no_zip_or_cut_short_is_refused(tmp_path, packed):
    (tmp_path / "cut.zip").write_bytes(packed.read_bytes()[:-40])
    (tmp_path / "text.zip").write_text("no zip")
    for name in ("cut.zip", "text.zip"):
        with pytest.raises(ModelError, match="neither a model folder nor a whole zip"):
            ModelFolder.open(tmp_path / name)
    with pytest.raises(ModelError, match="no such model folder"):
        ModelFolder.open(tmp_path / "none.zip")


def test_an_existing_file_is_never_overwritten(tmp_path, packed, capsys):
    assert main(["export-model", str(tmp_path / "m"), str(packed)]) == 2
    assert "it is there already" in capsys.readouterr().err


def test_an_ensemble_goes_into_one_zip(tmp_path):
    first, second = (ModelFolder.open(make(tmp_path / name, folds=(0,))) for name in ("a", "bb"))
    steps = ({"operation": "keep_largest_component", "labels": [1]},)
    ensemble = ModelEnsemble(tmp_path, (Member(first, ("0",)), Member(second, ("0",))), steps)
    write_zip(ensemble, tmp_path / "e.zip")
    opened = ModelEnsemble.open(tmp_path / "e.zip")
    assert [member.described for member in opened.members] == ["D/a fold 0", "D/bb fold 0"]
    assert opened.postprocessing == steps
    assert opened.identity() == ensemble.identity()
    with pytest.raises(ModelError, match="is an ensemble"):
        ModelFolder.open(tmp_path / "e.zip")


def test_models_of_other_labels_make_no_ensemble(tmp_path):
    first = ModelFolder.open(make(tmp_path / "a"))
    second = ModelFolder.open(make(tmp_path / "b", labels={"background": 0, "tumour": 1}))
    with pytest.raises(ModelError, match="labels are not those of D/a"):
        ModelEnsemble(tmp_path, (Member(first, ("0",)), Member(second, ("0",))))


def test_a_zip_predicts_without_the_training_extras(packed):
    code = """
import sys
blocked = ("pytorch_lightning", "lightning", "hydra", "torchio", "torchmetrics", "wandb", "SimpleITK", "rich")
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Blocker())
import numpy, segplan
predictor = segplan.Predictor.from_model(sys.argv[1], device="cpu", precision="32", mirror=False)
labels = predictor.predict(numpy.random.default_rng(0).normal(size=(12, 11, 10)), (1, 1, 1))
print(labels.shape)
"""
    done = subprocess.run([sys.executable, "-c", code, str(packed)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(12, 11, 10)"


def test_a_killed_writers_folder_is_removed_by_the_next(tmp_path):
    code = """
import os, pathlib, sys
from segplan.imaging import atomic_folder
with atomic_folder(pathlib.Path(sys.argv[1])) as folder:
    (folder / "x").write_text("x")
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert [path.name[:5] for path in tmp_path.iterdir()] == [".tmp-"]
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "y").write_text("y")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert np.array_equal([path.name for path in (tmp_path / "out").iterdir()], ["y"])
