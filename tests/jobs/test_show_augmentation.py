import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from tiny_run import make_run

from segplan.augmentation.blur import BlurParams
from segplan.augmentation.brightness import FactorParams
from segplan.augmentation.mirror import MirrorParams
from segplan.augmentation.noise import NoiseParams
from segplan.augmentation.one_of import OneOfParams
from segplan.augmentation.spatial import SpatialParams
from segplan.augmentation.torchio_bridge import TorchioParams
from segplan.cli import main
from segplan.errors import ConfigError
from segplan.jobs.show_augmentation import describe, run


@pytest.mark.parametrize(("flat", "regions"), [(False, False), (True, False), (False, True)])
def test_a_sheet_is_written_for_volumes_slices_and_regions(tmp_path, capsys, flat, regions):
    config = make_run(tmp_path, flat=flat, regions=regions)
    path = tmp_path / "sheet.png"
    assert run(config, 4, path) == 0
    assert capsys.readouterr().out == f"{path}\n"
    width, height = Image.open(path).size
    assert width > 400
    assert height > 200


def test_the_sheet_depends_on_seed_and_augmentation(tmp_path):
    def sheet(name, *overrides):
        run(make_run(tmp_path, *overrides), 3, tmp_path / name)
        return np.asarray(Image.open(tmp_path / name))

    first = sheet("a.png")
    assert np.array_equal(first, sheet("b.png"))
    others = sheet("c.png", "seed=1"), sheet("d.png", "augmentation.noise.probability=1")
    assert not any(first.shape == other.shape and np.array_equal(first, other) for other in others)


def test_parameters_are_told_in_words_without_seeds():
    params = {
        "spatial": SpatialParams((0.5235987755982988, 0.0, -0.1), 1.25),
        "noise": NoiseParams(std=0.04321, seed=123456),
        "low_resolution": FactorParams((0.91234, 1.1)),
        "median_or_blur": OneOfParams("blur", BlurParams(((0.5, 1.0), None))),
        "mirror": MirrorParams((0, 2), swaps=True),
        "motion": TorchioParams(7),
    }
    assert describe(params) == [
        "spatial: turned by 30°, 0°, -6° · scale 1.25",
        "noise: std 0.0432",
        "low resolution: factors 0.912, 1.1",
        "median or blur: blur, sigmas (0.5, 1), none",
        "mirror: axes 0, 2 · swaps",
        "motion",
    ]


@pytest.mark.parametrize(("number", "output"), [(0, "a.png"), (201, "a.png"), (3, "a.jpg")])
def test_what_cannot_be_shown_is_refused(tmp_path, number, output):
    with pytest.raises(ConfigError):
        run(make_run(tmp_path), number, tmp_path / output)


def test_the_command_wants_a_plan(tmp_path, capsys):
    assert main(["show-augmentation", f"workspace={tmp_path}", "n=3", "seed=1"]) == 2
    assert "plan= is missing" in capsys.readouterr().err


def test_the_command_takes_overrides_before_and_after_its_options(tmp_path, monkeypatch):
    seen = {}

    def show(config, number, output):
        seen.update(config=config, number=number, output=output)
        return 0

    monkeypatch.setattr("segplan.jobs.show_augmentation.run", show)
    plan = tmp_path / "plan" / "Dataset999_Tiny"
    plan.mkdir(parents=True)
    (plan / "3d_fullres.yaml").write_text(
        "# @package _global_\nplan: {dataset: Dataset999_Tiny, input_channels: 1, num_classes: 3}\n"
    )
    words = ["plan=Dataset999_Tiny/3d_fullres", "n=5", "seed=3", "output=a b.png", "augmentation.gamma.probability=1"]
    assert main(["show-augmentation", f"workspace={tmp_path}", *words]) == 0
    assert (seen["number"], str(seen["output"])) == (5, "a b.png")
    assert OmegaConf.select(seen["config"], "augmentation.gamma.probability") == 1
    assert seen["config"].seed == 3
