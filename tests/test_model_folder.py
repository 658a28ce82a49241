import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segplan.errors import ModelError
from segplan.model_folder import ModelFolder, write_model_json, write_weights

PLAN = {
    "labels": {"background": 0, "organ": 1},
    "spacing": [1.0, 1.0, 1.0],
    "transpose": [0, 1, 2],
    "normalization": ["zscore"],
    "use_mask_for_norm": [False],
    "intensities": [None],
}
NETWORK = {"name": "PlainUNet", "input_channels": 1, "num_classes": 2}


def make(folder: Path, folds=("0", "1"), **changes) -> Path:
    arguments = {"name": "D/3d", "plan": PLAN, "patch_size": (8, 8, 8), "network": NETWORK, "mirror_axes": (0, 1, 2)}
    write_model_json(folder, **(arguments | changes))
    for fold in folds:
        write_weights(folder, fold, {"weight": torch.full((2, 2), float(len(fold)))})
    return folder


def test_what_is_written_is_read(tmp_path):
    model = ModelFolder.open(make(tmp_path / "m"))
    assert (model.name, model.patch_size, model.mirror_axes) == ("D/3d", (8, 8, 8), (0, 1, 2))
    assert model.plan == PLAN
    assert model.network == NETWORK
    assert torch.equal(model.read_weights(1)["weight"], torch.ones(2, 2))


def test_opening_and_writing_need_no_torch():
    code = "import sys, segplan.model_folder; sys.exit('torch' in sys.modules or 'safetensors' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_folds_are_found_by_their_weights_and_sorted_by_number(tmp_path):
    make(tmp_path, folds=("10", "2", "all"))
    (tmp_path / "fold_3").mkdir()
    model = ModelFolder.open(tmp_path)
    assert model.folds() == ("2", "10", "all")
    assert model.select_folds() == ("2", "10")
    assert model.select_folds("all") == ("all",)
    assert model.select_folds([10, 2, 10]) == ("10", "2")


def test_only_fold_all_is_enough(tmp_path):
    assert ModelFolder.open(make(tmp_path, folds=("all",))).select_folds() == ("all",)


def test_best_weights_stand_beside_the_final_ones(tmp_path):
    make(tmp_path, folds=("0",))
    write_weights(tmp_path, 0, {"weight": torch.zeros(1)}, "best")
    model = ModelFolder.open(tmp_path)
    assert model.folds("best") == ("0",)
    assert model.read_weights(0, "best")["weight"].shape == (1,)
    assert model.read_weights(0)["weight"].shape == (2, 2)


@pytest.mark.parametrize(
    ("folds", "said"),
    [([0, 7], "fold 7.*There are folds 0, 1.*python train.py plan=D/3d fold=7"), ([], "names no fold")],
)
def test_a_missing_fold_is_named_with_what_there_is_and_how_to_make_it(tmp_path, folds, said):
    with pytest.raises(ModelError, match=said):
        ModelFolder.open(make(tmp_path)).select_folds(folds)


def test_a_model_without_weights_says_how_to_train_it(tmp_path):
    with pytest.raises(ModelError, match=r"no final weights yet.*python train\.py plan=D/3d fold=0"):
        ModelFolder.open(make(tmp_path, folds=())).select_folds()


def test_a_fold_name_cannot_lead_out_of_the_folder(tmp_path):
    model = ModelFolder.open(make(tmp_path / "m"))
    with pytest.raises(ModelError):
        model.read_weights("0/../../other")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', "not json"])
def test_a_damaged_model_file_is_refused(tmp_path, content):
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(ModelError, match=r"model\.json"):
        ModelFolder.open(tmp_path)


def test_a_plan_that_lacks_keys_is_refused_with_their_names(tmp_path):
    make(tmp_path, plan={"labels": {}})
    with pytest.raises(ModelError, match=r"plan\.spacing"):
        ModelFolder.open(tmp_path)


def test_a_later_format_is_refused(tmp_path):
    path = make(tmp_path) / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(ModelError, match="format 2"):
        ModelFolder.open(tmp_path)


def test_no_folder_and_another_folder_are_told_apart(tmp_path):
    with pytest.raises(ModelError, match="no such model folder"):
        ModelFolder.open(tmp_path / "absent")
    with pytest.raises(ModelError, match="is not a model folder"):
        ModelFolder.open(tmp_path)


def test_truncated_weights_are_refused(tmp_path):
    path = make(tmp_path) / "fold_0" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ModelError, match="cannot be read"):
        ModelFolder.open(tmp_path).read_weights(0)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    make(tmp_path, folds=("0",))
    with pytest.raises(AttributeError):
        write_weights(tmp_path, 0, {"weight": "no tensor"})
    assert [path.name for path in (tmp_path / "fold_0").iterdir()] == ["weights.safetensors"]
    assert ModelFolder.open(tmp_path).read_weights(0)["weight"].shape == (2, 2)


def test_identity_changes_with_weights_folds_and_plan_only(tmp_path):
    model = ModelFolder.open(make(tmp_path / "a"))
    same = ModelFolder.open(make(tmp_path / "b", name="E/3d"))
    other = ModelFolder.open(make(tmp_path / "c", plan=PLAN | {"spacing": [2.0, 1.0, 1.0]}))
    assert model.identity(("0",)) == same.identity(("0",))
    assert len({model.identity(("0",)), model.identity(("0", "1")), other.identity(("0",))}) == 3
    write_weights(tmp_path / "a", 0, {"weight": torch.zeros(2, 2)})
    assert model.identity(("0",)) != same.identity(("0",))


def test_weights_can_be_read_by_whoever_reads_other_files(tmp_path):
    other = tmp_path / "other"
    other.touch()
    assert write_weights(tmp_path, 0, {"weight": torch.zeros(1)}).stat().st_mode == other.stat().st_mode
