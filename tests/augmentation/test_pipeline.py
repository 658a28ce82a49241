from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from groups import group
from omegaconf import OmegaConf
from smooth_case import smooth_case

from segplan import augmentation
from segplan.augmentation import Box3, Mirror, Pipeline, Spatial, build_pipeline, plain_pipeline
from segplan.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs" / "augmentation"
CASCADE = ["cascade_morphology", "cascade_remove_component"]
ORDER = ["spatial", "noise", "blur", "brightness", "contrast", "low_resolution", "gamma_inverted", "gamma", "mirror"]


GROUPS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


@pytest.fixture
def default():
    return OmegaConf.create(group("default"))


@pytest.fixture(params=GROUPS)
def group_name(request):
    return request.param


def build(node, patch=(16, 16, 16), use_mask=(False,)):
    return build_pipeline(node, patch, use_mask)


def settings(description):
    """The arguments in a transform's node, as its class keeps them; nested transforms as such."""
    nested = {"OneOf": "transforms"}.get(description["_target_"].rpartition(".")[2])
    for key, value in description.items():
        if key == nested:
            yield key, {name: dict(settings(inner)) for name, inner in value.items()}
        elif key != "_target_":
            yield key, tuple(value) if isinstance(value, list) else value


def test_yaml_lists_the_transforms_in_order_with_the_defaults_of_their_classes(default):
    names = [name for name in default if name not in ("device", "dummy_2d")]
    assert names == [*ORDER, *CASCADE]
    for name in names:
        cls = getattr(augmentation, default[name]["_target_"].removeprefix("segplan.augmentation."))
        expected = asdict(cls(probability=0.1, invert=True) if name == "gamma_inverted" else cls())
        assert dict(settings(group("default")[name])) == expected, name


def test_every_setting_of_every_transform_stands_in_the_yaml_of_its_group(group_name):
    for name, node in group(group_name).items():
        if isinstance(node, dict) and node["_target_"].startswith("segplan."):
            cls = getattr(augmentation, node["_target_"].removeprefix("segplan.augmentation."))
            assert set(dict(settings(node))) == {field.name for field in fields(cls)}, name


STRONG_DEFAULTS = (
    "rotate90",
    "transpose",
    "noise",
    "brightness_shift",
    "mirror",
    "blank_rectangles",
    "brightness_gradient",
    "local_gamma",
    "sharpen",
)


@pytest.mark.parametrize("name", STRONG_DEFAULTS)
def test_transforms_made_for_the_strong_group_have_its_numbers_as_defaults(name):
    node = group("strong")[name]
    cls = getattr(augmentation, node["_target_"].removeprefix("segplan.augmentation."))
    assert dict(settings(node)) == asdict(cls())


@pytest.mark.parametrize(("patch", "dummy_2d"), [((16, 16, 18), False), ((4, 24, 24), True), ((20, 20), False)])
def test_every_group_augments_in_3d_dummy_2d_and_2d(group_name, patch, dummy_2d):
    pipeline = build(group(group_name) | {"dummy_2d": dummy_2d}, patch, (True, False))
    image, labels = smooth_case((30, 36, 32) if len(patch) == 3 else (1, 36, 32), channels=2)
    image.flags.writeable = labels.flags.writeable = False
    rng = np.random.default_rng(3)
    acted = set()
    for _ in range(80):
        params = pipeline.sample(rng)
        acted |= params.keys()
        first, first_labels = pipeline.apply(image, labels, params)
        second, second_labels = pipeline.apply(image, labels, params)
        assert torch.equal(first, second)
        assert torch.equal(first_labels, second_labels)
        assert first.shape == (2, *patch)
        assert torch.isfinite(first).all()
        assert set(first_labels.unique().tolist()) <= {0, 1, 2, 3}
    expected = {name for name, _ in pipeline.transforms} - {"spike", "ghosting", "motion"}
    assert expected <= acted | {"transpose"} | ({"rotate90"} if patch == (16, 16, 18) else set())


def test_a_batchs_places_can_be_written_in_place(default):
    pipeline = build(group("strong"), (12, 12), (True, False))
    image, labels = smooth_case((1, 30, 30), channels=2)
    rng = np.random.default_rng(0)
    for _ in range(20):
        params = pipeline.sample(rng)
        batch, batch_labels = torch.full((3, 2, 12, 12), 7.0), torch.full((3, 1, 12, 12), 9, dtype=torch.int16)
        made = pipeline.apply(image, labels, params, out=(batch[1], batch_labels[1]))
        expected = pipeline.apply(image, labels, params)
        assert torch.equal(batch[1], expected[0])
        assert torch.equal(batch_labels[1], expected[1])
        assert made[0].data_ptr() == batch[1].data_ptr()
        assert (batch[::2] == 7).all()
        assert (batch_labels[::2] == 9).all()


def test_cascade_transforms_are_left_out_where_there_is_no_previous_stage(default):
    assert not {name for name, _ in build(default).transforms} & set(CASCADE)
    cascade = build_pipeline(default, (16, 16, 16), (False,), previous_labels=(1, 2))
    assert [name for name, _ in cascade.transforms][-2:] == CASCADE


def test_pipeline_built_from_yaml_has_the_yamls_order(default):
    pipeline = build(default)
    assert pipeline.spatial == Spatial()
    assert [name for name, _ in pipeline.transforms] == ORDER[1:]
    assert pipeline.mirror_axes == (0, 1, 2)
    assert build(default, (16, 16)).mirror_axes == (0, 1)


def test_null_and_probability_zero_turn_a_transform_off(default):
    default.blur = None
    default.noise.probability = 0
    default.mirror.probability = 0
    default.spatial.rotation_probability = default.spatial.scaling_probability = 0
    pipeline = build(default)
    assert [name for name, _ in pipeline.transforms] == ORDER[3:-1]
    assert pipeline.spatial is None
    assert pipeline.mirror_axes is None
    assert pipeline.initial_patch_size == (16, 16, 16)


def test_none_leaves_patches_as_they_lie():
    pipeline = build(OmegaConf.load(CONFIGS / "none.yaml"), use_mask=(True,))
    image, labels = smooth_case((16, 16, 16))
    assert pipeline.sample(np.random.default_rng(0)) == {}
    patch, patch_labels = pipeline.apply(image, labels, {})
    np.testing.assert_array_equal(patch.numpy(), image)
    np.testing.assert_array_equal(patch_labels.numpy(), np.maximum(labels, 0))
    assert pipeline.mirror_axes is None


def test_no_mirroring_differs_from_default_in_that_alone(default):
    merged = OmegaConf.merge(default, OmegaConf.load(CONFIGS / "no_mirroring.yaml"))
    pipeline = build({key: value for key, value in merged.items() if key != "defaults"})
    assert [name for name, _ in pipeline.transforms] == ORDER[1:-1]
    assert pipeline.mirror_axes is None


@pytest.mark.parametrize(("patch", "dummy_2d"), [((16, 18, 20), False), ((4, 24, 20), True), ((24, 20), False)])
def test_sample_is_pure_and_replayable_in_3d_dummy_2d_and_2d(default, patch, dummy_2d):
    default.dummy_2d = dummy_2d
    pipeline = build(default, patch, (False, False))
    image, labels = smooth_case((30, 36, 32) if len(patch) == 3 else (1, 36, 32), channels=2)
    image.flags.writeable = labels.flags.writeable = False
    rng = np.random.default_rng(3)
    acted = set()
    for _ in range(60):
        params = pipeline.sample(rng)
        acted |= params.keys()
        box = Box3((2, -3, 4) if len(patch) == 3 else (0, -3, 4), pipeline.initial_patch_size)
        first, first_labels = pipeline.apply(image, labels, params, box)
        second, second_labels = pipeline.apply(image, labels, params, box)
        assert torch.equal(first, second)
        assert torch.equal(first_labels, second_labels)
        assert first.shape == (2, *patch)
        assert first_labels.shape == (1, *patch)
        assert first.dtype == torch.float32
        assert first_labels.dtype == torch.int16
        assert first_labels.min() >= 0
        assert torch.isfinite(first).all()
    assert acted == set(ORDER)


def test_masked_channels_are_zero_outside_and_others_are_not(default):
    default.noise.probability = 1
    pipeline = build(default, use_mask=(True, False))
    image, labels = smooth_case((16, 16, 16), channels=2)
    params = {"noise": pipeline.sample(np.random.default_rng(0))["noise"]}
    patch, _ = pipeline.apply(image, labels, params)
    outside = torch.from_numpy(labels[0] < 0)
    assert outside.any()
    assert (patch[0][outside] == 0).all()
    assert (patch[1][outside] != 0).all()


def test_validation_pipeline_only_turns_minus_one_into_background():
    image, labels = smooth_case((16, 16, 16))
    patch, patch_labels = plain_pipeline((16, 16, 16), 1).apply(image, labels, {})
    np.testing.assert_array_equal(patch.numpy(), image)
    assert set(patch_labels.unique().tolist()) == {0, 1, 2, 3}


TORCHIO = {
    "affine": {"_target_": "torchio.RandomAffine", "degrees": 30, "translation": 2},
    "elastic": {"_target_": "torchio.RandomElasticDeformation", "num_control_points": 5, "max_displacement": 2},
    "bias_field": {"_target_": "torchio.RandomBiasField"},
    "noise": {"_target_": "torchio.RandomNoise"},
}


@pytest.mark.parametrize("name", TORCHIO)
@pytest.mark.parametrize("patch", [(12, 13, 14), (16, 12)], ids=["3d", "2d"])
def test_torchio_transform_runs_and_can_be_replayed(name, patch):
    target = dict(TORCHIO[name])
    if name == "elastic" and len(patch) == 2:
        target |= {"num_control_points": [5, 5, 5], "max_displacement": [2, 2, 0]}
    if name == "affine" and len(patch) == 2:
        target |= {"degrees": [0, 0, 30], "translation": [2, 2, 0]}
    pipeline = build({"mine": target}, patch)
    image, labels = smooth_case((12, 13, 14) if len(patch) == 3 else (1, 16, 12))
    state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    params = pipeline.sample(np.random.default_rng(0))
    first, first_labels = pipeline.apply(image, labels, params)
    second, second_labels = pipeline.apply(image, labels, params)
    other, _ = pipeline.apply(image, labels, pipeline.sample(np.random.default_rng(1)))
    assert torch.equal(first, second)
    assert torch.equal(first_labels, second_labels)
    assert not torch.equal(first, other)
    assert not np.array_equal(first.numpy().squeeze(), image.squeeze())
    moves = name in ("affine", "elastic")
    assert moves != np.array_equal(first_labels.numpy().squeeze(), np.maximum(labels, 0).squeeze())
    assert set(first_labels.unique().tolist()) <= {0, 1, 2, 3}
    assert np.array_equal(np.random.get_state()[1], state)
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize(("axis", "patch"), [(0, (13, 13, 13)), (1, (13, 13, 13)), (2, (13, 13, 13)), (1, (13, 13))])
def test_torchios_spatial_axes_are_the_patchs_array_axes(axis, patch):
    shift = [0, 0, 0]
    shift[axis] = 3
    target = {
        "_target_": "torchio.RandomAffine",
        "degrees": 0,
        "scales": 0,
        "translation": [bound for step in shift for bound in (step, step)],
        "default_pad_value": 0,
    }
    pipeline = build({"mine": target}, patch)
    image = np.zeros((1, 13, 13, 13) if len(patch) == 3 else (1, 1, 13, 13), np.float32)
    image[(0, *(6,) * 3) if len(patch) == 3 else (0, 0, 6, 6)] = 1
    moved, moved_labels = pipeline.apply(image, image.astype(np.int16), pipeline.sample(np.random.default_rng(0)))
    expected = [0, *(6,) * len(patch)]
    where = moved.round().nonzero().tolist()
    assert where == moved_labels.nonzero().tolist()
    assert len(where) == 1
    difference = np.array(where[0]) - expected
    assert abs(difference[1 + axis]) == 3
    assert np.abs(difference).sum() == 3


@pytest.mark.parametrize("patch", [(24, 24, 24), (24, 24)], ids=["3d", "2d"])
def test_no_mri_artifact_moves_the_image_away_from_its_labels(patch):
    steps = np.meshgrid(*[np.arange(size) - size // 2 for size in patch], indexing="ij")
    blob = np.exp(-sum(step**2 for step in steps) / 10).astype(np.float32).reshape((1, 1, *patch)[-4:])
    artifacts = group("mri_artifacts")
    for name in ("motion", "ghosting", "spike"):
        pipeline = build({"it": {**artifacts[name], "p": 1}}, patch)
        for seed in range(6):
            made, _ = pipeline.apply(blob, np.zeros(blob.shape, np.int16), pipeline.sample(np.random.default_rng(seed)))
            weight = made[0].clamp(min=0.5 * made.max()).numpy() - 0.5 * float(made.max())
            middle = [float((weight * step).sum() / weight.sum()) for step in steps]
            assert max(map(abs, middle)) < 1, (name, middle)


def test_torchios_own_probability_is_respected():
    pipeline = build({"mine": {"_target_": "torchio.RandomNoise", "p": 0.25}})
    rng = np.random.default_rng(0)
    assert sum("mine" in pipeline.sample(rng) for _ in range(2000)) / 2000 == pytest.approx(0.25, abs=0.03)


def test_torchio_transform_that_changes_the_patchs_size_is_refused():
    pipeline = build({"mine": {"_target_": "torchio.Pad", "padding": 2}})
    with pytest.raises(ConfigError, match="mine"):
        pipeline.apply(*smooth_case((16, 16, 16)), pipeline.sample(np.random.default_rng(0)))


class Negative:
    """A transform of a user's own."""

    probability = 1.0

    def sample(self, rng, context):
        return rng.random()

    def apply(self, image, labels, params):
        return image.neg_(), labels


def one_of(**transforms):
    return {"_target_": "segplan.augmentation.OneOf", "transforms": transforms}


def test_alternatives_may_be_torchios_or_ones_own_and_null_leaves_one_out():
    own = {"_target_": f"{__name__}.Negative"}
    both = build({"either": one_of(own=own, torchio={"_target_": "torchio.RandomNoise"})})
    params = [both.sample(np.random.default_rng(seed)) for seed in range(20)]
    assert {drawn["either"].name for drawn in params} == {"own", "torchio"}
    for drawn in params[:4]:
        both.apply(*smooth_case((16, 16, 16)), drawn)
    alone = build({"either": one_of(own=own, torchio=None)})
    image, labels = smooth_case((16, 16, 16))
    made, _ = alone.apply(image, labels, alone.sample(np.random.default_rng(0)))
    np.testing.assert_array_equal(made, -image)
    listed = build({"own": own})
    made, _ = listed.apply(image, labels, listed.sample(np.random.default_rng(0)))
    np.testing.assert_array_equal(made, -image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "gpu"}, "device"),
        ({"dumy_2d": True}, "Did you mean dummy_2d"),
        ({"extra": {"_target_": "segplan.augmentation.Blurr"}}, "nothing can be imported"),
        (
            {"extra": {"_target_": "segplan.augmentation.Gamma", "gama": [0.7, 1.5]}},
            "Known keys: probability, gamma, invert",
        ),
        ({"extra": {"_target_": "segplan.augmentation.Spatial"}}, "come first"),
        ({"extra": {"_target_": "torch.nn.ReLU"}}, "neither"),
        ({"extra": 3}, "no transform"),
        ({"extra": {"_target_": "torchio.RandomNoise", "std": "much"}}, "extra"),
        ({"extra": {"_target_": "segplan.augmentation.OneOf"}}, "nothing to choose from"),
        ({"extra": one_of(a={"_target_": "segplan.augmentation.Spatial"})}, "Spatial cannot be one of several"),
        ({"extra": one_of(a={"_target_": "segplan.augmentation.Mirror"})}, r"extra\.transforms\.a"),
        ({"extra": one_of(a={"std": 1})}, "extra.transforms.a: dict is neither"),
        ({"extra": one_of(a=None)}, "nothing to choose from"),
        ({"extra": {"_target_": "builtins.dict"}}, "extra"),
        ({"extra": {"_target_": "segplan.augmentation.Box3", "lower": [0], "size": [1]}}, "Box3 is neither"),
        # Hydra hands these words on as strings, which Python takes for true.
        ({"extra": {"_target_": "segplan.augmentation.Gamma", "invert": "no"}}, r"extra\.invert.*true or false"),
        ({"dummy_2d": "off"}, r"dummy_2d.*true or false"),
        ({"extra": {"_target_": "segplan.augmentation.MedianFilter", "size": [2.5, 7]}}, "not whole"),
        ({"extra": {"_target_": "segplan.augmentation.BiasField", "order": 1.5}}, "not whole"),
    ],
)
def test_unusable_node_is_refused_with_its_name(default, change, message):
    with pytest.raises(ConfigError, match=message):
        build({**OmegaConf.to_container(default), **change})


def test_dummy_2d_of_a_2d_patch_is_refused():
    with pytest.raises(ConfigError, match="dummy_2d"):
        build({"dummy_2d": True}, (16, 16))


def test_mirroring_an_axis_that_the_patch_lacks_is_refused_when_built():
    with pytest.raises(ConfigError, match="no axis 2"):
        build({"mirror": {"_target_": "segplan.augmentation.Mirror", "axes": [0, 2]}}, (16, 16))
    assert isinstance(build({"mirror": {"_target_": "segplan.augmentation.Mirror", "axes": [0]}}, (16, 16)), Pipeline)
    assert Mirror(axes=(1, 0)).resolved_axes(3) == (0, 1)
