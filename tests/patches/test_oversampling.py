import numpy as np
import pytest

from segplan.errors import ConfigError
from segplan.patches import Oversampling, rank_share

FORCED = {1: 0, 2: 1, 3: 1, 4: 1, 5: 2, 6: 2, 7: 2, 8: 3, 9: 3, 10: 3, 11: 4, 12: 4}


@pytest.mark.parametrize(("batch_size", "forced"), FORCED.items())
def test_per_batch_rule_forces_the_last_samples_of_every_batch(batch_size, forced):
    rule, rng = Oversampling(batch_size), np.random.default_rng(0)
    assert rule.forced_per_batch == forced
    for batch in (0, 7):
        decisions = [rule.is_forced(batch * batch_size + j, rng) for j in range(batch_size)]
        assert decisions == [j >= batch_size - forced for j in range(batch_size)]


def test_halves_are_rounded_to_even():
    assert Oversampling(5, fraction=0.5).forced_per_batch == 3  # round(2.5) is 2
    assert Oversampling(3, fraction=0.5).forced_per_batch == 1  # round(1.5) is 2


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_probabilistic_rule_forces_each_sample_with_the_given_probability(batch_size):
    rule, rng = Oversampling(batch_size, rule="probabilistic"), np.random.default_rng(0)
    assert sum(rule.is_forced(index, rng) for index in range(5000)) / 5000 == pytest.approx(0.33, abs=0.02)


@pytest.mark.parametrize(
    ("batch_size", "world_size", "expected"),
    [
        (2, 2, [(1, 0), (1, 1)]),
        (4, 2, [(2, 0), (2, 0.5)]),
        (4, 4, [(1, 0), (1, 0), (1, 0), (1, 1)]),
        (12, 4, [(3, 0), (3, 0), (3, 1 / 3), (3, 1)]),
        (5, 2, [(3, 0), (2, 1)]),
    ],
)
def test_ranks_get_nnunets_share_of_batch_and_of_forced_samples(batch_size, world_size, expected):
    rule, rng = Oversampling(batch_size), np.random.default_rng(0)
    shares = [rank_share(batch_size, rank, world_size) for rank in range(world_size)]
    assert [j for share in shares for j in share] == list(range(batch_size))
    found = [(len(share), np.mean([rule.is_forced(j, rng) for j in share])) for share in shares]
    assert found == [(size, pytest.approx(fraction)) for size, fraction in expected]


def test_more_ranks_than_samples_are_refused():
    with pytest.raises(ConfigError, match=r"data\.batch_size=3"):
        rank_share(2, 0, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"batch_size": 2, "fraction": 2},
        {"batch_size": 2, "fraction": "half"},
        {"batch_size": 2, "rule": "often"},
    ],
)
def test_impossible_values_are_refused(wrong):
    with pytest.raises(ConfigError):
        Oversampling(**wrong)
