"""What reaches TensorBoard, W&B and MLflow, read back by their own means."""

import inspect
import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.loggers import CSVLogger

from segplan import dashboards
from segplan.dashboards import DashboardRun, opener
from segplan.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs" / "logger"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "D" / "2d" / "default" / "fold_3"
    folder.mkdir(parents=True)
    return DashboardRun(folder, tmp_path, "D", "D/2d/default", "fold_3", {"seed": "0"})


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "epoch_00001.png"
    Image.fromarray(np.full((4, 6, 3), 7, np.uint8)).save(path)
    return path


def wait_until(done):
    for _ in range(600):
        if done():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen within 30 s")


def send_all(dashboard, picture):
    text = picture.with_name("config.yaml")
    text.write_text("a: 1\n")
    dashboard.parameters({"optimizer.lr": 0.01})
    dashboard.file(text)
    dashboard.metrics({"patch_dice/left, bright": 0.5, "lr": 0.01}, 4)
    dashboard.metrics({"patch_dice/left, bright": 0.75}, 8)
    dashboard.picture("patches/case", picture, 8)
    dashboard.table("whole_cases", ["case", "liver"], [["c1", "0.9"]])
    dashboard.close("success")


def test_tensorboard(run, picture):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    send_all(opener("tensorboard", dashboards.tensorboard, {}, run)(), picture)
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("patch_dice/left, bright")] == [(4, 0.5), (8, 0.75)]
    image = events.Images("patches/case")[0]
    assert (image.step, image.width, image.height) == (8, 6, 4)
    [table] = events.Tensors("whole_cases/text_summary")
    assert b"| c1 | 0.9 |" in table.tensor_proto.string_val[0]
    assert "config.yaml/text_summary" in events.Tags()["tensors"]


def test_tensorboard_hides_the_steps_that_a_killed_training_repeats(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for beginning, steps in ((0, (4, 8, 12)), (4, (8, 12, 16))):
        dashboard = opener("tensorboard", dashboards.tensorboard, {}, run)()
        dashboard.begins(beginning)
        for step in steps:
            dashboard.metrics({"loss": step + beginning}, step)
        dashboard.close("success")
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(4, 4), (8, 12), (12, 16), (16, 20)]


def test_wandb_offline(run, picture):
    from wandb_file import config, history, records

    open_dashboard = opener("wandb", dashboards.wandb, {"mode": "offline"}, run)
    send_all(open_dashboard(), picture)
    [folder] = (run.folder / "wandb").glob("offline-run-*")
    [file] = folder.glob("*.wandb")
    wait_until(lambda: any(record.HasField("exit") for record in records(file)))  # W&B's own process writes it
    rows = history(file)
    values = [
        (row["trainer/global_step"], row["patch_dice/left, bright"]) for row in rows if "patch_dice/left, bright" in row
    ]
    assert values == [(4, 0.5), (8, 0.75)]
    assert config(file)["optimizer.lr"] == 0.01
    assert any("patches/case" in key for row in rows for key in row)
    [begun] = [record.run for record in records(file) if record.HasField("run")]
    assert (begun.project, begun.run_group, begun.display_name) == ("D", "D/2d/default", "fold_3")
    assert begun.run_id == run.known_id("wandb")


def test_a_resumed_run_keeps_its_wandb_id(run):
    first = opener("wandb", dashboards.wandb, {"mode": "offline"}, run)()
    first.close("success")
    before = run.known_id("wandb")
    opener("wandb", dashboards.wandb, {"mode": "offline"}, run)().close("success")
    assert run.known_id("wandb") == before


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A real MLflow server."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'm.db'}", "--artifacts-destination", str(folder / "files")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{address}/health", timeout=2)
            break
        except OSError:
            assert process.poll() is None
            time.sleep(0.2)
    yield address
    process.terminate()
    process.wait(20)


@pytest.mark.slow
def test_mlflow_server(run, picture, server):
    from mlflow import MlflowClient

    open_dashboard = opener("mlflow", dashboards.mlflow, {"tracking_uri": server}, run)
    send_all(open_dashboard(), picture)
    again = open_dashboard()  # a resumed run goes on in the same one, although a setting has changed
    again.parameters({"optimizer.lr": 0.5})
    again.metrics({"lr": 0.005}, 12)
    again.close("success")
    client = MlflowClient(server)
    [found] = client.search_runs([client.get_experiment_by_name("D").experiment_id], "tags.`group` = 'D/2d/default'")
    assert found.info.status == "FINISHED"
    assert found.data.params == {"optimizer.lr": "0.01"}
    assert found.data.tags["fold"] == "fold_3"
    history = client.get_metric_history(found.info.run_id, "lr")
    assert [(each.step, each.value) for each in history] == [(4, 0.01), (12, 0.005)]
    files = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert files == {"config.yaml", "patches", "whole_cases.json"}
    local = client.download_artifacts(found.info.run_id, "whole_cases.json")
    assert json.loads(Path(local).read_text()) == {"case": ["c1"], "liver": ["0.9"]}


def test_any_lightning_logger_can_be_named(run, picture, tmp_path):
    send_all(opener("mine", CSVLogger, {"save_dir": str(tmp_path), "name": "mine"}, run)(), picture)
    assert len(list((tmp_path / "mine").rglob("metrics.csv"))) == 1


def test_a_misspelt_argument_is_refused_before_training(run):
    with pytest.raises(ConfigError, match=r"logger\.wandb.*There are mode, project"):
        opener("wandb", dashboards.wandb, {"modus": "offline"}, run)


def test_a_tracker_that_is_not_installed_is_refused_before_training(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"pip install 'segplan\[mlflow\]'"):
        opener("mlflow", dashboards.mlflow, {}, run)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_the_shipped_values_are_the_signatures_defaults(name):
    from segplan.jobs.dashboards import PictureSettings

    node = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    own = node[name]
    assert own.pop("_target_") == f"segplan.dashboards.{name}"
    parameters = list(inspect.signature(getattr(dashboards, name)).parameters.values())[1:]
    assert own == {p.name: list(p.default) if isinstance(p.default, tuple) else p.default for p in parameters}
    assert PictureSettings(**node["pictures"]) == PictureSettings()
