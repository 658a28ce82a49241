"""What a cascade's first stage made of the training cases, on the grid of the second: plain .npy files, mapped.

A case CASE consists of

    CASE.npy    int8 or int16 (Z, Y, X): the index of each voxel's label, 0 for background
    CASE.json   which weights made it, and layout and checksum of the array; written last

so a segmentation exists exactly if its JSON does.
"""

import io
import json
import mmap
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segplan.errors import StoreError
from segplan.imaging import atomic_write

FORMAT = 1
_REMEDY = "Remove it, and the command that trained the first stage's fold makes it again."


@dataclass(frozen=True)
class Maker:
    """What made a segmentation.

    Args:
        model: DATASET/[NAME/]CONFIGURATION of the first stage.
        run: its run.
        fold: the fold of that run, which did not train on the case.
        weights: hash of that fold's weights.
    """

    model: str
    run: str
    fold: str
    weights: str


@dataclass(frozen=True)
class StageSegmentations:
    """A folder of segmentations for one configuration; made by the first `write`.

    Args:
        folder: RUN/predicted_next_stage/CONFIGURATION.
    """

    folder: Path

    def write(self, identifier: str, labels: NDArray[np.integer[Any]], maker: Maker) -> None:
        """Add or replace a case. A kill at any moment leaves either the whole case or none.

        Args:
            identifier: the case's name.
            labels: (Z, Y, X), label indices.
            maker: what made it.

        Raises:
            StorageError: the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._json(identifier).unlink(missing_ok=True)
        narrow = labels.max(initial=0) <= np.iinfo(np.int8).max
        array = np.ascontiguousarray(labels, dtype=np.int8 if narrow else np.int16)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
        content = array.reshape(-1).view(np.uint8).data
        with atomic_write(self._array(identifier)) as temporary, temporary.open("wb") as file:
            file.write(header.getvalue())
            file.write(content)
        layout = {"dtype": array.dtype.str, "shape": list(array.shape), "offset": header.tell()}
        description = {"format": FORMAT, **asdict(maker), **layout, "crc32": zlib.crc32(content)}
        with atomic_write(self._json(identifier)) as temporary:
            temporary.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")

    def maker(self, identifier: str) -> Maker | None:
        """What made the segmentation of a case; None where there is none that could be read."""
        try:
            description = self._description(identifier)
            is_whole = self._array(identifier).stat().st_size == _size(description)
            known = Maker(*(str(description[key]) for key in ("model", "run", "fold", "weights")))
        except (StoreError, OSError, KeyError):
            return None
        return known if is_whole else None

    def open(self, identifier: str) -> NDArray[np.integer[Any]]:
        """The segmentation of a case, (Z, Y, X) int8 or int16, memory-mapped, read-only.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        description, path = self._description(identifier), self._array(identifier)
        try:
            with path.open("rb", buffering=0) as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            shape, dtype = tuple(description["shape"]), np.dtype(description["dtype"])
            return np.ndarray(shape, dtype, content, description["offset"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"the file is missing or damaged ({error})", path, _REMEDY) from error

    def shape(self, identifier: str) -> tuple[int, ...]:
        """(Z, Y, X) of the segmentation of a case; errors as `open`."""
        return tuple(int(size) for size in self._description(identifier)["shape"])

    def _description(self, identifier: str) -> dict[str, Any]:
        path = self._json(identifier)
        try:
            description = json.loads(path.read_bytes())
            if description["format"] != FORMAT:
                raise StoreError(f"format {description['format']} is not the format {FORMAT} of this segplan", path)
            return dict(description)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"the description is missing or damaged ({error!r})", path, _REMEDY) from error

    def _json(self, identifier: str) -> Path:
        return self.folder / f"{identifier}.json"

    def _array(self, identifier: str) -> Path:
        return self.folder / f"{identifier}.npy"


def _size(description: dict[str, Any]) -> int:
    return int(description["offset"] + np.prod(description["shape"]) * np.dtype(description["dtype"]).itemsize)
