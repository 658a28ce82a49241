import json

import numpy as np
import pytest
from omegaconf import OmegaConf
from tiny_run import CONFIGS, make_run

from segplan import Predictor
from segplan.errors import ConfigError
from segplan.jobs.prepare import fold_folder
from segplan.jobs.train_fold import run

STRONG = OmegaConf.load(CONFIGS / "augmentation" / "strong.yaml")


def strong_run(workspace, **changes):
    config = make_run(workspace, "trainer.max_epochs=1")
    config.augmentation = STRONG.copy()
    config.augmentation.merge_with(OmegaConf.create(changes))
    return config


def test_run_that_swaps_sides_augments_on_its_own_device_and_predicts_likewise(tmp_path):
    turns = {"rotate90": None, "transpose": None}
    config = strong_run(tmp_path, device="accelerator", mirror={"swap_labels": [[1, 2]]}, **turns)
    assert run(config) == 0
    folder = fold_folder(config)
    recorded = json.loads((folder.parent / "model.json").read_text())
    assert recorded["mirror_swap"] == {"axis": 2, "labels": [[1, 2]]}
    assert json.loads((folder / "validation" / "summary.json").read_text())["metric_per_case"]
    predictor = Predictor.from_model(folder.parent, device="cpu")
    assert predictor.tiling.mirror_swap.heads == (0, 2, 1)
    image = np.random.default_rng(0).standard_normal((1, 12, 20, 24)).astype(np.float32)
    assert predictor.predict(image, (1.0, 1.0, 1.0)).shape == (12, 20, 24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "cuda"}, "augmentation.device=cuda"),
        ({"mirror": {"swap_labels": [[1, 7]]}}, "no label 7"),
    ],
)
def test_what_cannot_work_is_refused_before_training(tmp_path, change, message):
    config = strong_run(tmp_path, **change)
    with pytest.raises(ConfigError, match=message):
        run(config)
    assert not (fold_folder(config) / "checkpoints").exists()
