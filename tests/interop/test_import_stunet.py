import json
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from segplan.cli import main
from segplan.errors import ConfigError, ModelError
from segplan.inference import Predictor
from segplan.inference.settings import InferenceSettings
from segplan.interop.stunet import ImportSettings, import_stunet
from segplan.interop.stunet_labels import ABDOMENATLAS, TOTALSEGMENTATOR
from segplan.interop.stunet_plans import StunetPlan, read_plan, strides_of
from segplan.networks import STUNet

SMALL = ImportSettings(pools=((2, 2, 2), (1, 1, 2)), patch_size=(16, 16, 16))


def save(path, classes=105, channels=1):
    torch.manual_seed(0)
    network = STUNet(channels, classes, [4, 6, 8], [1, 2, 1], [[1, 1, 1], [2, 2, 2], [1, 1, 2]], deep_supervision=False)
    for head in network.seg_outputs:
        torch.nn.init.normal_(head.weight, std=3.0)
    if path.suffix == ".pth":
        torch.save({"network_weights": network.state_dict()}, path)
    else:
        torch.save({"epoch": 1, "state_dict": network.state_dict(), "best_stuff": (np.float64(1.0),)}, path)
    return network.eval()


def plans(patch=(16, 32, 16)):
    """A plan as nnU-Net's first version pickles it."""
    stage = {
        "patch_size": np.array(patch),
        "current_spacing": np.array([2.0, 1.5, 1.5]),
        "pool_op_kernel_sizes": [[2, 2, 2], [1, 2, 2]],
        "batch_size": np.int64(2),
    }
    return {
        "plans_per_stage": {0: stage},
        "normalization_schemes": OrderedDict({0: "nonCT"}),
        "transpose_forward": [0, 1, 2],
        "dataset_properties": {"intensityproperties": None},
    }


def write_pickle(path, content):
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def test_labels_are_in_the_order_of_the_outputs():
    assert len(TOTALSEGMENTATOR) == len(set(TOTALSEGMENTATOR)) == 105
    for number, name in {
        0: "background",
        1: "adrenal_gland_left",
        24: "heart_myocardium",
        43: "lung_middle_lobe_right",
        50: "rib_left_10",
        53: "rib_left_2",
        72: "rib_right_9",
        77: "spleen",
        81: "vertebrae_C1",
        94: "vertebrae_T10",
        104: "vertebrae_T9",
    }.items():
        assert TOTALSEGMENTATOR[number] == name
    assert len(ABDOMENATLAS) == 10
    assert (ABDOMENATLAS[4], ABDOMENATLAS[7]) == ("kidney_left", "kidney_right")


def test_the_published_plan_is_assumed_where_none_is_beside_the_file(tmp_path):
    save(tmp_path / "net.model")
    model = import_stunet(tmp_path / "net.model", tmp_path / "out")
    assert model.patch_size == (128, 128, 128)
    assert model.plan["spacing"] == [1.5, 1.5, 1.5]
    assert model.plan["normalization"] == ["zscore"]
    assert model.mirror_axes == (0, 1, 2)
    assert model.network["strides"] == [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
    assert strides_of(StunetPlan().pools, 6)[-1] == [1, 1, 2]
    assert strides_of([[2, 2, 2]], 3) == [[1, 1, 1], [2, 2, 2], [1, 1, 1]]
    assert list(model.plan["labels"]) == list(TOTALSEGMENTATOR)


@pytest.mark.parametrize(("name", "mode"), [("net.model", "stunet_v1"), ("net.pth", "nnunet")])
def test_a_model_predicts_in_its_own_mode_and_in_the_other_on_request(tmp_path, name, mode):
    network = save(tmp_path / name, classes=10)
    folder = import_stunet(tmp_path / name, tmp_path / "out", SMALL).path
    image = np.random.default_rng(0).normal(100, 50, (1, 20, 16, 16)).astype(np.float32)
    plain = Predictor.from_model(folder, device="cpu", precision="32", mirror=False)
    assert plain.tiling.probabilities == (mode == "stunet_v1")
    for chosen in ("stunet_v1", "nnunet"):
        predictor = Predictor.from_model(folder, device="cpu", precision="32", mode=chosen, mirror=(0,))
        assert predictor.tiling.probabilities == (chosen == "stunet_v1")
        case = predictor.preprocess(_image(image))
        probabilities = predictor.probabilities(case)
        np.testing.assert_allclose(probabilities.sum(0), 1, rtol=1e-5)
        assert (predictor.segment(case) == probabilities.argmax(0)).mean() > 0.999
    tile = torch.tensor(plain.preprocess(_image(image)).image[None, :, :16, :16, :16])
    with torch.no_grad():
        torch.testing.assert_close(plain.networks[0](tile), network(tile), rtol=1e-4, atol=1e-4)


def test_the_authors_mode_is_refused_where_it_was_not_made_for_and_never_left_out_silently(tmp_path):
    save(tmp_path / "net.model", classes=10)
    folder = import_stunet(tmp_path / "net.model", tmp_path / "out", SMALL).path
    with pytest.raises(ConfigError, match="float32"):
        Predictor.from_model(folder, device="cpu", accumulator="float16")
    written = (folder / "model.json").read_text()
    for key, value in {"regions_class_order": [1], "previous_stage": "3d_lowres"}.items():
        for mode in ("auto", "stunet_v1"):
            with pytest.raises(ConfigError, match="plain labels and a single stage"):
                InferenceSettings(mode=mode).mode_for(json.loads(written)["plan"] | {key: value})
    (folder / "model.json").write_text(written.replace("stunet_v1", "stunet_v3"))
    with pytest.raises(ModelError, match="inference_mode stunet_v3"):
        Predictor.from_model(folder, device="cpu")


@pytest.mark.parametrize(
    ("node", "key", "value", "match"),
    [
        ("plan", "labels", {"background": 0, "liver": 1}, "10 outputs, its labels need 2"),
        ("plan", "spacing", [0, 1.5, 1.5], "above 0"),
        (None, "patch_size", [15, 16, 16], "does not fit its network"),
        (None, "patch_size", [16, 16], "does not fit its network|mirrors axes"),
        (None, "mirror_axes", [0, 3], "mirrors axes"),
    ],
)
def test_a_model_json_that_contradicts_itself_is_refused(tmp_path, node, key, value, match):
    save(tmp_path / "net.model", classes=10)
    file = import_stunet(tmp_path / "net.model", tmp_path / "out", SMALL).path / "model.json"
    content = json.loads(file.read_text())
    (content[node] if node else content)[key] = value
    file.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=match):
        Predictor.from_model(file.parent, device="cpu")


def _image(array):
    from segplan.inference.image_kinds import image_from_array

    return image_from_array(array, (1.5, 1.5, 1.5))


def test_the_plan_beside_the_file_is_read_and_options_win_over_it(tmp_path):
    save(tmp_path / "net.model", classes=10)
    write_pickle(tmp_path / "net.model.pkl", OrderedDict(init=("", 0), plans=plans()))
    model = import_stunet(tmp_path / "net.model", tmp_path / "out", ImportSettings(spacing=(3.0, 3.0, 3.0)))
    assert model.patch_size == (16, 32, 16)
    assert model.plan["spacing"] == [3.0, 3.0, 3.0]
    assert model.network["strides"] == [[1, 1, 1], [2, 2, 2], [1, 2, 2]]
    assert list(model.plan["labels"]) == list(ABDOMENATLAS)
    assumed = import_stunet(tmp_path / "net.model", tmp_path / "other", ImportSettings(use_plan=False))
    assert assumed.patch_size == (128, 128, 128)


class Malicious:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


def test_a_plan_that_brings_code_is_refused_and_nothing_runs(tmp_path):
    path = write_pickle(tmp_path / "plans.pkl", plans() | {"more": Malicious(tmp_path / "ran")})
    with pytest.raises(ModelError, match="could run code"):
        read_plan(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps([1]), pickle.dumps({"plans": {}})])
def test_a_damaged_plan_is_refused(tmp_path, content):
    (tmp_path / "plans.pkl").write_bytes(content)
    with pytest.raises(ModelError):
        read_plan(tmp_path / "plans.pkl")


def test_what_cannot_be_imported_is_refused_and_leaves_no_model(tmp_path):
    save(tmp_path / "odd.model", classes=7)
    save(tmp_path / "two.model", channels=2)
    save(tmp_path / "net.model")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.model")
    network = torch.load(tmp_path / "net.model", weights_only=False)
    del network["state_dict"]["upsample_layers.0.conv.bias"]
    torch.save(network, tmp_path / "part.model")
    cases = {
        "odd": (SMALL, "7 outputs"),
        "two": (SMALL, "2 input channels"),
        "other": (SMALL, "no STU-Net"),
        "part": (SMALL, "whole STU-Net"),
        "net": (ImportSettings(labels="abdomenatlas"), "105 outputs"),
    }
    for name, (settings, match) in cases.items():
        with pytest.raises(ModelError, match=match):
            import_stunet(tmp_path / f"{name}.model", tmp_path / "out", settings)
    with pytest.raises(ConfigError, match=r"divided|multiple|halved"):
        import_stunet(tmp_path / "net.model", tmp_path / "out", ImportSettings(patch_size=(15, 16, 16)))
    assert not (tmp_path / "out").exists()


def test_the_command_imports_and_refuses_what_it_cannot_read(tmp_path, capsys):
    save(tmp_path / "net.model")
    arguments = [str(tmp_path / "net.model"), str(tmp_path / "out")]
    assert main(["import-stunet", *arguments, "pools=[[2,2],[1,1,2]]"]) == 2
    assert "lists of three whole numbers" in capsys.readouterr().err
    for wrong in ("pools=[[2.5,2,2],[1,1,2]]", "patch_size=[32.0,32,32]", "spacing=[.inf,1,1]", "fold=../../elsewhere"):
        assert main(["import-stunet", *arguments, wrong]) == 2
        assert wrong in capsys.readouterr().err
    assert main(["import-stunet", *arguments, "pools=[[1,2,2],[1,1,2]]", "mode=nnunet", "fold=all"]) == 0
    assert "python predict.py model=" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "model.json").read_text())
    assert written["network"]["strides"] == [[1, 1, 1], [1, 2, 2], [1, 1, 2]]
    assert written["plan"]["inference_mode"] == "nnunet"
    assert (tmp_path / "out" / "fold_all" / "weights.safetensors").is_file()
    assert main(["import-stunet", *arguments]) == 2
