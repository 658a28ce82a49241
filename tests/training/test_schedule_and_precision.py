import pytest
import torch

from segplan.training import PolynomialDecay, auto_precision


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
