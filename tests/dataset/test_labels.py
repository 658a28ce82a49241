"""The label definitions of dataset.json."""

import pickle

import numpy as np
import pytest

from segplan.dataset import Labels
from segplan.errors import DatasetError

BRATS = {
    "labels": {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": [3]},
    "regions_class_order": [1, 2, 3],
}


def test_plain_labels():
    labels = Labels.from_json({"labels": {"background": 0, "b": 2, "a": 1}})
    assert not labels.has_regions
    assert labels.all_labels == (0, 1, 2)
    assert labels.foreground_labels == (1, 2)
    assert labels.foreground_regions == ()
    assert labels.num_heads == 3
    assert list(labels.targets.items()) == [("b", (2,)), ("a", (1,))]
    assert labels.key_count == 3
    assert labels.ignore is None


def test_regions_keep_their_declared_order_and_form():
    labels = Labels.from_json(BRATS)
    assert labels.has_regions
    assert labels.foreground_regions == ((1, 2, 3), (2, 3), (3,))
    assert labels.num_heads == 3
    assert labels.all_labels == (0, 1, 2, 3)
    assert labels.targets == {"whole tumour": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    assert labels.key_count == 4
    plain = Labels.from_json({**BRATS, "labels": {**BRATS["labels"], "enhancing": 3}})
    assert plain.foreground_regions == ((1, 2, 3), (2, 3), 3)


def test_a_list_of_one_alone_makes_no_region():
    labels = Labels.from_json({"labels": {"background": 0, "a": [1], "b": 2}})
    assert not labels.has_regions
    assert labels.num_heads == 3
    assert labels.targets == {"a": (1,), "b": (2,)}


def test_ignore_counts_as_a_key_but_is_no_label():
    labels = Labels.from_json({"labels": {"background": 0, "a": 1, "ignore": 2}})
    assert labels.ignore == 2
    assert labels.all_labels == (0, 1)
    assert labels.num_heads == 2
    assert labels.key_count == 3
    assert labels.targets == {"a": (1,)}


@pytest.mark.parametrize("source", [BRATS, {"labels": {"background": 0, "a": 1, "ignore": 2}}])
def test_json_and_pickle_round_trips(source):
    labels = Labels.from_json(source)
    assert Labels.from_json(labels.to_json()) == labels
    assert labels.to_json()["labels"] == source["labels"]
    assert pickle.loads(pickle.dumps(labels)) == labels


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "missing"),
        ({"labels": {}}, "missing"),
        ({"labels": {"a": 1}}, '"background": 0'),
        ({"labels": {"background": 1, "a": 0}}, "must be 0"),
        ({"labels": {"background": [0], "a": 1}}, "must be 0"),
        ({"labels": {"background": 0, "a": 1, "ignore": 1}}, 'the value 1 of "a"'),
        ({"labels": {"background": 0, "a": 1, "ignore": -1}}, "-1 is negative"),
        ({"labels": {"background": 0, "a": 1, "ignore": [2]}}, "must be one number"),
        ({"labels": {"background": 0, "a": "1"}}, 'value of "a" is "1"'),
        ({"labels": {"background": 0, "a": 1.5}}, "1.5"),
        ({"labels": {"background": 0, "a": True}}, "true"),
        ({"labels": {"background": 0, "a": []}}, r"\[\]"),
        ({"labels": {"background": 0, "a": -1}}, "-1 is negative"),
        ({"labels": {"background": 0, "a": 2**31}}, "too large"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, '"a" and "b" have the same value'),
        ({"labels": BRATS["labels"]}, "regions_class_order.*missing"),
        ({"labels": BRATS["labels"], "regions_class_order": [1, 2]}, "2 entries for 3"),
        ({"labels": BRATS["labels"], "regions_class_order": [1, 2, 9]}, "9 is no foreground"),
        ({"labels": BRATS["labels"], "regions_class_order": "123"}, "whole numbers"),
    ],
)
def test_bad_definitions_are_explained(source, message):
    with pytest.raises(DatasetError, match=message) as caught:
        Labels.from_json(source)
    assert caught.value.remedy


def test_the_decathlons_way_is_recognised_and_turned_round():
    with pytest.raises(DatasetError) as caught:
        Labels.from_json({"labels": {"0": "background", "1": "Anterior", "2": "Posterior"}})
    assert '{"background": 0, "Anterior": 1, "Posterior": 2}' in caught.value.remedy
    assert "segplan " not in caught.value.remedy, "names a command"


def test_values_without_a_gap_are_their_own_indices():
    for source in (BRATS, {"labels": {"background": 0, "b": 2, "a": 1, "ignore": 3}}):
        labels = Labels.from_json(source)
        assert labels.indexed is labels
        label_map = np.array([[0, 1, 3]], np.int16)
        assert labels.to_indices(label_map) is label_map


def test_other_values_get_indices_in_ascending_order_and_ignore_comes_last():
    labels = Labels.from_json({"labels": {"background": 0, "b": 255, "a": 10, "ignore": 7}})
    assert labels.all_labels == (0, 10, 255)
    assert labels.indexed.names == {"background": 0, "b": 2, "a": 1}
    assert labels.indexed.ignore == 3
    assert labels.num_heads == labels.indexed.num_heads == 3
    label_map = np.array([[[0, 10], [255, 7]]], np.uint8)
    assert labels.to_indices(label_map).tolist() == [[[0, 1], [2, 3]]]
    assert Labels.from_json(labels.to_json()) == labels


def test_regions_of_other_values_are_indexed_with_their_order():
    labels = Labels.from_json(
        {
            "labels": {"background": 0, "both": [20, 100], "inner": [100], "ignore": 1},
            "regions_class_order": [20, 100],
        }
    )
    assert labels.indexed.foreground_regions == ((1, 2), (2,))
    assert labels.indexed.regions_class_order == (1, 2)
    assert labels.indexed.ignore == 3
    assert labels.targets == {"both": (20, 100), "inner": (100,)}


@pytest.mark.parametrize("values", [(10, 70_000), (2, 1000), (5, 2**31 - 1)])
@pytest.mark.parametrize("kind", [np.int64, np.uint32])
def test_indices_agree_with_a_dictionary_whatever_the_values(values, kind):
    labels = Labels.from_json({"labels": {"background": 0, "a": values[0], "b": values[1]}})
    label_map = np.random.default_rng(0).choice(np.array([0, *values], kind), (3, 4, 5))
    expected = [{0: 0, values[0]: 1, values[1]: 2}[value] for value in label_map.ravel().tolist()]
    assert labels.to_indices(label_map).ravel().tolist() == expected


@pytest.mark.parametrize("value", [-1, 11, 300])
def test_a_value_that_is_no_label_is_refused(value):
    labels = Labels.from_json({"labels": {"background": 0, "a": 10}})
    with pytest.raises(DatasetError, match=f"value {value}"):
        labels.to_indices(np.array([[0, 10, value]], np.int16))
