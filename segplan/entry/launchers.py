"""Where the jobs of a sweep run, this machine or a SLURM cluster: what hydra/launcher= and hydra.launcher.* say."""

import difflib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segplan.entry.compose import parse_overrides
from segplan.entry.locations import configs_folder
from segplan.errors import ConfigError
from segplan.jobs.cluster import Resources

_GROUP, _NODE = "hydra/launcher", "hydra.launcher."


@dataclass(frozen=True)
class Local:
    """Jobs as processes of this machine.

    Args:
        n_jobs: how many at once.
        devices: the GPUs that they share, one each; "auto": those of $CUDA_VISIBLE_DEVICES, else all.
    """

    n_jobs: int = 1
    devices: Literal["auto"] | Sequence[str | int] = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.n_jobs, bool) or not isinstance(self.n_jobs, int) or self.n_jobs < 1:
            raise ConfigError("must be a whole number from 1", f"hydra.launcher.n_jobs={self.n_jobs}")
        if isinstance(self.devices, str) and self.devices != "auto":
            raise ConfigError("must be auto or a list", f"hydra.launcher.devices={self.devices}", "Write [0,1].")

    def visible(self) -> list[str | None]:
        """$CUDA_VISIBLE_DEVICES of each of the jobs that run at once; None leaves it as it is.

        Raises:
            ConfigError: there are fewer GPUs than jobs.
        """
        names = visible_gpus() if isinstance(self.devices, str) else [str(device) for device in self.devices]
        if not names or (self.n_jobs == 1 and self.devices == "auto"):
            return [None] * self.n_jobs
        if len(names) < self.n_jobs:
            what = f"{self.n_jobs} jobs at once need as many GPUs, and there are {len(names)} ({', '.join(names)})"
            raise ConfigError(what, "hydra.launcher.n_jobs", "Name a GPU twice in hydra.launcher.devices to share it.")
        return list(names[: self.n_jobs])


@dataclass(frozen=True)
class Slurm(Resources):
    """Jobs of a SLURM cluster.

    Args:
        wait: wait for their end.
    """

    wait: bool = True

    @property
    def described(self) -> str:
        """What a job asks for beyond the defaults, for people."""
        asked = [f"{each.name}={getattr(self, each.name)}" for each in fields(self) if getattr(self, each.name)]
        return ", ".join(word for word in asked if word != "wait=True")


_LAUNCHERS = {"local": Local, "basic": Local, "slurm": Slurm}


def pop_launcher(arguments: Sequence[str]) -> tuple[Local | Slurm, list[str]]:
    """The launcher that a command line chooses, and its other arguments.

    Raises:
        ConfigError: there is no such launcher or setting, or a value cannot work.
    """
    mine = [argument for argument in arguments if argument.lstrip("+").startswith((f"{_GROUP}=", _NODE))]
    others = [argument for argument in arguments if argument not in mine]
    parsed = [(item.key_or_group, item.value()) for item in parse_overrides(mine)]
    name = next((str(value) for key, value in reversed(parsed) if key == _GROUP), "local")
    if name not in _LAUNCHERS:
        raise ConfigError(f"no {_GROUP}={name}", remedy="There are: local, slurm.")
    kind = _LAUNCHERS[name]
    file = configs_folder() / "hydra" / "launcher" / f"{'local' if kind is Local else name}.yaml"
    node = OmegaConf.load(file)
    known = [field.name for field in fields(kind)]
    for key, value in parsed:
        if key == _GROUP:
            continue
        first = key.removeprefix(_NODE).partition(".")[0]
        if first not in known:
            close = difflib.get_close_matches(first, known, n=1)
            hint = f". Did you mean {_NODE}{close[0]}?" if close else ""
            raise ConfigError(f"there is no {_NODE}{first}{hint}", remedy=f"{_GROUP}={name} has {', '.join(known)}.")
        _update(node, key, value)
    values: Any = OmegaConf.to_container(node, resolve=True)
    return kind(**values), others


def _update(node: Any, key: str, value: Any) -> None:
    try:
        OmegaConf.update(node, key.removeprefix(_NODE), value, force_add=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"cannot be {value}", key) from error


def visible_gpus() -> list[str]:
    """The machine's GPUs as $CUDA_VISIBLE_DEVICES names them, which this process sees; found without torch."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []
