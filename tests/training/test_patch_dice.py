import numpy as np
import torch
from sklearn.metrics import f1_score

from segplan.training import PatchDice


def test_dice_of_labels_equals_the_f1_score_over_all_batches():
    torch.manual_seed(0)
    metric = PatchDice({"a": (1,), "b": (2,)}, regions=False)
    batches = [(torch.randn(2, 3, 5, 6), torch.randint(0, 3, (2, 5, 6), dtype=torch.int16)) for _ in range(3)]
    for logits, labels in batches:
        metric.update(logits, labels)
    predicted = np.concatenate([logits.argmax(1).flatten().numpy() for logits, _ in batches])
    reference = np.concatenate([labels.flatten().numpy() for _, labels in batches])
    assert np.allclose(metric.compute(), f1_score(reference, predicted, labels=[1, 2], average=None))


def test_dice_of_regions_thresholds_each_head_and_skips_ignored_voxels():
    torch.manual_seed(0)
    metric = PatchDice({"whole": (1, 2), "core": (2,)}, regions=True, ignore_label=3)
    logits, labels = torch.randn(2, 2, 5, 6), torch.randint(0, 4, (2, 5, 6))
    metric.update(logits, labels)
    valid = labels.numpy() != 3
    for head, members in enumerate([(1, 2), (2,)]):
        expected = f1_score(np.isin(labels.numpy(), members)[valid], logits[:, head].numpy()[valid] > 0)
        assert np.isclose(metric.compute()[head], expected)


def test_a_target_that_never_occurs_has_no_dice():
    metric = PatchDice({"a": (1,), "b": (2,)}, regions=False)
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 1] = 1
    metric.update(logits, torch.ones(1, 2, 2, dtype=torch.int64))
    assert metric.compute()[0] == 1
    assert metric.compute()[1].isnan()
