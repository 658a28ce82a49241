"""Adan against its algorithm written out in numbers."""

import copy
import math

import pytest
import torch

from segplan.errors import ConfigError
from segplan.training import Adan


def test_steps_follow_the_published_algorithm():
    weight = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = Adan([weight], lr=0.1, weight_decay=0.02)
    gradients = [1.0, -0.5, 2.0, 0.25]
    expected, mean, change, square, before = 2.0, 0.0, 0.0, 0.0, gradients[0]
    for step, gradient in enumerate(gradients, start=1):
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        moved = gradient - before
        mean = 0.98 * mean + 0.02 * gradient
        change = 0.92 * change + 0.08 * moved
        square = 0.99 * square + 0.01 * (gradient + 0.92 * moved) ** 2
        before = gradient
        rate = 0.1 / (math.sqrt(square / (1 - 0.99**step)) + 1e-8)
        expected -= rate * (mean / (1 - 0.98**step) + 0.92 * change / (1 - 0.92**step))
        expected /= 1 + 0.1 * 0.02
        assert weight.item() == pytest.approx(expected, rel=1e-12)


def test_a_resumed_optimiser_goes_on_as_before():
    def steps(optimizer, weight, values):
        for value in values:
            weight.grad = torch.full_like(weight, value)
            optimizer.step()

    first = torch.nn.Parameter(torch.ones(2))
    optimizer = Adan([first])
    steps(optimizer, first, [1.0, -2.0])
    second = torch.nn.Parameter(first.detach().clone())
    resumed = Adan([second])
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(optimizer, first, [0.5])
    steps(resumed, second, [0.5])
    assert torch.equal(first, second)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"betas": (0.9, 0.99)}, {"betas": (0.9, 0.9, 1.0)}])
def test_values_that_cannot_work_are_refused(wrong):
    with pytest.raises(ConfigError):
        Adan([torch.nn.Parameter(torch.ones(1))], **wrong)
