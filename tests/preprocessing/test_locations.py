import math

import numpy as np
import pytest

from segplan.dataset import Labels
from segplan.preprocessing import foreground_locations, locations

PLAIN = Labels.from_json({"labels": {"background": 0, "a": 1, "b": 2, "c": 3}})
REGIONS = Labels.from_json(
    {"labels": {"background": 0, "whole": [1, 2, 3], "core": [3, 1], "c": 3}, "regions_class_order": [2, 1, 3]}
)
IGNORE = Labels.from_json({"labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}})


def plain_rule(labels, keys):
    """The rule word by word: one list of coordinates a label, one draw a key from one stream."""
    random, result = np.random.RandomState(1234), {}
    for name, values in keys.items():
        candidates = np.concatenate([np.argwhere(labels == value) for value in values])
        number = max(min(10_000, len(candidates)), math.ceil(0.01 * len(candidates)))
        picked = random.choice(len(candidates), number, replace=False) if len(candidates) else []
        result[name] = candidates[np.asarray(picked, dtype=int)]
    return result


def label_map(shape=(20, 21, 22), low=-1, high=4):
    return np.random.default_rng(3).integers(low, high, shape).astype(np.int16)


@pytest.mark.parametrize(
    ("definition", "keys"),
    [
        (PLAIN, {"1": (1,), "2": (2,), "3": (3,)}),
        (REGIONS, {"(1, 2, 3)": (1, 2, 3), "(3, 1)": (3, 1), "3": (3,)}),
        (IGNORE, {"1": (1,), "2": (2,), "annotated": (-1, 0, 1, 2)}),
    ],
)
@pytest.mark.parametrize("chunk", [1 << 22, 1000])
def test_locations_follow_the_rule_whatever_the_chunks(monkeypatch, definition, keys, chunk):
    monkeypatch.setattr(locations, "_CHUNK", chunk)
    labels = label_map()
    ours, expected = foreground_locations(labels, definition), plain_rule(labels, keys)
    assert list(ours) == list(keys)
    for key, rows in ours.items():
        assert rows.dtype == np.int32 and len(rows) > 1000
        assert np.array_equal(rows, expected[key])


def test_more_than_a_million_voxels_give_a_hundredth_of_them():
    labels = np.ones((101, 100, 102), dtype=np.int8)
    rows = foreground_locations(labels, PLAIN)["1"]
    assert len(rows) == 10_302
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_absent_classes_have_no_rows_and_do_not_disturb_the_draws():
    labels = label_map(high=2)
    labels[5, 6, 7] = 3
    ours = foreground_locations(labels, PLAIN)
    assert ours["2"].shape == (0, 3)
    assert ours["3"].tolist() == [[5, 6, 7]]
    assert np.array_equal(ours["1"], plain_rule(labels, {"1": (1,)})["1"])


def test_an_empty_label_map_gives_no_rows():
    ours = foreground_locations(np.full((3, 4, 5), -1, dtype=np.int16), PLAIN)
    assert {key: rows.shape for key, rows in ours.items()} == {"1": (0, 3), "2": (0, 3), "3": (0, 3)}
