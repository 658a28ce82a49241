"""Exports to ONNX and torch.export must give the network's logits, at any batch size."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from segplan import Predictor
from segplan.cli import main
from segplan.errors import ModelError
from segplan.interop import exchange
from segplan.interop.nnunet import import_model
from segplan.model_folder import ModelFolder

DATA = Path(__file__).parents[1] / "data"
MODEL = DATA / "interop" / "ignore" / "nnUNetTrainer__nnUNetPlans__2d"
onnx_needed = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra `onnx` is not installed",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "imported"
    import_model(MODEL, folder)
    return folder


@onnx_needed
def test_an_onnx_export_predicts_what_the_model_predicts(model, tmp_path, capsys):
    assert main(["export-model", str(model), str(tmp_path / "onnx"), "format=onnx"]) == 0
    assert "logits differ by at most" in capsys.readouterr().out
    assert not list((tmp_path / "onnx").rglob("*.safetensors"))
    original = Predictor.from_model(model, device="cpu", precision=32)
    exported = Predictor.from_model(tmp_path / "onnx", device="cpu", precision=32)
    image = np.random.default_rng(0).normal(size=(2, 5, 40, 44)).astype(np.float32)
    for batch in (1, 3):
        patch = torch.randn(batch, 2, 32, 32)
        with torch.no_grad():
            expected, found = original.networks[0](patch), exported.networks[0](patch)
        assert (found - expected).abs().max() < 1e-4 * max(1, expected.abs().max())
    labels, its_labels = original.predict(image, (3, 1, 1)), exported.predict(image, (3, 1, 1))
    assert (labels != its_labels).mean() < 1e-3


def test_a_torch_export_gives_the_same_logits_at_another_batch_size(model, tmp_path):
    assert main(["export-model", str(model), str(tmp_path / "program"), "format=torch"]) == 0
    program = torch.export.load(tmp_path / "program" / "fold_0" / "network.pt2").module()
    network = Predictor.from_model(model, device="cpu", precision=32).networks[0]
    patch = torch.randn(5, 2, 32, 32)
    with torch.no_grad():
        assert torch.equal(program(patch), network(patch))
    with pytest.raises(ModelError, match=r"torch\.export programs.*format=onnx"):
        Predictor.from_model(tmp_path / "program", device="cpu")


@onnx_needed
def test_a_damaged_onnx_file_is_named(model, tmp_path):
    shutil.copytree(model, tmp_path / "onnx", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "onnx" / "fold_0" / "network.onnx").write_bytes(b"no network")
    with pytest.raises(ModelError, match=r"network\.onnx.*onnxruntime cannot read it"):
        Predictor.from_model(tmp_path / "onnx")


@pytest.mark.parametrize("kind", ["onnx", "torch", "nnunet"])
def test_an_onnx_export_is_not_exported_again(model, tmp_path, capsys, kind):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    shutil.copytree(model, tmp_path / "onnx", ignore=shutil.ignore_patterns("*.safetensors"))
    nothing = onnx.helper.make_graph([], "nothing", [value := onnx.helper.make_tensor_value_info("x", 1, [1])], [value])
    exported = onnx.helper.make_model(nothing, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "onnx" / "fold_0" / "network.onnx").write_bytes(exported.SerializeToString())
    assert main(["export-model", str(tmp_path / "onnx"), str(tmp_path / "out"), f"format={kind}"]) == 2
    assert "it is an export itself" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize("wrong", [0.1, float("nan")])
def test_an_export_that_computes_something_else_leaves_nothing(model, tmp_path, monkeypatch, wrong):
    monkeypatch.setattr(exchange, "_load_program", lambda path: lambda image: torch.full((3, 4, 32, 32), wrong))
    with pytest.raises(ModelError, match="would differ"):
        exchange.export_program(ModelFolder.open(model), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_never_exported_into(model, tmp_path, capsys):
    (tmp_path / "precious").write_text("mine")
    assert main(["export-model", str(model), str(tmp_path), "format=torch"]) == 2
    assert "there already" in capsys.readouterr().err
