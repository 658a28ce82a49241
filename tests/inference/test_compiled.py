"""Compiling a network for inference."""

import pytest
import torch
from torch import nn

from segplan.errors import ConfigError
from segplan.inference import compiled


def test_without_a_compiler_it_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiled.shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match="compiler"):
        compiled.compile_network(nn.Conv3d(1, 1, 1), torch.device("cpu"))


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_logits() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.LeakyReLU(), nn.Conv3d(4, 2, 1))
    network.eval().requires_grad_(False)
    tiles = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        expected = network(tiles)
        assert torch.allclose(compiled.compile_network(network, torch.device("cpu"))(tiles), expected, atol=1e-4)
