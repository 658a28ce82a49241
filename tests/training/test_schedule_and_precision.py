import pytest
import torch

from segplan.errors import ConfigError
from segplan.training import CosineDecay, PlateauDecay, PolynomialDecay, auto_precision


@pytest.mark.parametrize(("epoch", "rate"), [(0, 0.01), (500, 5.3589e-3), (999, 1.9953e-5), (1000, 0)])
def test_polynomial_decay_gives_nnunets_learning_rates(epoch, rate):
    assert 0.01 * PolynomialDecay()(epoch, 1000) == pytest.approx(rate, rel=1e-4)


@pytest.mark.parametrize(("capable", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_precision_on_a_cpu_follows_its_instructions(monkeypatch, capable, expected):
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: capable)
    assert auto_precision("cpu")[0] == expected


def test_auto_precision_is_plain_where_nothing_is_proven():
    assert auto_precision("mps")[0] == "32-true"


def test_the_warm_up_rises_in_a_straight_line_and_the_decay_is_over_the_rest():
    warm = PolynomialDecay(warmup_epochs=50)
    assert [warm(epoch, 1000) for epoch in (0, 24, 49)] == pytest.approx([0.02, 0.5, 1])
    assert warm(50, 1000) == 1
    assert warm(525, 1000) == pytest.approx(0.5**0.9)
    assert warm(1000, 1000) == 0


def test_the_cosine_goes_from_one_over_a_half_to_its_minimum():
    cosine = CosineDecay(warmup_epochs=10, minimum=0.1)
    assert [cosine(epoch, 110) for epoch in (10, 60, 110)] == pytest.approx([1, 0.55, 0.1])
    assert cosine(0, 110) == pytest.approx(0.1)


def test_the_plateau_divides_after_thirty_epochs_without_a_fall_and_then_waits_thirty_more():
    plateau = PlateauDecay()
    factors = []
    for _ in range(64):
        plateau.observe(1.0, 1.0)
        factors.append(plateau(0, 1000))
    assert factors.index(1 / 5) == 31  # the first epoch sets the mark, the 31st after it is one too many
    assert factors.index(1 / 25) == 62


def test_the_plateau_counts_a_fall_of_the_average_not_of_a_single_epoch():
    plateau = PlateauDecay(threshold=5e-3)
    for epoch in range(200):
        plateau.observe(-epoch * 0.01, -epoch)
    assert plateau(0, 1000) == 1
    assert plateau.finished is None


def test_the_plateau_ends_without_progress_in_validation_or_below_the_smallest_rate():
    stalled = PlateauDecay()
    for _ in range(62):
        assert stalled.finished is None
        stalled.observe(1.0, 1.0)
    assert "validation" in stalled.finished
    falling = PlateauDecay(patience=1, stop_patience=10**6)
    for _ in range(20):
        falling.observe(1.0, 1.0)
    assert 3e-4 * falling(0, 1) < 1e-6
    assert "learning rate" in falling.finished


def test_the_plateau_goes_on_from_its_state():
    first, second = PlateauDecay(patience=2), PlateauDecay(patience=2)
    for loss in (1.0, 0.9, 1.1):
        first.observe(loss, loss)
    second.load_state_dict(first.state_dict())
    for loss in (1.0, 1.0, 1.2):
        first.observe(loss, loss)
        second.observe(loss, loss)
    assert second.state_dict() == first.state_dict()
    assert second(0, 1) < 1


@pytest.mark.parametrize("make", [lambda: PlateauDecay(divisor=1), lambda: CosineDecay(warmup_epochs=-1)])
def test_schedules_that_cannot_work_are_refused(make):
    with pytest.raises(ConfigError, match="schedule"):
        make()
