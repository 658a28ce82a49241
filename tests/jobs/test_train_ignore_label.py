"""What an annotator did not mark must not matter to a whole training."""

import pytest
import tiny_run
import torch
from numpy.random import default_rng

from segplan.jobs.prepare import fold_folder
from segplan.jobs.train_fold import run
from segplan.training import load_checkpoint
from segplan.training.losses import compound

IGNORE = 3
SHORT = ("trainer.max_epochs=2", "trainer.limit_train_batches=4", "trainer.precision=32", "data.patch_size=[8,8,8]")


@pytest.fixture
def sparsely_annotated(monkeypatch):
    """The tiny dataset, with four fifths of each label map hidden behind the ignore label."""
    rng, preprocess = default_rng(0), tiny_run.preprocess

    def hiding(image, label_map, plan):
        label_map[rng.random(label_map.shape) < 0.8] = IGNORE
        return preprocess(image, label_map, plan)

    monkeypatch.setattr(tiny_run, "preprocess", hiding)
    monkeypatch.setattr(tiny_run, "LABELS", tiny_run.LABELS | {"ignore": IGNORE})


def weights_of(config):
    return load_checkpoint(fold_folder(config) / "checkpoints" / "final.ckpt")["state_dict"]


def noise_where(hidden, labels):
    return torch.where(hidden, torch.randint(0, 3, labels.shape, dtype=labels.dtype), labels)


def test_noise_in_the_place_of_hidden_labels_changes_no_bit_of_a_weight(tmp_path, monkeypatch, sparsely_annotated):
    plain, noisy, seen = (tiny_run.make_run(tmp_path, f"run={name}", *SHORT) for name in ("plain", "noisy", "seen"))
    assert run(plain) == 0
    prepared, changed = compound._prepared, []

    def with_noise(logits, labels, ignore_label):
        logits, own, mask = prepared(logits, labels, ignore_label)
        labels = noise_where(~mask, own)
        changed.append(int((labels != own).sum()))
        return logits, labels, mask

    monkeypatch.setattr(compound, "_prepared", with_noise)
    assert run(noisy) == 0
    assert min(changed) > 0
    for key, value in weights_of(plain).items():
        assert torch.equal(weights_of(noisy)[key], value), key

    def unmasked(logits, labels, ignore_label):
        return *with_noise(logits, labels, ignore_label)[:2], None

    monkeypatch.setattr(compound, "_prepared", unmasked)  # the noise is such that it would matter
    assert run(seen) == 0
    assert any(not torch.equal(weights_of(seen)[key], value) for key, value in weights_of(plain).items())
