"""nnU-Net's form of probabilities, CASE.npz, read in slabs like a store: unpacked to disk once, never held whole."""

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segplan.errors import StoreError
from segplan.inference.probabilities import SUFFIX, Kind, ProbabilityStore

_KEY = "probabilities"
_PIECE_BYTES = 1 << 24


@dataclass(frozen=True)
class NpzProbabilities(ProbabilityStore):
    """The probabilities of a CASE.npz, for whoever reads a `ProbabilityStore`."""

    values: NDArray[Any] | None = None

    def read(self, z_start: int, z_stop: int) -> NDArray[np.float32]:
        """Probabilities (K, z_stop - z_start, Y, X), float32."""
        if self.values is None:
            raise StoreError("was closed", self.folder, "Open it again.")
        return np.array(self.values[:, z_start:z_stop], np.float32)


def probabilities_path(folder: Path, identifier: str) -> Path | None:
    """Where a case's probabilities lie in a folder: CASE.probabilities or CASE.npz; None if nowhere."""
    candidates = (folder / f"{identifier}{SUFFIX}", folder / f"{identifier}.npz")
    return next((path for path in candidates if path.exists()), None)


@contextmanager
def open_probabilities(path: Path, kind: Kind, scratch: Path | None = None) -> Iterator[ProbabilityStore]:
    """Open CASE.probabilities or CASE.npz.

    Args:
        path: of either.
        kind: what a file's values are; a store knows it itself.
        scratch: folder for the unpacked file; None: the system's place for temporary files.

    Raises:
        StoreError: it holds no probabilities, or is damaged.
    """
    if path.suffix != ".npz":
        yield ProbabilityStore.open(path)
        return
    with tempfile.TemporaryFile(dir=scratch) as spill:
        try:
            values = _unpack(path, spill)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            what = f"holds no probabilities that can be read ({error})"
            raise StoreError(what, path, "Predict the case again with save_probabilities=true.") from error
        channels, z, y, x = values.shape
        yield NpzProbabilities(path, channels, (z, y, x), kind, str(values.dtype), values=values)


def _unpack(path: Path, spill: Any) -> NDArray[Any]:
    with zipfile.ZipFile(path) as archive, archive.open(f"{_KEY}.npy") as member:
        version = np.lib.format.read_magic(member)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(member)
        if len(shape) != 4 or dtype.kind != "f":
            raise ValueError(f"shape {shape}, type {dtype}, expected (K, Z, Y, X) of floating point")
        while piece := member.read(_PIECE_BYTES):
            spill.write(piece)
        spill.flush()
    return np.memmap(spill, dtype, "r", shape=shape, order="F" if fortran else "C")
