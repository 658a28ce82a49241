"""Adan: Nesterov momentum on adaptive steps. Xie et al., Adan: Adaptive Nesterov Momentum Algorithm, 2022, Algorithm 1.

torch has it not; with g the gradient, d its change since the last step and all means corrected for their zero start:

    m = mean(g), v = mean(d), n = mean((g + b2 d)²),  w ← (w - lr (m + b2 v) / (√n + eps)) / (1 + lr weight_decay)
"""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from segplan.errors import ConfigError


class Adan(Optimizer):
    """The optimiser.

    Args:
        params: weights, or groups of them.
        lr: learning rate.
        betas: share of history in the means of the gradient, its change, and the squares.
        eps: keeps the division finite.
        weight_decay: pulls the weights to zero, apart from the gradient.

    Raises:
        ConfigError: a value cannot work.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if lr <= 0 or eps <= 0 or weight_decay < 0:
            raise ConfigError(f"lr {lr}, eps {eps} and weight_decay {weight_decay} cannot work", "optimizer")
        if len(betas) != 3 or not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"{list(betas)} are no three shares of history", "optimizer.betas")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take a step; returns the closure's loss, if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    _step(weight, self.state[weight], group)
        return loss


def _step(weight: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    gradient = weight.grad
    if gradient is None:
        return
    if not state:
        state["step"] = 0
        state["before"] = gradient.clone()
        for name in ("mean", "change", "square"):
            state[name] = torch.zeros_like(weight)
    state["step"] += 1
    beta_mean, beta_change, beta_square = group["betas"]
    change = gradient - state["before"]
    looked_ahead = gradient + beta_change * change
    state["mean"].lerp_(gradient, 1 - beta_mean)
    state["change"].lerp_(change, 1 - beta_change)
    state["square"].mul_(beta_square).addcmul_(looked_ahead, looked_ahead, value=1 - beta_square)
    state["before"].copy_(gradient)
    mean, moved, square = (
        state[name] / (1 - beta ** state["step"])
        for name, beta in (("mean", beta_mean), ("change", beta_change), ("square", beta_square))
    )
    direction = (mean + beta_change * moved) / (square.sqrt() + group["eps"])
    weight.sub_(direction, alpha=group["lr"]).div_(1 + group["lr"] * group["weight_decay"])
