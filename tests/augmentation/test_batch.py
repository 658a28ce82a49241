import numpy as np
import pytest
import torch
from groups import group
from scipy import stats
from smooth_case import smooth_case

from segplan.augmentation import Box3, Gamma, Pipeline, Spatial, build_pipeline
from segplan.augmentation.batch import warp_tensors
from segplan.augmentation.spatial import SpatialParams
from segplan.augmentation.transform import Context

SHAPES = [((16, 18, 20), False, (30, 36, 32)), ((4, 24, 20), True, (9, 36, 32)), ((24, 20), False, (1, 36, 32))]


def both_ways(pipeline, image, labels, draws):
    """Each sample by `apply`, and all of them as one batch."""
    box = Box3((2, -3, 4) if image.shape[1] > 1 else (0, -3, 4), pipeline.initial_patch_size)
    alone = [pipeline.apply(image, labels, params, box) for params in draws]
    read = [pipeline.read(image, labels, params, box) for params in draws]
    voxels, voxel_labels = (torch.stack([sample[i] for sample in read]) for i in (0, 1))
    images, batch_labels = pipeline.apply_batch(voxels, voxel_labels, [sample[2] for sample in read])
    return alone, images, batch_labels


@pytest.mark.parametrize("name", ["default", "strong"])
@pytest.mark.parametrize(("patch", "dummy_2d", "case"), SHAPES, ids=["3d", "dummy_2d", "2d"])
def test_batched_transforms_give_what_each_sample_alone_gets(name, patch, dummy_2d, case):
    pipeline = build_pipeline(group(name) | {"dummy_2d": dummy_2d}, patch, (True, False))
    image, labels = smooth_case(case, channels=2)
    rng = np.random.default_rng(4)
    draws = [pipeline.sample(rng) for _ in range(40)]
    alone, images, batch_labels = both_ways(pipeline, image, labels, draws)
    assert images.shape == (40, 2, *patch)
    for (patch_image, patch_labels), batched, own_labels, params in zip(
        alone, images, batch_labels, draws, strict=True
    ):
        # The median filter of the CPU counts in 4096 steps of the range; sharpening and gamma may magnify one.
        tolerance = 3e-2 if getattr(params.get("median_or_blur"), "name", "") == "median" else 2e-4
        torch.testing.assert_close(batched, patch_image, atol=tolerance, rtol=tolerance)
        assert (own_labels != patch_labels).float().mean() < 1e-3  # ties of the vote alone


def test_warp_on_tensors_votes_the_labels_of_the_compiled_warp():
    pipeline = Pipeline(Context(2, (20, 20, 20)), Spatial())
    image, labels = smooth_case((26, 30, 28), channels=2)
    labels = np.concatenate([labels, labels[:, ::-1]])
    draws = [{"spatial": SpatialParams((0.3, -0.2, 0.4), (1.1, 0.8, 1.2))}, {"spatial": SpatialParams((0.7,), 1.25)}]
    alone, images, batch_labels = both_ways(pipeline, image, labels, draws)
    for n, (patch, patch_labels) in enumerate(alone):
        torch.testing.assert_close(images[n], patch, atol=2e-5, rtol=0)
        assert torch.equal(batch_labels[n], patch_labels)


def test_warp_on_tensors_leaves_the_vote_to_annotated_voxels_too():
    pipeline = Pipeline(Context(1, (20, 20, 20), ignore_label=9), Spatial())
    image, labels = smooth_case((26, 30, 28))
    labels = np.where(np.random.default_rng(0).random(labels.shape) < 0.6, 9, labels).astype(np.int16)
    draws = [{"spatial": SpatialParams((0.3, -0.2, 0.4), (1.1, 0.8, 1.2))}, {"spatial": SpatialParams((0.7,), 1.25)}]
    alone, _, batch_labels = both_ways(pipeline, image, labels, draws)
    by_votes = Pipeline(pipeline.context, Spatial(unannotated="votes"))
    for n, (_, patch_labels) in enumerate(alone):
        assert (batch_labels[n] != patch_labels).float().mean() < 1e-3  # ties alone
        voted = by_votes.apply(image, labels, draws[n], Box3((2, -3, 4), pipeline.initial_patch_size))[1]
        assert (voted != patch_labels).float().mean() > 0.02


def vote(corners, fraction):
    labels = torch.tensor(corners, dtype=torch.int16).view(1, 2, 2, 2)
    out = torch.empty(1, 1, 1, 1), torch.empty(1, 1, 1, 1, dtype=torch.int16)
    warp_tensors(torch.zeros(1, 2, 2, 2), labels, np.eye(3), np.full(3, fraction), out)
    return int(out[1])


def test_tied_labels_on_tensors_follow_the_compiled_warps_rules():
    assert vote([9, 7, 7, 7, 8, 8, 8, 8], 0.4) == 8
    assert vote([3, 1, 3, 1, 3, 1, 3, 1], 0.5) == 3
    assert vote([9, 10, 6, 7, 7, 6, 11, 12], 0.4) == 6


def test_box_too_large_for_its_place_is_warped_where_it_is_read():
    pipeline = Pipeline(Context(1, (10, 10, 10)), Spatial())
    image, labels = smooth_case((40, 40, 40))
    small, large = SpatialParams((0.1, 0.0, 0.0), 1.1), SpatialParams((0.5, 0.5, 0.5), 1.4)
    sources = [pipeline.read(image, labels, {"spatial": params})[2] for params in (small, large)]
    assert sources[0].warp is not None
    assert sources[0].size != (10, 10, 10)
    assert sources[1].warp is None
    assert sources[1].size == (10, 10, 10)
    alone, images, _ = both_ways(pipeline, image, labels, [{"spatial": small}, {"spatial": large}])
    for (patch, _), batched in zip(alone, images, strict=True):
        torch.testing.assert_close(batched, patch, atol=2e-5, rtol=0)


def test_statistics_of_batched_patches_are_those_of_patches_one_by_one():
    pipeline = build_pipeline(group("default"), (12, 12, 12), (False,))
    image, labels = smooth_case((24, 24, 24))
    draw = lambda seed: [pipeline.sample(rng) for rng in [np.random.default_rng(seed)] for _ in range(300)]  # noqa: E731
    alone, _, _ = both_ways(pipeline, image, labels, draw(1))
    _, images, _ = both_ways(pipeline, image, labels, draw(2))
    for statistic in (torch.std, torch.amax, lambda patch: (patch[:, 1:] - patch[:, :-1]).abs().mean()):
        one = [float(statistic(patch)) for patch, _ in alone]
        other = [float(statistic(patch)) for patch in images]
        assert stats.ks_2samp(one, other).pvalue > 0.01


def test_transform_that_acts_on_some_samples_leaves_the_others_alone():
    pipeline = Pipeline(Context(1, (8, 8, 8)), None, (("gamma", Gamma()),))
    image, labels = smooth_case((8, 8, 8))
    params = Gamma(probability=1).sample(np.random.default_rng(0), pipeline.context)
    alone, images, _ = both_ways(pipeline, image, labels, [{}, {"gamma": params}, {}])
    untouched = torch.from_numpy(image)[:, 2:]  # the box begins at 2
    assert torch.equal(images[0], alone[0][0])
    assert torch.equal(images[0], images[2])
    torch.testing.assert_close(images[0][:, :6, 3:, :4], untouched[:, :, :5, 4:])
    assert not torch.equal(images[1], images[0])
