"""How checkpoints reach the disk, atomically and beside the training, and come back without running what they bring."""

import copy
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from segplan.imaging import atomic_write
from segplan.preprocessing.control_groups import available_memory

_SHARE_OF_MEMORY = 0.25


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes in a thread of its own, so that training goes on; loads with `weights_only=True`, whatever is asked.

    A checkpoint is the state at the moment of `save_checkpoint`: its tensors are copied to the CPU first, in a quarter
    of the free memory at most; a larger one is written at once. One write at a time: the next waits for the last.
    """

    def __init__(self) -> None:
        super().__init__()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Have `checkpoint` written to `path`; a reader sees the file before or the file after, never half of one.

        Raises:
            StorageError: an earlier checkpoint could not be written; this one is tried all the same.
        """
        trouble = self._trouble()
        if _size(checkpoint) > _SHARE_OF_MEMORY * available_memory():
            _write(checkpoint, Path(path))
        else:
            self._writing = self._writer.submit(_write, _copied(checkpoint, {}), Path(path))
        if trouble is not None:
            raise trouble

    def wait(self) -> None:
        """Return when the last checkpoint is on the disk.

        Raises:
            StorageError: it could not be written.
        """
        trouble = self._trouble()
        if trouble is not None:
            raise trouble

    def check(self) -> None:
        """Raise what the last write ran into, if it has ended; costs nothing."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return the checkpoint at `path`."""
        self.wait()
        return load_checkpoint(Path(path), map_location)

    def teardown(self) -> None:
        """Finish what is being written; Lightning calls this at the end and, while it is handled, after an error."""
        trouble = self._trouble()
        if trouble is not None and sys.exc_info()[1] is None:
            raise trouble
        if trouble is not None:  # beside the error that ended the training, not in its place
            sys.stderr.write(f"segplan: {trouble}\n")

    def _trouble(self) -> BaseException | None:
        """Wait for the write that is under way; returns what it ran into."""
        if self._writing is None:
            return None
        trouble = self._writing.exception()
        self._writing = None  # after waiting: an interrupted wait leaves it to the next one
        return trouble


def load_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint of tensors and plain values; large tensors are mapped, not read, until they are used."""
    loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True, mmap=True)
    return loaded


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        torch.save(checkpoint, file)


def _copied(value: Any, copies: dict[Any, Tensor]) -> Any:
    """`value` with copies of its tensors on the CPU, and of its containers; what shares its memory shares the copy."""
    if isinstance(value, Tensor):
        memory = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride(), value.dtype)
        if memory not in copies:
            copies[memory] = value.detach().to("cpu", copy=True)
        return copies[memory]
    if isinstance(value, dict):
        result = copy.copy(value)  # of its own kind, with the attributes that torch hangs on a state dict
        for key, each in value.items():
            result[key] = _copied(each, copies)
        return result
    if type(value) in (list, tuple):
        return type(value)(_copied(each, copies) for each in value)
    return value


def _size(checkpoint: dict[str, Any]) -> int:
    """Bytes of all tensors."""
    sizes: list[int] = []
    apply_to_collection(checkpoint, Tensor, lambda tensor: sizes.append(tensor.nbytes))
    return sum(sizes)
