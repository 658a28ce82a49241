import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score

from segplan.dataset import Labels
from segplan.evaluation import Targets, case_metrics, confusion_counts
from segplan.evaluation import metrics as module

PLAIN = Labels.from_json({"labels": {"background": 0, "a": 1, "b": 2, "c": 3}})
REGIONS = Labels.from_json(
    {
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4},
        "regions_class_order": [1, 2, 3],
    }
)
label_maps = arrays.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3))


def brute_force(prediction, reference, members, ignore=None):
    """Counts voxel by voxel."""
    tp = fp = fn = tn = 0
    for p, r in zip(prediction.ravel().tolist(), reference.ravel().tolist(), strict=True):
        if r == ignore:
            continue
        hit = (p in members, r in members)
        tp += hit == (True, True)
        fp += hit == (True, False)
        fn += hit == (False, True)
        tn += hit == (False, False)
    return tp, fp, fn, tn


def test_dice_and_iou_equal_sklearns_scores():
    rng = np.random.default_rng(0)
    prediction, reference = rng.integers(0, 4, (2, 6, 7, 8)).astype(np.int16)
    found = case_metrics(prediction, reference, PLAIN)
    p, r = prediction.ravel(), reference.ravel()
    assert [found[key]["Dice"] for key in "123"] == pytest.approx(f1_score(r, p, average=None)[1:].tolist())
    assert [found[key]["IoU"] for key in "123"] == pytest.approx(jaccard_score(r, p, average=None)[1:].tolist())
    for label in (1, 2, 3):
        (tn, fp), (fn, tp) = confusion_matrix(r == label, p == label)
        values = found[str(label)]
        assert (values["TP"], values["FP"], values["FN"], values["TN"]) == (tp, fp, fn, tn)
        assert (values["n_pred"], values["n_ref"]) == (np.sum(p == label), np.sum(r == label))


@settings(max_examples=40, deadline=None)
@given(label_maps, arrays.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 4)))
def test_regions_with_ignored_voxels_equal_counting_one_by_one(prediction, reference):
    found = confusion_counts(prediction, reference, REGIONS)
    assert list(found) == ["(1, 2, 3)", "(2, 3)", "3"]
    for key, members in (("(1, 2, 3)", (1, 2, 3)), ("(2, 3)", (2, 3)), ("3", (3,))):
        counts = found[key]
        assert (counts.tp, counts.fp, counts.fn, counts.tn) == brute_force(prediction, reference, members, ignore=4)


@settings(max_examples=30, deadline=None)
@given(label_maps, label_maps)
def test_swapping_the_sides_swaps_false_positives_and_negatives(prediction, reference):
    one, other = (confusion_counts(a, b, PLAIN) for a, b in ((prediction, reference), (reference, prediction)))
    for key in "123":
        assert (one[key].fp, one[key].fn, one[key].tp) == (other[key].fn, other[key].fp, other[key].tp)
        assert sum((one[key].tp, one[key].fp, one[key].fn, one[key].tn)) == prediction.size


@given(label_maps)
def test_a_perfect_prediction_scores_one_for_what_occurs_and_nan_for_the_rest(reference):
    for key, values in case_metrics(reference, reference, PLAIN).items():
        if np.any(reference == int(key)):
            assert values["Dice"] == values["IoU"] == 1
        else:
            assert math.isnan(values["Dice"])
            assert math.isnan(values["IoU"])


def test_false_positives_without_a_reference_score_zero():
    reference, prediction = np.zeros((1, 2, 2), np.uint8), np.ones((1, 2, 2), np.uint8)
    assert case_metrics(prediction, reference, PLAIN)["1"]["Dice"] == 0


def test_predicted_values_outside_the_labels_count_as_background():
    reference = np.array([[[1, 1, 2, 0]]], np.uint8)
    prediction = np.array([[[200, 1, 2, 200]]], np.uint8)
    expected = case_metrics(np.array([[[0, 1, 2, 0]]], np.uint8), reference, PLAIN)
    assert str(case_metrics(prediction, reference, PLAIN)) == str(expected)
    negative = np.array([[[-5, 1, 2, -1]]], np.int16)
    assert str(case_metrics(negative, reference, PLAIN)) == str(expected)


def test_values_far_apart_need_no_table_of_their_range():
    targets = Targets.from_values([0, 7, 10**9])
    reference = np.array([7, 10**9, 10**9, 0, 5], np.int64)
    prediction = np.array([7, 10**9, 7, 10**9 - 1, 8], np.int64)
    found = confusion_counts(prediction, reference, targets)
    for key, value in (("7", 7), (str(10**9), 10**9)):
        counts = found[key]
        assert (counts.tp, counts.fp, counts.fn, counts.tn) == brute_force(prediction, reference, (value,))


def test_chunks_add_up_to_the_whole(monkeypatch):
    rng = np.random.default_rng(1)
    prediction, reference = rng.integers(0, 4, (2, 9, 11, 13)).astype(np.uint8)
    whole = confusion_counts(prediction, reference, PLAIN)
    monkeypatch.setattr(module, "_CHUNK_VOXELS", 100)
    assert confusion_counts(prediction, reference, PLAIN) == whole


def test_label_keys_are_ascending_and_region_keys_as_declared():
    labels = Labels.from_json({"labels": {"background": 0, "b": 2, "a": 1}})
    assert dict(Targets.from_labels(labels).names) == {"1": "a", "2": "b"}
    assert list(Targets.from_labels(labels).values) == ["1", "2"]
    assert dict(Targets.from_labels(REGIONS).names) == {"(1, 2, 3)": "whole", "(2, 3)": "core", "3": "enhancing"}


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        confusion_counts(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), PLAIN)
