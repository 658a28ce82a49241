import numpy as np
import pytest
from scipy import stats

from segplan.evaluation import bootstrap_interval, holm, paired_p_value, score_of, scores_of_cases


def summary_of(table):
    """A summary with the Dice of each case and class in `table` (N, T)."""
    cases = [{"metrics": {str(i): {"Dice": value} for i, value in enumerate(row)}} for row in table]
    return {"metric_per_case": cases}


def test_the_score_is_the_mean_over_classes_of_their_means_over_cases_where_they_occur():
    table = np.array([[0.8, np.nan, np.nan], [0.6, 0.4, np.nan]])
    assert score_of(summary_of(table)) == pytest.approx((0.7 + 0.4) / 2)
    np.testing.assert_allclose(scores_of_cases(summary_of(table)), [0.8, 0.5])


def test_the_bootstrap_interval_is_that_of_scipy_for_one_class():
    values = np.random.default_rng(0).beta(8, 2, 40)
    low, high = bootstrap_interval(summary_of(values[:, None]))
    expected = stats.bootstrap((values,), np.mean, method="percentile", random_state=1).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.004)
    assert bootstrap_interval(summary_of(values[:, None])) == (low, high), "the same every time"
    assert all(np.isnan(bootstrap_interval(summary_of([[np.nan], [np.nan]]), draws=3)))


def test_paired_tests_leave_out_cases_that_one_side_lacks():
    first, second = np.random.default_rng(1).uniform(size=(2, 12))
    first[3] = np.nan
    kept = np.arange(12) != 3
    assert paired_p_value(first, second) == stats.wilcoxon(first[kept], second[kept]).pvalue
    assert paired_p_value(second, second) == 1


def test_holms_adjustment_follows_its_definition():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
