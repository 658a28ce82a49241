import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from small_store import write_store

from segplan.augmentation import build_pipeline, plain_pipeline
from segplan.errors import DatasetError
from segplan.patches import Oversampling, PatchDataset
from segplan.patches.dataset import TRAINING, VALIDATION, sample_generator

DEFAULT = OmegaConf.load(Path(__file__).parents[2] / "configs" / "augmentation" / "default.yaml")


@pytest.fixture
def store(tmp_path):
    return write_store(tmp_path, [(24, 26, 28), (10, 12, 9), (30, 20, 22)])


def dataset(store, pipeline, seed=0, stream=TRAINING, batch_size=2):
    rule = Oversampling(batch_size)
    return PatchDataset(store, store.identifiers(), pipeline=pipeline, oversampling=rule, seed=seed, stream=stream)


def same(first, second):
    return first["case"] == second["case"] and all(torch.equal(first[key], second[key]) for key in ("image", "labels"))


def test_sample_depends_on_seed_stream_and_index_alone(store):
    pipeline = build_pipeline(DEFAULT, (16, 16, 16), (False, True))
    forward = dataset(store, pipeline)
    samples = [forward[i] for i in range(12)]
    backward = pickle.loads(pickle.dumps(dataset(store, pipeline)))
    assert all(same(backward[i], samples[i]) for i in reversed(range(12)))
    assert not any(same(dataset(store, pipeline, seed=1)[i], samples[i]) for i in range(12))
    assert not any(same(dataset(store, pipeline, stream=VALIDATION)[i], samples[i]) for i in range(12))
    assert {sample["case"] for sample in samples} == {"case0", "case1", "case2"}


def test_opened_cases_are_not_carried_into_workers(store):
    opened = dataset(store, plain_pipeline((8, 8, 8), 2))
    opened[0]
    assert opened._opened
    assert not pickle.loads(pickle.dumps(opened))._opened


@pytest.mark.parametrize(("patch", "dummy_2d"), [((16, 16, 16), False), ((4, 20, 18), True), ((20, 18), False)])
def test_samples_have_the_patchs_shape_and_no_label_minus_one(store, patch, dummy_2d):
    pipeline = build_pipeline({**DEFAULT, "dummy_2d": dummy_2d}, patch, (False, False))
    patches = dataset(store, pipeline)
    for index in range(20):
        sample = patches[index]
        assert sample["image"].shape == (2, *patch)
        assert sample["image"].dtype == torch.float32
        assert sample["labels"].shape == patch
        assert sample["labels"].dtype == torch.int16
        assert sample["labels"].min() >= 0
        assert sample["labels"].max() <= 2


def test_validation_patches_are_cut_out_of_the_case_as_they_lie(store):
    patches = dataset(store, plain_pipeline((8, 8, 8), 2), stream=VALIDATION)
    for index in range(10):
        sample = patches[index]
        image = store.open(sample["case"]).image
        patch = sample["image"].numpy()
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(image[0], 8), (8, 8, 8))
        candidates = np.argwhere(windows[..., 4, 4, 4] == patch[0, 4, 4, 4])
        assert any(np.array_equal(windows[tuple(corner)], patch[0]) for corner in candidates)


def test_forced_samples_show_a_class_and_one_in_two_the_rare_one(store):
    patches = dataset(store, plain_pipeline((6, 6, 6), 2))
    forced = [patches[index]["labels"] for index in range(1, 120, 2)]
    assert all((labels > 0).any() for labels in forced)
    assert np.mean([(labels == 2).any().item() for labels in forced]) > 0.4
    free = [patches[index]["labels"] for index in range(0, 120, 2)]
    assert np.mean([(labels == 2).any().item() for labels in free]) < 0.4


def test_sample_streams_of_neighbouring_indices_and_seeds_are_unrelated():
    draws = [sample_generator(seed, stream, i).random(500) for seed in (0, 1) for stream in (0, 1) for i in (0, 1, 2)]
    correlation = np.corrcoef(draws)
    assert np.abs(correlation - np.eye(len(draws))).max() < 0.2
    np.testing.assert_array_equal(sample_generator(3, 1, 2**40).random(4), sample_generator(3, 1, 2**40).random(4))


def test_no_cases_to_draw_from_is_said_at_once(store):
    with pytest.raises(DatasetError, match="no validation cases"):
        PatchDataset(
            store, [], pipeline=plain_pipeline((8, 8, 8), 2), oversampling=Oversampling(2), seed=0, stream=VALIDATION
        )
