import collections
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy.stats import chisquare
from small_store import LABELS, write_store

from segplan.augmentation import plain_pipeline
from segplan.dataset import Split
from segplan.errors import ConfigError
from segplan.patches import (
    CaseChoice,
    Oversampling,
    PatchDataModule,
    PatchDataset,
    cases_of_classes,
    jitter_reach,
    place_box,
    weights_of,
)
from segplan.preprocessing import ANNOTATED

CASES = ("a", "b", "c", "d")
CONFIG = Path(__file__).parents[2] / "configs" / "data" / "default.yaml"


def counts(draws):
    found = collections.Counter(draws)
    return [found[case] for case in CASES]


def fits(observed, shares):
    """Whether counts follow the shares; chance alone refuses one true case in a thousand, and the seed is fixed."""
    expected = np.array(shares) / sum(shares) * sum(observed)
    nonzero = expected > 0
    assert not np.array(observed)[~nonzero].any()
    return nonzero.sum() == 1 or chisquare(np.array(observed)[nonzero], expected[nonzero]).pvalue > 1e-3


def test_cases_are_drawn_uniformly_and_by_weight():
    rng = np.random.default_rng(0)
    assert fits(counts(CaseChoice(CASES).draw(rng) for _ in range(4000)), [1, 1, 1, 1])
    for weights in ((1, 2, 0, 5), (0, 0, 3, 0), (1, 1, 1, 0)):
        weighted = CaseChoice(CASES, tuple(map(float, weights)))
        assert fits(counts(weighted.draw(rng) for _ in range(4000)), weights)


def test_a_class_is_drawn_first_and_then_a_case_that_has_it():
    rng = np.random.default_rng(0)
    choice = CaseChoice(CASES, None, {"1": (0, 1, 2), "2": (3,), "3": ()})
    draws = [choice.draw_for_class(rng) for _ in range(4000)]
    keys = collections.Counter(key for key, _ in draws)
    assert fits([keys["1"], keys["2"]], [1, 1])
    assert fits(counts(case for _, case in draws), [1 / 3, 1 / 3, 1 / 3, 1])


def test_weights_act_among_the_cases_of_a_class():
    rng = np.random.default_rng(0)
    choice = CaseChoice(CASES, (1.0, 3.0, 0.0, 0.0), {"1": (0, 1, 2), "2": (3,)})
    draws = [choice.draw_for_class(rng) for _ in range(2000)]
    assert {key for key, _ in draws} == {"1"}
    assert fits(counts(case for _, case in draws), [1, 3, 0, 0])
    assert CaseChoice(CASES).draw_for_class(rng) is None


def test_cases_of_a_class_are_those_with_voxels_of_it():
    ranges = [{"1": (0, 5), "2": (5, 5), ANNOTATED: (5, 9)}, {"1": (0, 1), "2": (1, 2), ANNOTATED: (2, 3)}]
    assert cases_of_classes(ranges, ANNOTATED) == {"1": (0, 1), "2": (1,)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("weights.json", json.dumps({"a": 2, "c": 0.5})),
        ("weights.csv", "case,weight\na,2\nc,0.5\n"),
        ("weights.csv", "a, 2\n\nc,5e-1"),
    ],
)
def test_weights_come_from_a_mapping_or_a_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert weights_of(str(tmp_path / name), CASES, CASES) == (2, 1, 0.5, 1)
    assert weights_of({"a": 2, "c": 0.5, "elsewhere": 3}, CASES, (*CASES, "elsewhere")) == (2, 1, 0.5, 1)
    assert weights_of(None, CASES, CASES) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": 1, "a": 1}, "1 of the named cases do not exist, x among them"),
        ({"a": -1}, "case a has the weight -1"),
        ({"a": float("nan")}, "case a has the weight nan"),
        ({"a": "much"}, "case a has the weight 'much'"),
        ({"a": True}, "case a has the weight True"),
        (dict.fromkeys(CASES, 0), "every training case has weight 0"),
        ([1, 2], "gives no weights"),
        ("no/such/file.csv", "cannot be read"),
    ],
)
def test_weights_that_cannot_work_are_refused(given, message):
    with pytest.raises(ConfigError, match=message) as caught:
        weights_of(given, CASES, CASES)
    assert caught.value.where == "data.case_weights"


@pytest.mark.parametrize(("name", "text"), [("w.csv", "a,1,2\n"), ("w.json", "{"), ("w.json", "[1]")])
def test_files_of_weights_that_are_none_are_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="w\\."):
        weights_of(str(tmp_path / name), CASES, CASES)


@pytest.mark.parametrize(
    ("patch", "jitter", "reach"),
    [
        ((16, 20, 10), 0.0, (0, 0, 0)),
        ((16, 20, 10), 0.25, (4, 5, 2)),
        ((16, 20, 10), 3, (3, 3, 3)),
        ((16, 20, 10), 0.9, (7, 9, 4)),
        ((16, 20, 10), 500.0, (7, 9, 4)),
        ((1, 20, 11), 0.5, (0, 9, 5)),
    ],
)
def test_jitter_reaches_as_far_as_asked_but_keeps_the_voxel(patch, jitter, reach):
    assert jitter_reach(patch, jitter) == reach


def test_jitter_moves_forced_patches_uniformly_and_no_others():
    rng = np.random.default_rng(0)
    at = {"1": np.array([[50, 50, 50]]), ANNOTATED: np.array([[50, 50, 50]])}
    size = {"shape": (100,) * 3, "box_size": (20,) * 3, "patch_size": (12,) * 3, "locations": at}
    corners = np.array([place_box(rng, **size, is_forced=True, jitter=0.25).lower for _ in range(2800)])
    for axis in range(3):
        values, found = np.unique(corners[:, axis], return_counts=True)
        assert values.tolist() == list(range(37, 44))
        assert chisquare(found).pvalue > 1e-3
    assert np.abs(np.corrcoef(corners.T) - np.eye(3)).max() < 0.1
    free = [place_box(rng, **size, is_forced=False, jitter=0.25).lower for _ in range(20)]
    assert set(free) == {(40, 40, 40)}


def test_a_forced_patch_is_centred_on_the_class_that_was_drawn():
    rng = np.random.default_rng(0)
    at = {"1": np.full((99, 3), 30), "2": np.array([[60, 60, 60]])}
    size = {"shape": (100,) * 3, "box_size": (20,) * 3, "patch_size": (12,) * 3, "locations": at}
    assert {place_box(rng, **size, is_forced=True, key="2").lower for _ in range(20)} == {(50, 50, 50)}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"), [(20, 22, 18), (12, 14, 16), (18, 18, 18), (16, 16, 16)])


def module(store, **changes):
    settings = {
        "patch_size": (8, 8, 8),
        "batch_size": 3,
        "augmentation": {},
        "use_mask_for_norm": (False, False),
        "batches_per_epoch": 4,
        "val_batches": 2,
        "num_workers": 0,
    }
    split = Split(("case0", "case1", "case2"), ("case3",))
    return PatchDataModule(store.folder, split, LABELS, **(settings | changes))


def test_options_are_off_by_default_and_leave_the_samples_as_they_are(store):
    plain = PatchDataset(
        store, ["case0", "case1", "case2"], pipeline=plain_pipeline((8, 8, 8), 2), oversampling=Oversampling(3), seed=0
    )
    assert [plain.draw(i) for i in range(30)] == [module(store).train_dataset().draw(i) for i in range(30)]


def test_the_datamodule_passes_the_options_on(store):
    options = {"class_balance": True, "case_weights": {"case0": 0, "case3": 7}, "foreground_jitter": 2}
    dataset = module(store, **options).train_dataset()
    draws = [dataset.draw(index) for index in range(60)]
    assert {draw.case for draw in draws} == {"case1", "case2"}
    assert dataset.choice.classes == {"1": (0, 1, 2), "2": (0, 1, 2)}
    assert all(dataset.case_of(index) == draw.case for index, draw in enumerate(draws))
    again = module(store, **options).train_dataset()
    assert [again.draw(index) for index in reversed(range(60))] == draws[::-1]
    jittered = {module(store, foreground_jitter=2).train_dataset().draw(2).box for _ in range(2)}
    assert jittered != {module(store).train_dataset().draw(2).box}
    assert len(jittered) == 1


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"case_weights": {"case9": 1}}, "data.case_weights"),
        ({"foreground_jitter": -1}, "data.foreground_jitter"),
        ({"foreground_jitter": "far"}, "data.foreground_jitter"),
        ({"class_balance": "yes"}, "data.class_balance"),
        ({"start_method": "teleport"}, "data.start_method"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(store, change, where):
    with pytest.raises(ConfigError) as caught:
        module(store, **change)
    assert caught.value.where == where


def test_shipped_values_equal_the_signatures_defaults():
    shipped = OmegaConf.to_container(OmegaConf.load(CONFIG))
    parameters = inspect.signature(PatchDataModule).parameters
    defaults = {key: parameters[key].default for key in shipped if key not in ("patch_size", "batch_size")}
    assert {key: shipped[key] for key in defaults} == defaults
    set_by_job = {"store_folder", "split", "labels", "augmentation", "use_mask_for_norm", "seed"}
    assert set(parameters) - set(shipped) == set_by_job | {"batches_per_epoch", "val_batches", "previous"}
