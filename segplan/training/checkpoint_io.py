"""How checkpoints reach the disk and come back: atomically, and without running anything that a file brings."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from segplan.imaging import atomic_write


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes beside the place and renames; loads with `weights_only=True`, whatever Lightning asks for."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`; a reader sees the file before or the file after, never half of one."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(Path(path)) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return the checkpoint at `path`."""
        return load_checkpoint(Path(path), map_location)


def load_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint of tensors and plain values; large tensors are mapped, not read, until they are used."""
    loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True, mmap=True)
    return loaded
