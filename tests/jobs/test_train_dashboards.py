"""A training with dashboards: what they are sent, and that it trains exactly as without."""

import csv
import json

import pytest
from omegaconf import OmegaConf
from tiny_run import CONFIGS, make_run

from segplan.dashboards import guarded
from segplan.errors import ConfigError
from segplan.jobs.prepare import fold_folder
from segplan.jobs.train_fold import run


def dashboards(*names, **changes):
    node = OmegaConf.merge(*(OmegaConf.load(CONFIGS / "logger" / f"{name}.yaml") for name in names))
    for name, values in changes.items():
        node[name].update(values)
    return node


def weights(config):
    return (fold_folder(config) / "weights.safetensors").read_bytes()


def rows(config):
    with (fold_folder(config) / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def read_back(config):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(fold_folder(config) / "tensorboard")).Reload()


@pytest.mark.parametrize("kind", ["volumes", "regions", "slices"])
def test_tensorboard_has_curves_pictures_configuration_and_final_table(tmp_path, kind):
    config = make_run(tmp_path, "trainer.max_epochs=2", flat=kind == "slices", regions=kind == "regions")
    config.logger = dashboards("tensorboard")
    assert run(config) == 0
    events, table = read_back(config), rows(config)
    for key in ("train_loss", "val_loss", "lr", "patch_dice", "patch_dice/dark", "samples_per_s", "waiting_share"):
        assert [event.value for event in events.Scalars(key)] == pytest.approx([float(row[key]) for row in table], 1e-5)
    for key in ("system/cpu_percent", "system/memory_gib"):
        assert all(event.value > 0 for event in events.Scalars(key))
    assert [event.step for event in events.Images("patches/e")] == [4, 8]
    texts = {key: events.Tensors(key)[0].tensor_proto.string_val[0].decode() for key in events.Tags()["tensors"]}
    assert "max_epochs: 2" in texts["config.yaml/text_summary"]
    assert '"git"' in texts["provenance.json/text_summary"]
    summary = json.loads((fold_folder(config) / "validation" / "summary.json").read_text())
    mean = summary["foreground_mean"]["Dice"]
    assert events.Scalars("whole_cases/dice")[0].value == pytest.approx(mean, abs=1e-6)
    assert "| e |" in texts["whole_cases/text_summary"]


def test_a_dead_server_changes_neither_the_weights_nor_the_exit_code(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(guarded, "_FIRST_WAIT_S", 0.05)
    plain = make_run(tmp_path, "trainer.max_epochs=2")
    assert run(plain) == 0
    watched = make_run(tmp_path, "trainer.max_epochs=2", "run=watched")
    watched.logger = dashboards("tensorboard", "mlflow", mlflow={"tracking_uri": "http://127.0.0.1:9"})
    assert run(watched) == 0
    assert weights(watched) == weights(plain)
    errors = capfd.readouterr().err
    assert errors.count("segplan: dashboard mlflow:") == 2  # that it does not answer, and what was not sent
    assert "Traceback" not in errors
    assert len(read_back(watched).Scalars("train_loss")) == 2


def test_a_training_that_goes_on_adds_to_the_same_curves(tmp_path):
    config = make_run(tmp_path, "trainer.max_epochs=1")
    config.logger = dashboards("tensorboard")
    assert run(config) == 0
    config.trainer.max_epochs = 3
    assert run(config) == 0
    assert [event.step for event in read_back(config).Scalars("train_loss")] == [4, 8, 12]


def test_pictures_may_be_left_out(tmp_path):
    config = make_run(tmp_path, "trainer.max_epochs=1")
    config.logger = dashboards("tensorboard", pictures={"every": 0})
    assert run(config) == 0
    assert not (fold_folder(config) / "pictures").exists()
    assert read_back(config).Tags()["images"] == []


def test_a_picture_that_cannot_be_drawn_ends_no_training(tmp_path, capfd, monkeypatch):
    def broken(*_, **__):
        raise ValueError("no such colour")

    monkeypatch.setattr("segplan.dashboards.pictures.write_overlay", broken)
    config = make_run(tmp_path, "trainer.max_epochs=2")
    config.logger = dashboards("tensorboard", pictures={"every": 1})
    assert run(config) == 0
    assert capfd.readouterr().err.count("no more pictures (ValueError: no such colour)") == 1
    assert len(read_back(config).Scalars("train_loss")) == 2


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"tensorboard": {"_target_": "segplan.dashboards.tensorboard", "x": 1}}, "There are save_dir"),
        ({"tensorboard": 3}, "Use logger=tensorboard"),
        ({"pictures": {"often": 3}}, "It has the keys cases and every"),
    ],
)
def test_what_is_no_dashboard_is_refused_before_anything_is_written(tmp_path, node, message):
    config = make_run(tmp_path, "trainer.max_epochs=1")
    config.logger = OmegaConf.create(node)
    with pytest.raises(ConfigError, match=message):
        run(config)
    assert not (fold_folder(config) / "identity.json").exists()
