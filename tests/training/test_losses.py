from pathlib import Path

import numpy as np
import pytest
import torch

from segplan.errors import ConfigError
from segplan.training import (
    DeepSupervisionLoss,
    DiceBCELoss,
    DiceCELoss,
    DiceFocalLoss,
    DiceTopKLoss,
    TverskyCELoss,
    deep_supervision_weights,
    downsample_labels,
)

FIXTURE = Path(__file__).parents[1] / "data" / "losses" / "losses.pt"
# Any combination of the fixture's four regions is written as one label, its bits; 16 is the ignore label.
REGIONS = [[label for label in range(16) if label >> bit & 1] for bit in range(4)]


@pytest.fixture(scope="module")
def fixture():
    return torch.load(FIXTURE, weights_only=True)


def weighted(loss, logits, targets):
    weights = deep_supervision_weights(len(logits))
    return sum(w * loss(z, y).item() for w, z, y in zip(weights, logits, targets, strict=True) if w > 0)


def as_bits(regions, ignore=False):
    bits = sum(regions[:, bit].long() << bit for bit in range(4))
    return torch.where(regions[:, 4], 16, bits) if ignore else bits


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("ignore", [False, True])
def test_labels_agree_with_nnunet(fixture, batch_dice, ignore):
    targets = fixture["labels_ignore4" if ignore else "labels"]
    loss = DiceCELoss(batch_dice=batch_dice, ignore_label=4 if ignore else None)
    expected = fixture["expected"][f"ce_bd{batch_dice}{'_ign' if ignore else ''}"]
    assert weighted(loss, fixture["logits"], [target[:, 0] for target in targets]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("ignore", [False, True])
def test_regions_agree_with_nnunet(fixture, batch_dice, ignore):
    regions = fixture["regions_ignore_last" if ignore else "regions"]
    loss = DiceBCELoss(REGIONS, batch_dice=batch_dice, ignore_label=16 if ignore else None)
    expected = fixture["expected"][f"bce_bd{batch_dice}{'_ign' if ignore else ''}"]
    targets = [as_bits(region, ignore) for region in regions]
    assert weighted(loss, fixture["logits"], targets) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("loss", [DiceCELoss(ignore_label=3), DiceBCELoss([[1, 2], [2]], ignore_label=3)])
def test_ignored_voxels_have_no_gradient(loss):
    torch.manual_seed(0)
    channels = 3 if isinstance(loss, DiceCELoss) else 2
    logits, labels = torch.randn(2, channels, 6, 6, requires_grad=True), torch.randint(0, 4, (2, 6, 6))
    loss(logits, labels).backward()
    ignored = (labels == 3)[:, None].expand_as(logits)
    assert ignored.any()
    assert not logits.grad[ignored].any()
    assert logits.grad[~ignored].abs().min() > 0


@pytest.mark.parametrize("loss", [DiceCELoss(ignore_label=3), DiceBCELoss([[1, 2], [2], [1]], ignore_label=3)])
def test_a_batch_without_a_valid_voxel_gives_a_finite_loss_and_no_gradient(loss):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    value = loss(logits, torch.full((1, 4, 4), 3))
    value.backward()
    assert torch.isfinite(value)
    assert not logits.grad.any()


def test_an_empty_ignore_mask_changes_nothing_when_averaged_over_regions():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 2, 6, 6), torch.randint(0, 3, (2, 6, 6))
    plain = DiceBCELoss([[1, 2], [2]])(logits, labels)
    masked = DiceBCELoss([[1, 2], [2]], ignore_label=3, mean_over_regions=True)(logits, labels)
    assert torch.allclose(plain, masked)


def test_the_loss_is_computed_in_float32_under_autocast():
    logits, labels = torch.randn(1, 3, 8, 8).bfloat16(), torch.randint(0, 3, (1, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = DiceCELoss()(logits, labels)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, DiceCELoss()(logits.float(), labels))


@pytest.mark.parametrize(
    ("resolutions", "expected"),
    [(1, (1,)), (2, (1, 0)), (3, (2 / 3, 1 / 3, 0)), (5, (8 / 15, 4 / 15, 2 / 15, 1 / 15, 0))],
)
def test_deep_supervision_weights_follow_the_rule(resolutions, expected):
    assert deep_supervision_weights(resolutions) == pytest.approx(expected)


def test_deep_supervision_sums_the_weighted_losses_of_downsampled_labels():
    torch.manual_seed(0)
    logits = [torch.randn(2, 3, size, size) for size in (8, 4, 2)]
    labels = torch.randint(0, 3, (2, 8, 8), dtype=torch.int16)
    loss = DiceCELoss()
    expected = 2 / 3 * loss(logits[0], labels) + 1 / 3 * loss(logits[1], labels[:, 1::2, 1::2])
    assert torch.allclose(DeepSupervisionLoss(loss)(logits, labels), expected)
    assert torch.allclose(DeepSupervisionLoss(loss)(logits[0], labels), loss(logits[0], labels))


@pytest.mark.parametrize("size", [(4, 4, 6), (9, 3, 5)])
def test_labels_are_downsampled_at_voxel_centres(size):
    labels = torch.randint(0, 300, (1, 9, 8, 12), dtype=torch.int16)
    index = [np.floor((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(size, labels.shape[1:], strict=True)]
    expected = labels.numpy()[np.ix_([0], *index)]
    result = downsample_labels(labels, size)
    assert result.dtype == labels.dtype
    assert np.array_equal(result.numpy(), expected)


def test_regions_are_needed_for_the_region_loss():
    with pytest.raises(ConfigError, match="dice_ce"):
        DiceBCELoss([])


def random_case(ignore=None):
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 4 if ignore is None else ignore + 1, (2, 6, 5, 4), generator=generator)
    return torch.randn(2, 4, 6, 5, 4, generator=generator), labels


def test_tversky_with_equal_weights_is_dice():
    logits, labels = random_case()
    tversky = TverskyCELoss(smooth=5e-6, alpha=0.5, beta=0.5)(logits, labels)
    assert tversky.item() == pytest.approx(DiceCELoss(smooth=1e-5)(logits, labels).item(), abs=1e-6)


def test_tversky_counts_a_miss_by_beta_and_a_false_alarm_by_alpha():
    labels = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0]])
    missed_one = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0]])
    one_too_many = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])
    loss = TverskyCELoss(ce_weight=0, smooth=0, alpha=0.2, beta=0.8)

    def sure_of(segmentation):
        return torch.stack([1 - segmentation, segmentation], dim=1).float() * 200 - 100

    assert loss(sure_of(missed_one), labels).item() == pytest.approx(-3 / (3 + 0.8))
    assert loss(sure_of(one_too_many), labels).item() == pytest.approx(-4 / (4 + 0.2))


def test_focal_loss_weighs_each_voxel_by_how_wrong_it_is():
    logits, labels = random_case()
    probability = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    expected = ((1 - probability) ** 2 * -probability.log()).mean().item()
    assert DiceFocalLoss(dice_weight=0)(logits, labels).item() == pytest.approx(expected, rel=1e-5)
    plain = DiceFocalLoss(gamma=0)(logits, labels)
    assert plain.item() == pytest.approx(DiceCELoss()(logits, labels).item(), abs=1e-6)


def test_top_k_averages_the_hardest_voxels():
    logits, labels = random_case()
    per_voxel = torch.nn.functional.cross_entropy(logits, labels, reduction="none").flatten()
    hardest = per_voxel.sort(descending=True).values[: len(per_voxel) // 10].mean()
    assert DiceTopKLoss(dice_weight=0)(logits, labels).item() == pytest.approx(hardest.item(), rel=1e-6)
    everything = DiceTopKLoss(top_k_percent=100)(logits, labels)
    assert everything.item() == pytest.approx(DiceCELoss()(logits, labels).item(), abs=1e-6)


def test_class_weights_make_a_weighted_mean():
    logits, labels = random_case()
    weights = torch.tensor([0.1, 1.0, 2.0, 3.0])
    expected = torch.nn.functional.cross_entropy(logits, labels, weight=weights)
    loss = DiceCELoss(dice_weight=0, class_weights=weights.tolist())
    assert loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    ignored = torch.where(labels == 3, 4, labels)
    without = torch.nn.functional.cross_entropy(logits, ignored, weight=weights, ignore_index=4)
    loss = DiceCELoss(dice_weight=0, class_weights=weights.tolist(), ignore_label=4)
    assert loss(logits, ignored).item() == pytest.approx(without.item(), rel=1e-6)


def test_a_batch_of_classes_that_weigh_nothing_gives_a_cross_entropy_of_zero():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = DiceCELoss(dice_weight=0, class_weights=[0, 1, 1])(logits, torch.zeros(1, 4, 4))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_has_a_finite_gradient_where_the_network_is_certain(gamma):
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 0] = 200
    logits.requires_grad_()
    DiceFocalLoss(gamma=gamma)(logits, torch.zeros(1, 4, 4)).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", [DiceCELoss, DiceTopKLoss, DiceFocalLoss, TverskyCELoss])
def test_what_stands_in_ignored_voxels_changes_neither_loss_nor_gradient(kind):
    logits, labels = random_case(ignore=4)
    other = torch.where((labels == 4)[:, None], torch.randn_like(logits), logits)
    results = []
    for values in (logits, other):
        leaf = values.clone().requires_grad_()
        loss = kind(ignore_label=4)(leaf, labels)
        loss.backward()
        results.append((loss.item(), leaf.grad))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (DiceTopKLoss, {"top_k_percent": 0}),
        (DiceFocalLoss, {"gamma": -1}),
        (TverskyCELoss, {"alpha": -0.1}),
        (DiceCELoss, {"class_weights": [0, 0]}),
        (DiceCELoss, {"class_weights": ["a", 1]}),
        (DiceCELoss, {"class_weights": [float("inf"), 1]}),
    ],
)
def test_values_that_make_no_loss_are_refused(kind, arguments):
    with pytest.raises(ConfigError, match="loss"):
        kind(**arguments)
