"""Training that starts from other weights, trains parts, or trains a network of the user's own."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tiny_run import make_run

from segplan.errors import ConfigError, ModelError, RunError
from segplan.inference import Predictor
from segplan.jobs.prepare import fold_folder, prepare_run
from segplan.jobs.train_fold import run
from segplan.networks.parts import part_of


class TwoConvolutions(torch.nn.Module):
    """A network as a user may write one: no deep supervision, no strides, arguments of its own."""

    def __init__(self, channels: int, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.body = torch.nn.Conv3d(channels, width, 3, padding=1)
        self.head = torch.nn.Conv3d(width, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).relu())


OWN = f"{__name__}.TwoConvolutions"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A trained run to start from."""
    config = make_run(tmp_path_factory.mktemp("source"), "trainer.max_epochs=1")
    assert run(config) == 0
    return fold_folder(config)


def weights_of(config):
    return load_file(fold_folder(config) / "weights.safetensors")


def test_a_frozen_encoder_keeps_the_sources_weights_and_the_table_says_what_was_copied(source, tmp_path, capsys):
    config = make_run(tmp_path, "trainer.max_epochs=1", f"finetune.checkpoint={source}", "finetune.freeze=[encoder]")
    assert run(config) == 0
    before, after = load_file(source / "weights.safetensors"), weights_of(config)
    for name, value in after.items():
        if "decoder.stages" in name and name.endswith("conv.weight"):
            assert not torch.equal(value, before[name])
        if part_of(name) == "encoder":
            assert torch.equal(value, before[name])
    printed = capsys.readouterr().out
    assert "starting from" in printed
    assert "heads depend on the labels" in printed


def test_frozen_weights_thaw_after_their_epochs(source, tmp_path):
    options = (f"finetune.checkpoint={source}", "finetune.freeze=[encoder]", "finetune.freeze_epochs=1")
    config = make_run(tmp_path, "trainer.max_epochs=2", *options)
    assert run(config) == 0
    before, after = load_file(source / "weights.safetensors"), weights_of(config)
    name = "encoder.stages.0.0.convs.0.conv.weight"
    assert not torch.equal(after[name], before[name])


def test_a_tiny_rate_of_a_part_moves_it_less_than_the_others(source, tmp_path):
    rates = "finetune.learning_rates={encoder: 0.0001}"
    config = make_run(tmp_path, "trainer.max_epochs=1", f"finetune.checkpoint={source}", rates)
    assert run(config) == 0
    before, after = load_file(source / "weights.safetensors"), weights_of(config)
    moved = {"encoder": 0.0, "decoder": 0.0}
    for name, value in after.items():
        if part_of(name) in moved and name.endswith("conv.weight"):
            moved[part_of(name)] = max(moved[part_of(name)], float((value - before[name]).abs().max()))
    assert 0 < moved["encoder"] < 0.01 * moved["decoder"]


def test_a_run_that_began_goes_on_without_its_source_and_refuses_another(source, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((source / "weights.safetensors").read_bytes())
    first = make_run(tmp_path / "w", "trainer.max_epochs=1", f"finetune.checkpoint={copy}")
    assert run(first) == 0
    moved = copy.rename(tmp_path / "moved.safetensors")
    further = make_run(tmp_path / "w", "trainer.max_epochs=2", f"finetune.checkpoint={moved}")
    prepare_run(further)  # the same content elsewhere
    moved.unlink()
    assert run(further) == 0
    assert json.loads((fold_folder(first) / "identity.json").read_text())["finetune.source"]
    copy.write_bytes((source / "weights.safetensors").read_bytes()[:-4] + b"abcd")
    with pytest.raises(RunError, match=r"finetune\.source"):
        prepare_run(make_run(tmp_path / "w", "trainer.max_epochs=3", f"finetune.checkpoint={copy}"))


@pytest.mark.parametrize(
    ("override", "error", "match"),
    [
        ("finetune.recipe=stunet", ConfigError, r"finetune\.checkpoint"),
        ("finetune.heads=half", ConfigError, "new or copy"),
        ("finetune.freeze=encoder", ConfigError, "list"),
        ("finetune.freeze_epochs=0", ConfigError, "number of epochs"),
        ("finetune.learning_rates.head=2", ConfigError, "no such part"),
        ("finetune.learning_rates.heads=0", ConfigError, "freeze"),
        ("inference.mode=stunet_v1", ConfigError, "normalised first"),
        ("finetune.chekpoint=x", ConfigError, "no such key"),
        ("finetune.checkpoint=/no/such/file", ModelError, "no such file"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(tmp_path, override, error, match):
    config = make_run(tmp_path)
    with pytest.raises(error, match=match):
        prepare_run(OmegaConf.merge(config, OmegaConf.from_dotlist([override])))


def test_a_network_of_the_users_own_is_trained_and_predicts_once_it_is_named(tmp_path):
    own = (f"network._target_={OWN}", "network.channels=1", "data.patch_size=[7,15,13]", "network.width=3")
    config = make_run(tmp_path, "trainer.max_epochs=1", *own)
    assert run(config) == 0
    recorded = json.loads((fold_folder(config).parent / "model.json").read_text())["network"]
    assert recorded == {"target": OWN, "channels": 1, "num_classes": 3, "width": 3}
    model = fold_folder(config).parent
    with pytest.raises(ModelError, match=f"network_target={OWN}"):
        Predictor.from_model(model, device="cpu")
    with pytest.raises(ModelError, match="none of segplan's"):
        Predictor.from_model(model, device="cpu", network_target="os.system")
    predictor = Predictor.from_model(model, device="cpu", network_target=OWN, mirror=False)
    labels = predictor.predict(torch.randn(1, 9, 17, 15).numpy(), (1.0, 1.0, 1.0))
    assert labels.shape == (9, 17, 15)


def test_a_network_of_the_users_own_takes_plain_values_and_no_misspelt_ones(tmp_path):
    with pytest.raises(ConfigError, match="widht"):
        run(make_run(tmp_path / "a", f"network._target_={OWN}", "network.channels=1", "network.widht=3"))
    with pytest.raises(ConfigError, match="plain values"):
        run(make_run(tmp_path / "b", f"network._target_={OWN}", "network.channels={_target_: builtins.int}"))
