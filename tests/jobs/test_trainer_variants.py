"""Every line of the table of trainer variants composes, and what it names can be built."""

import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from small_dataset import make_dataset

from segplan.augmentation import build_pipeline
from segplan.entry import main
from segplan.entry.compose import compose_job
from segplan.jobs.instantiate import instantiate
from segplan.networks import PlainUNet
from segplan.patches.oversampling import Oversampling

PAGE = Path(__file__).parents[2] / "docs" / "trainer_variants.md"
LINES = re.findall(r"^\| `?([^|`]+?)`? \| `?([^|`]+?)`? \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
VARIANTS = {name: overrides for name, overrides in LINES if "=" in overrides}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = tmp_path_factory.mktemp("variants")
    raw = make_dataset(root / "Dataset003_Boxes", cases=5)
    assert (
        main("plan", [f"dataset={raw}", f"workspace={root / 'w'}", "num_workers=0", "stages=[fingerprint,plan]"]) == 0
    )
    return root / "w"


def test_the_table_has_nnunets_trainers():
    assert len([name for name in VARIANTS if name.startswith("nnUNetTrainer")]) >= 48


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_composed_and_built(workspace, name):
    overrides = VARIANTS[name].split()
    config = compose_job("train", ["plan=Dataset003_Boxes/3d_fullres", *overrides], workspace)
    for override in overrides:
        key, value = override.split("=", 1)
        if "." in key:
            assert OmegaConf.select(config, key) == OmegaConf.create({"value": OmegaConf.create(f"x: {value}").x}).value
    network = PlainUNet(1, 3, features=(2, 4), strides=[(1, 1, 1), (2, 2, 2)], kernel_sizes=[(3, 3, 3)] * 2)
    optimizer = instantiate(config.optimizer, params=network.parameters())
    logits = network(torch.randn(1, 1, 8, 8, 8))[0]
    loss = instantiate(config.loss)(logits, torch.randint(0, 3, (1, 8, 8, 8)))
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    assert 0 <= instantiate(config.schedule)(0, int(config.trainer.max_epochs)) <= 1
    assert isinstance(instantiate(config.callbacks), dict)
    node = OmegaConf.to_container(config.augmentation, resolve=True)
    pipeline = build_pipeline(node, [int(size) for size in config.data.patch_size], [False])
    assert (pipeline.mirror_axes is None) == (node.get("mirror") is None)
    Oversampling(config.data.batch_size, config.data.foreground_fraction, config.data.oversampling)
