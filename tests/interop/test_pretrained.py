import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from segplan.errors import ModelError
from segplan.interop.nnunet.plans import read_configuration
from segplan.interop.pretrained import read_pretrained
from segplan.interop.source_file import content_hash, pretrained_file
from segplan.model_folder import write_model_json, write_weights
from segplan.networks import PlainUNet, STUNet

NNUNET = Path(__file__).parents[1] / "data" / "inference" / "models" / "3d_fullres"

REQUIRED_OF_PLAN = ("labels", "spacing", "transpose", "normalization", "use_mask_for_norm", "intensities")


def stunet_weights():
    return STUNet(1, 3, [4, 6], [1, 1], [[1, 1, 1], [2, 2, 2]]).state_dict()


def model_file(path: Path, *, zipped: bool = True, prefix: str = "") -> Path:
    """A file as STU-Net's training writes it: weights beside an optimiser, lists and numpy scalars."""
    content = {
        "epoch": 4000,
        "state_dict": OrderedDict((prefix + key, value) for key, value in stunet_weights().items()),
        "optimizer_state_dict": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01}]},
        "lr_scheduler_state_dict": None,
        "plot_stuff": ([np.float64(0.5), 0.25], [], [], [np.float32(0.5)]),
        "best_stuff": (None, np.float64(0.75), None),
        "amp_grad_scaler": {"scale": 65536.0},
    }
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


class Malicious:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_file_of_stunets_is_read_by_its_own_names(tmp_path, zipped, prefix):
    source = read_pretrained(model_file(tmp_path / "base_ep4k.model", zipped=zipped, prefix=prefix))
    assert source.origin == "STU-Net model file"
    assert list(source.weights) == list(stunet_weights())


def test_a_checkpoint_of_nnunets_has_each_weight_once():
    source = read_pretrained(pretrained_file(NNUNET / "fold_0"))
    assert source.origin == "nnU-Net v2 checkpoint"
    network = dict(read_configuration(NNUNET, "3d_fullres").network)
    assert network.pop("name") == "PlainUNet"
    PlainUNet(**network).load_state_dict(source.weights)


def test_segplans_own_checkpoint_and_safetensors_give_the_network(tmp_path):
    weights = stunet_weights()
    torch.save(
        {
            "segplan": {},
            "state_dict": {f"network.{k}": v for k, v in weights.items()} | {"loss.x": weights[next(iter(weights))]},
        },
        tmp_path / "last.ckpt",
    )
    save_file(weights, tmp_path / "weights.safetensors")
    for name in ("last.ckpt", "weights.safetensors"):
        read = read_pretrained(tmp_path / name).weights
        assert read.keys() == weights.keys()
        assert all(torch.equal(read[key], weights[key]) for key in weights)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_brings_code_is_refused_and_nothing_runs(tmp_path, zipped):
    witness, path = tmp_path / "ran", tmp_path / "evil.model"
    content = {"state_dict": stunet_weights(), "best_stuff": Malicious(witness)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"mkdir.*could run code") as refused:
        read_pretrained(path)
    assert "weights_only" not in str(refused.value)  # torch's message advises to switch the check off
    assert not witness.exists()


def test_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"weights": 1}, tmp_path / "other.pth")
    torch.save({"state_dict": {0: torch.zeros(1), "epoch": 3}}, tmp_path / "unnamed.model")
    torch.save({"network_weights": {}}, tmp_path / "none.pth")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "network.onnx").write_bytes(b"\x08\x0a\x12\x07")
    (tmp_path / "half.safetensors").write_bytes(b"\x10\x00")
    for path in tmp_path.iterdir():
        with pytest.raises(ModelError):
            read_pretrained(path)


def test_a_folder_means_its_weights_and_several_folds_must_be_told_apart(tmp_path):
    model, fold = tmp_path / "model", tmp_path / "model" / "fold_0"
    plan = {key: [] for key in REQUIRED_OF_PLAN}
    write_model_json(model, name="D/3d", plan=plan, patch_size=[8], network={}, mirror_axes=None)
    with pytest.raises(ModelError, match="no final weights"):
        pretrained_file(model)
    write_weights(model, 0, stunet_weights())
    assert pretrained_file(model) == pretrained_file(fold) == fold / "weights.safetensors"
    write_weights(model, 1, stunet_weights())
    with pytest.raises(ModelError, match=r"folds 0, 1.*fold_0"):
        pretrained_file(model)
    with pytest.raises(ModelError, match="no such file"):
        pretrained_file(tmp_path / "absent")
    with pytest.raises(ModelError, match="no weights"):
        pretrained_file(tmp_path)


def test_the_hash_is_that_of_the_content(tmp_path):
    for name, content in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        (tmp_path / name).write_bytes(content)
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b") != content_hash(tmp_path / "c")
