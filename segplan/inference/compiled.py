"""Compiling a network for inference."""

import os
import shutil
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from segplan.errors import ConfigError

_COMPILERS = ("g++", "clang++", "c++", "cl")


def compile_network(network: nn.Module, device: torch.device) -> nn.Module:
    """The network as one compiled program; it compiles at its first tile.

    On the CPU its weights become constants of the program (freezing), which fuses more. Another number of tiles in a
    batch compiles again.

    Raises:
        ConfigError: this machine has no C++ compiler, which the CPU's programs need.
    """
    options: dict[str, str | int | bool | Callable[..., Any]] = {}
    if device.type == "cpu":
        options["freezing"] = True
        if "CXX" not in os.environ and not any(shutil.which(name) for name in _COMPILERS):
            raise ConfigError("finds no C++ compiler", "inference.compile=true", "Install g++, or use compile=false.")
    return cast(nn.Module, torch.compile(network, dynamic=False, options=options))
