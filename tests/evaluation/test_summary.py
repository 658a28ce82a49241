import json
import math

import numpy as np
import pytest

from segplan.dataset import Labels
from segplan.evaluation import CaseResult, case_metrics, cases_counted, mean_over_occurring, summarize, write_summary

LABELS = Labels.from_json({"labels": {"background": 0, "a": 1, "b": 2, "c": 3}})


def make_cases(maps):
    return [
        CaseResult(case_metrics(p, r, LABELS), f"pred/{i}.nii.gz", f"ref/{i}.nii.gz") for i, (p, r) in enumerate(maps)
    ]


def test_means_leave_out_cases_where_the_class_is_absent_on_both_sides():
    rng = np.random.default_rng(0)
    maps = [tuple(rng.integers(0, 4, (2, 4, 4, 4)).astype(np.uint8)) for _ in range(3)]
    maps.append((np.where(maps[0][0] == 3, 0, maps[0][0]), np.where(maps[0][1] == 3, 0, maps[0][1])))
    summary = summarize(make_cases(maps))
    expected = []
    for label in (1, 2, 3):
        scores = [
            2 * np.sum((p == label) & (r == label)) / (np.sum(p == label) + np.sum(r == label)) for p, r in maps[:3]
        ]
        if label < 3:
            p, r = maps[3]
            scores.append(2 * np.sum((p == label) & (r == label)) / (np.sum(p == label) + np.sum(r == label)))
        expected.append(np.mean(scores))
        assert summary["mean"][str(label)]["Dice"] == pytest.approx(expected[-1])
    assert summary["foreground_mean"]["Dice"] == pytest.approx(np.mean(expected))
    assert summary["mean"]["1"]["n_ref"] == pytest.approx(np.mean([np.sum(r == 1) for _, r in maps]))
    assert [cases_counted(summary, key) for key in "123"] == [4, 4, 3]


def test_foreground_mean_is_nan_if_a_class_never_occurs_but_the_tables_mean_is_not():
    reference = np.array([[[0, 1, 1, 2]]], np.uint8)
    summary = summarize(make_cases([(reference, reference)]))
    assert math.isnan(summary["foreground_mean"]["Dice"])
    assert mean_over_occurring(summary) == 1
    assert summary["foreground_mean"]["TP"] == pytest.approx((2 + 1 + 0) / 3)


def test_the_file_has_nnunets_shape_with_sorted_keys_and_nan(tmp_path):
    reference = np.array([[[0, 1, 1, 2]]], np.uint8)
    write_summary(tmp_path / "summary.json", summarize(make_cases([(reference, reference)])))
    text = (tmp_path / "summary.json").read_text()
    assert '"Dice": NaN' in text
    content = json.loads(text)
    assert list(content) == ["foreground_mean", "mean", "metric_per_case"]
    assert list(content["mean"]) == ["1", "2", "3"]
    assert list(content["mean"]["1"]) == ["Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref"]
    case = content["metric_per_case"][0]
    assert set(case) == {"metrics", "prediction_file", "reference_file"}
    assert case["metrics"]["1"]["TP"] == 2
    assert case["reference_file"] == "ref/0.nii.gz"
