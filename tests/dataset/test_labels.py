"""The label definitions of dataset.json."""

import pickle

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
        ({"labels": {"background": 0, "a": 1, "ignore": 3}}, "must be the highest value: 2"),
        ({"labels": {"background": 0, "a": 1, "ignore": [2]}}, "must be the highest value: 2"),
        ({"labels": {"background": 0, "a": "1"}}, 'value of "a" is "1"'),
        ({"labels": {"background": 0, "a": 1.5}}, "1.5"),
        ({"labels": {"background": 0, "a": True}}, "true"),
        ({"labels": {"background": 0, "a": []}}, r"\[\]"),
        ({"labels": {"background": 0, "a": 1, "b": 3}}, "2 missing"),
        ({"labels": {"background": 0, "a": -1}}, "negative|missing"),
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
