from pathlib import Path

import numpy as np
import pytest
import torch

from segplan.errors import ConfigError
from segplan.training import DeepSupervisionLoss, DiceBCELoss, DiceCELoss, deep_supervision_weights, downsample_labels

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
