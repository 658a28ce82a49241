"""Probabilities on disk, in pieces: written and read slab by slab, so that no class is ever held over a whole volume.

A store is a folder CASE.probabilities: the boxes of voxels, each compressed by itself, one after the other in a file,
and meta.json, which says where each lies. No torch here.
"""

import itertools
import json
import math
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

import numpy as np
from numpy.typing import NDArray

from segplan.errors import StorageError, StoreError
from segplan.imaging import Box, atomic_folder, atomic_write

SUFFIX = ".probabilities"
"""A case's store is the folder of its name and this."""

Kind = Literal["softmax", "sigmoid"]
"""What the probabilities of a voxel are: one distribution over the labels, or one of each region by itself."""

_META, _DATA = "meta.json", "boxes.bin"
_FORMAT = 1
_TYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
_PIECE_BYTES = 1 << 25
_DEEPEST_PIECE = 16  # planes: whoever reads a plane reads all of its piece
_LEAST_HALF = (
    2.0**-14
)  # what is less has few bits in half precision and hardly compresses; half's steps near 1 are larger
_LEVEL = 1  # measured: 150 MB/s and a tenth of the size; level 3 is no smaller
_READ_BYTES = 1 << 27


class ProbabilityWriter:
    """Writes a store; a context manager. The folder appears, whole, when the block ends without an error.

    Args:
        folder: CASE.probabilities; an older one is replaced.
        channels: K.
        shape: (Z, Y, X) of the image's own frame.
        kind: what the values are.
        dtype: of the values on disk: "float16" (probabilities below 6e-5 become 0), or "float32" (exact).
        box: the part that is written, half-open, (Z, Y, X); None: all. Elsewhere the background is certain
            (softmax), or no region is (sigmoid).
        about: further JSON for whoever reads the store, such as the image's geometry.

    Raises:
        ValueError: at the end, if voxels are missing.
        StorageError: the disk is full or the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        channels: int,
        shape: Sequence[int],
        *,
        kind: Kind = "softmax",
        dtype: str = "float16",
        box: Box | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.channels, self.shape = Path(folder), channels, tuple(shape)
        self.kind, self.dtype = kind, _TYPES[dtype]
        self.box = tuple((0, size) for size in shape) if box is None else box
        self.about = dict(about or {})
        self._pieces: list[tuple[list[list[int]], int]] = []
        self._cleanup = ExitStack()
        self._temporary = Path()
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self._temporary = self._cleanup.enter_context(atomic_folder(self.folder, replace=True))
        self._file = self._cleanup.enter_context((self._temporary / _DATA).open("wb"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._cleanup as cleanup:  # an error from here also discards the folder
            if error is None:
                self._finish()
            else:
                cleanup.pop_all().__exit__(kind, error, traceback)

    def write(self, z_start: int, block: NDArray[np.floating]) -> None:
        """Write whole planes: `block` (K, depth, Y, X), its first plane being `z_start` of the image's frame."""
        self.write_box((z_start, 0, 0), block)

    def write_box(self, start: Sequence[int], block: NDArray[np.floating]) -> None:
        """Write a box of voxels: `block` (K, depth, rows, columns), its first voxel being `start` (z, y, x).

        Boxes may come in any order, but none twice.

        Raises:
            ValueError: the block has other channels, or reaches beyond the part that is to be written.
        """
        stop = [low + size for low, size in zip(start, block.shape[1:], strict=True)]
        inside = all(b <= low and high <= e for low, high, (b, e) in zip(start, stop, self.box, strict=True))
        if block.ndim != 4 or len(block) != self.channels or not inside:
            raise ValueError(f"a block {block.shape} at {tuple(start)} does not fit {self.channels} × {self.box}")
        plane_bytes = self.dtype.itemsize * math.prod(block.shape) // max(1, block.shape[1])
        depth = max(1, min(_DEEPEST_PIECE, _PIECE_BYTES // max(1, plane_bytes)))
        for first in range(0, block.shape[1], depth):
            piece = block[:, first : first + depth]
            self._write_piece([start[0] + first, start[1], start[2]], piece)

    def _write_piece(self, start: list[int], values: NDArray[np.floating]) -> None:
        if self._file is None:
            raise ValueError("the writer is used outside its `with` block")
        if self.dtype.itemsize == 2 and values.dtype != self.dtype:
            stored = np.ascontiguousarray(np.where(values < _LEAST_HALF, 0, values), dtype=self.dtype)
        else:
            stored = np.ascontiguousarray(values, dtype=self.dtype)
        packed = zlib.compress(stored.data, _LEVEL)
        try:
            self._file.write(packed)
        except OSError as error:
            raise StorageError.from_os_error(error, self.folder) or error from error
        spans = zip(start, values.shape[1:], strict=True)
        self._pieces.append(([[low, low + size] for low, size in spans], len(packed)))

    def _finish(self) -> None:
        expected = math.prod(high - low for low, high in self.box)
        written = sum(math.prod(high - low for low, high in box) for box, _ in self._pieces)
        if written != expected or self._file is None:
            raise ValueError(f"{written} voxels were written, {expected} expected")
        meta = {
            "format": _FORMAT,
            "channels": self.channels,
            "shape": list(self.shape),
            "kind": self.kind,
            "dtype": "float16" if self.dtype.itemsize == 2 else "float32",
            "boxes": [box for box, _ in self._pieces],
            "bytes": [size for _, size in self._pieces],
            "about": self.about,
        }
        (self._temporary / _META).write_text(json.dumps(meta))
        self._file.close()


@dataclass(frozen=True)
class ProbabilityStore:
    """A store that was written; reading it leaves it as it is, and several threads may.

    Args:
        folder: CASE.probabilities.
        channels: K.
        shape: (Z, Y, X) of the image's own frame.
        kind: what the values are.
        dtype: of the values on disk.
        about: what its writer added.
    """

    folder: Path
    channels: int
    shape: tuple[int, int, int]
    kind: Kind
    dtype: str
    about: Mapping[str, Any] = field(default_factory=dict)
    _boxes: tuple[Box, ...] = ()
    _ends: tuple[int, ...] = ()

    @classmethod
    def open(cls, folder: Path | str) -> "ProbabilityStore":
        """The store in `folder`.

        Raises:
            StoreError: there is none, or it is of another version.
        """
        path = Path(folder)
        remedy = "Predict again with save_probabilities=true."
        try:
            meta = json.loads((path / _META).read_text())
            if meta["format"] != _FORMAT or meta["dtype"] not in _TYPES or meta["kind"] not in ("softmax", "sigmoid"):
                raise StoreError("is of another version of segplan", path, remedy)
            z, y, x = (int(size) for size in meta["shape"])
            boxes = tuple(_as_box(box) for box in meta["boxes"])
            ends = tuple(itertools.accumulate(int(size) for size in meta["bytes"]))
            channels, kind, about = int(meta["channels"]), meta["kind"], dict(meta["about"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"is no store of probabilities ({error!r})", path, remedy) from error
        return cls(path, channels, (z, y, x), kind, meta["dtype"], about, boxes, ends)

    def read(self, z_start: int, z_stop: int) -> NDArray[np.float32]:
        """Probabilities (K, z_stop - z_start, Y, X), float32.

        Raises:
            StoreError: a piece is missing or damaged.
        """
        result = np.zeros((self.channels, z_stop - z_start, *self.shape[1:]), dtype=np.float32)
        if self.kind == "softmax":
            result[0] = 1
        for number, ((low, high), rows, columns) in enumerate(self._boxes):
            first, last = max(low, z_start), min(high, z_stop)
            if first >= last:
                continue
            values = self._piece(number)
            target = result[:, first - z_start : last - z_start, slice(*rows), slice(*columns)]
            target[...] = values[:, first - low : last - low]
        return result

    def slabs(self, max_bytes: int = _READ_BYTES) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        """All of it in order: first plane, plane behind the last, and the probabilities between, as `read` gives them.

        Slabs end where pieces do, as far as `max_bytes` of float32 allow it, so that hardly a piece is read twice.
        """
        for start, stop in self.ranges(max_bytes):
            yield start, stop, self.read(start, stop)

    def ranges(self, max_bytes: int = _READ_BYTES) -> list[tuple[int, int]]:
        """The planes of each slab of `slabs`, in order: for reading several stores of one shape side by side."""
        depth = max(1, max_bytes // (4 * self.channels * self.shape[1] * self.shape[2]))
        ends = sorted({high for (_, high), _, _ in self._boxes} | {self.shape[0]})
        result, start = [], 0
        while start < self.shape[0]:
            within = [end for end in ends if start < end <= start + depth]
            stop = within[-1] if within else min(start + depth, self.shape[0])
            result.append((start, stop))
            start = stop
        return result

    def to_npz(self, path: Path) -> None:
        """Write nnU-Net's file: key `probabilities`, (K, Z, Y, X) float32, compressed. Spills to disk beside `path`.

        Raises:
            StoreError: a piece is missing or damaged.
            StorageError: the disk is full or the folder cannot be written.
        """
        shape = (self.channels, *self.shape)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary, tempfile.TemporaryFile(dir=path.parent) as spill:
            array = np.memmap(spill, np.float32, "w+", shape=shape)
            for start, stop, values in self.slabs():
                array[:, start:stop] = values
            with (
                zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive,
                archive.open("probabilities.npy", "w", force_zip64=True) as target,
            ):
                header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(target, header)
                for channel in array:
                    target.write(np.ascontiguousarray(channel).data)

    def _piece(self, number: int) -> NDArray[np.floating]:
        path = self.folder / _DATA
        shape = (self.channels, *(high - low for low, high in self._boxes[number]))
        start = self._ends[number - 1] if number else 0
        try:
            with path.open("rb") as file:
                file.seek(start)
                data = zlib.decompress(file.read(self._ends[number] - start))
            values: NDArray[np.floating] = np.frombuffer(data, dtype=_TYPES[self.dtype]).reshape(shape)
            return values
        except (OSError, ValueError, zlib.error) as error:
            remedy = "Predict the case again with save_probabilities=true."
            raise StoreError(f"is missing or damaged ({error})", path, remedy) from error


def _as_box(piece: Sequence[Sequence[int]]) -> Box:
    z, y, x = ((int(low), int(high)) for low, high in piece)
    return (z, y, x)
