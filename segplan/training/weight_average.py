"""An exponential moving average of a network's weights: steadier than the last ones, at the price of a copy."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from segplan.errors import ConfigError


class WeightAverage:
    """Follows a network's weights, step by step.

    In its first steps it forgets faster, by (1 + n) / (10 + n) after n steps, so that the random start does not stay.

    Args:
        network: whose weights; its buffers are copied, not averaged.
        decay: share of the history in the average, above 0 and below 1.

    Raises:
        ConfigError: `decay` cannot work.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 < decay < 1:
            raise ConfigError(
                f"{decay} is no share of the history", "module.ema_decay", "Give a number such as 0.999, or null."
            )
        self._network, self._decay, self._steps = network, decay, 0
        self._average: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after an optimiser's step; waits for nothing."""
        self._steps += 1
        kept = min(self._decay, (1 + self._steps) / (10 + self._steps))
        trained = {name for name, _ in self._network.named_parameters()}
        for name, value in self._network.state_dict().items():
            if name not in self._average:
                self._average[name] = value.detach().clone()
            elif name in trained:
                self._average[name].lerp_(value, 1 - kept)
            else:
                self._average[name].copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has the average's weights meanwhile; before the first step its own."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the network's weights and the average's."""
        for name, value in self._network.state_dict().items():
            if name in self._average:
                held = value.clone()
                value.copy_(self._average[name])
                self._average[name].copy_(held)

    def exchange(self, checkpoint: dict[str, Any], prefix: str) -> dict[str, Any]:
        """Put the average's weights in the place of the network's in a checkpoint, for whoever predicts with it.

        Returns:
            What `restore` needs; the network's own weights only in a checkpoint that training can go on from.
        """
        own: dict[str, Tensor] = {}
        state = checkpoint["state_dict"]
        for name, average in self._average.items():
            own[name], state[prefix + name] = state[prefix + name], average
        return {"steps": self._steps, "own": own if "optimizer_states" in checkpoint else None}

    def restore(self, checkpoint: dict[str, Any], saved: Mapping[str, Any], prefix: str) -> None:
        """Undo `exchange`: the checkpoint's weights are the network's again, and the average goes on."""
        state, self._steps = checkpoint["state_dict"], int(saved["steps"])
        for name, value in (saved["own"] or {}).items():
            self._average[name] = state[prefix + name].to(self._device, copy=True)
            state[prefix + name] = value

    @property
    def _device(self) -> torch.device:
        return next(self._network.parameters()).device
