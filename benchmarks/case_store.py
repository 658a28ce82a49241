"""Which format the case store should have: random box reads (warm and cold), writing time and disk use of each.

Every format holds the same preprocessed image. Each read opens the case anew, as a training sample does. blosc2 and
zarr are no dependencies of segplan: `pip install blosc2 zarr` first, else their rows are left out.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmark_data import DATA_VARIABLE, HIPPOCAMPUS, SARCOMA
from large_ct import SPACING_XYZ, large_ct
from measure import print_machine
from numpy.typing import NDArray

from segplan.dataset import scan_dataset
from segplan.imaging import Geometry, Image, read_image
from segplan.preprocessing import PreprocessingPlan, preprocess

Box = tuple[slice, slice, slice]
Array = NDArray[np.generic]

CT = {"mean": 40.0, "std": 60.0, "percentile_00_5": -100.0, "percentile_99_5": 220.0}
FLAT_GEOMETRY = Geometry(3, (1.0,) * 3, (0.0,) * 3, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
NNUNET_CHUNK, NNUNET_BLOCK = (1, 192, 128, 128), (1, 64, 32, 32)  # of a CT and a patch of 128³
SMALL_CHUNK, SMALL_BLOCK = (1, 64, 64, 64), (1, 32, 32, 32)


@dataclass(frozen=True)
class Format:
    """A way to keep an image (C, Z, Y, X); `read` opens the file and copies a box of every channel out of it."""

    name: str
    write: Callable[[NDArray[np.float32], Path], None]
    read: Callable[[Path, Box], Array]


@dataclass(frozen=True)
class Cost:
    """What one format costs for one set of images."""

    write_s: float
    mib: float
    files: int
    warm_ms: dict[int, float]
    cold_ms: dict[int, float]
    cold_mib: dict[int, float]


def formats() -> list[Format]:
    """All that can be tried here."""
    found = [
        Format("npy float32, memory map", _write_npy(np.float32), _read_npy),
        Format("npy float16, memory map", _write_npy(np.float16), _read_npy),
    ]
    try:
        import blosc2  # noqa: F401
    except ImportError:
        print("note: blosc2 is not installed, its rows are left out")
    else:
        found += [
            Format("blosc2 LZ4HC 5, nnU-Net's chunks", _write_b2nd("LZ4HC", 5, NNUNET_CHUNK, NNUNET_BLOCK), _read_b2nd),
            Format("blosc2 LZ4 1, nnU-Net's chunks", _write_b2nd("LZ4", 1, NNUNET_CHUNK, NNUNET_BLOCK), _read_b2nd),
            Format("blosc2 ZSTD 1, nnU-Net's chunks", _write_b2nd("ZSTD", 1, NNUNET_CHUNK, NNUNET_BLOCK), _read_b2nd),
            Format("blosc2 ZSTD 1, chunks 64³", _write_b2nd("ZSTD", 1, SMALL_CHUNK, SMALL_BLOCK), _read_b2nd),
            Format(
                "blosc2 ZSTD 1, chunks 64³, float16",
                _write_b2nd("ZSTD", 1, SMALL_CHUNK, SMALL_BLOCK, np.float16),
                _read_b2nd,
            ),
        ]
    try:
        import zarr  # noqa: F401
    except ImportError:
        print("note: zarr is not installed, its rows are left out")
    else:
        found += [
            Format("zarr ZSTD 1, chunks 64³", _write_zarr(64), _read_zarr),
            Format("zarr ZSTD 1, chunks 128³", _write_zarr(128), _read_zarr),
        ]
    return found


def _write_npy(dtype: type) -> Callable[[NDArray[np.float32], Path], None]:
    def write(array: NDArray[np.float32], path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, array.astype(dtype, copy=False))

    return write


def _read_npy(path: Path, box: Box) -> Array:
    return np.array(np.load(path, mmap_mode="r")[(slice(None), *box)])


def _write_b2nd(
    codec: str, level: int, chunk: tuple[int, ...], block: tuple[int, ...], dtype: type = np.float32
) -> Callable[[NDArray[np.float32], Path], None]:
    def write(array: NDArray[np.float32], path: Path) -> None:
        import blosc2

        settings = {
            "codec": getattr(blosc2.Codec, codec),
            "clevel": level,
            "filters": [blosc2.Filter.SHUFFLE],
            "nthreads": 1,
        }
        chunks = tuple(map(min, chunk, array.shape))
        blocks = tuple(map(min, block, chunks))
        blosc2.asarray(
            np.ascontiguousarray(array.astype(dtype, copy=False)),
            urlpath=str(path),
            mode="w",
            chunks=chunks,
            blocks=blocks,
            cparams=settings,
        )

    return write


def _read_b2nd(path: Path, box: Box) -> Array:
    import blosc2

    array = blosc2.open(urlpath=str(path), mode="r", dparams={"nthreads": 1}, mmap_mode="r")
    return np.asarray(array[(slice(None), *box)])


def _write_zarr(edge: int) -> Callable[[NDArray[np.float32], Path], None]:
    def write(array: NDArray[np.float32], path: Path) -> None:
        import zarr

        codec = zarr.codecs.BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")
        chunks = (1, *(min(edge, size) for size in array.shape[1:]))
        made = zarr.create_array(
            store=str(path), shape=array.shape, dtype=array.dtype, chunks=chunks, compressors=codec
        )
        made[...] = array

    return write


def _read_zarr(path: Path, box: Box) -> Array:
    import zarr

    return np.asarray(zarr.open_array(str(path), mode="r")[(slice(None), *box)])


def measure(
    one: Format, images: Sequence[NDArray[np.float32]], edges: Sequence[int], reads: int, scratch: Path
) -> Cost:
    """Write all images, then read boxes of each edge from a random image at a random place, warm and cold."""
    folder = scratch / "store"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    paths = [folder / f"{number}.b2nd" for number in range(len(images))]
    start = time.perf_counter()
    for image, path in zip(images, paths, strict=True):
        one.write(image, path)
    write_s = (time.perf_counter() - start) / len(images)
    os.sync()
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_blocks * 512 for path in files)
    warm, cold, read = {}, {}, {}
    for edge in edges:
        cold_times, cold_bytes, warm_times = [], [], []
        for number, box in _boxes(images, edge, reads):
            _forget(files)
            before, start = _bytes_read(), time.perf_counter()
            found = one.read(paths[number], box)
            cold_times.append(time.perf_counter() - start)
            cold_bytes.append(_bytes_read() - before)
            start = time.perf_counter()
            found = one.read(paths[number], box)
            warm_times.append(time.perf_counter() - start)
            if not np.allclose(found, images[number][(slice(None), *box)], rtol=1e-3, atol=1e-3):
                raise SystemExit(f"{one.name}: what was read is not what was written")
        warm[edge] = 1e3 * statistics.median(warm_times)
        cold[edge] = 1e3 * statistics.median(cold_times)
        read[edge] = statistics.median(cold_bytes) / 2**20
    shutil.rmtree(folder)
    return Cost(write_s, size / len(images) / 2**20, len(files) // len(images), warm, cold, read)


def _boxes(images: Sequence[NDArray[np.float32]], edge: int, reads: int) -> Iterator[tuple[int, Box]]:
    random = np.random.default_rng(edge)
    for _ in range(reads):
        number = int(random.integers(len(images)))
        starts = [int(random.integers(max(0, size - edge) + 1)) for size in images[number].shape[1:]]
        z, y, x = (
            slice(low, min(low + edge, size)) for low, size in zip(starts, images[number].shape[1:], strict=True)
        )
        yield number, (z, y, x)


def _forget(files: Sequence[Path]) -> None:
    """Drop the files' pages from the kernel's cache; they are on the disk already."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _bytes_read() -> int:
    """What this process has had read from block devices so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def ct_images(slices: int) -> list[NDArray[np.float32]]:
    """One phantom CT, resampled to 1 mm."""
    image, _ = large_ct(slices, classes=3)
    plan = PreprocessingPlan((1.0, 1.0, 1.0), (0, 1, 2), ("ct",), (False,), (CT,))
    case = Image(image[None].astype(np.float32), (SPACING_XYZ[2], SPACING_XYZ[1], SPACING_XYZ[0]), FLAT_GEOMETRY)
    return [preprocess(case, None, plan).image]


def real_images(dataset: str, count: int, scheme: str) -> list[NDArray[np.float32]]:
    """The first cases of a real dataset at 1 mm; none where the data are not at hand."""
    root = os.environ.get(DATA_VARIABLE)
    if not root:
        print(f"note: ${DATA_VARIABLE} is not set, so {dataset} is left out")
        return []
    found, _ = scan_dataset(Path(root) / dataset)
    plan = PreprocessingPlan((1.0, 1.0, 1.0), (0, 1, 2), (scheme,), (False,), (CT if scheme == "ct" else None,))
    return [preprocess(read_image(case.images), None, plan).image for case in found.cases[:count]]


def print_table(title: str, costs: dict[str, Cost], edges: Sequence[int]) -> None:
    print(f"\n{title}\n")
    heads = [head for edge in edges for head in (f"warm {edge}³, ms", f"cold {edge}³, ms (MiB read)")]
    print(f"| format | write, s | disk, MiB | files | {' | '.join(heads)} |")
    print("|" + "---|" * (4 + len(heads)))
    for name, cost in costs.items():
        cells = []
        for edge in edges:
            cells += [f"{cost.warm_ms[edge]:.1f}", f"{cost.cold_ms[edge]:.0f} ({cost.cold_mib[edge]:.1f})"]
        print(f"| {name} | {cost.write_s:.2f} | {cost.mib:.2f} | {cost.files} | {' | '.join(cells)} |")


def compare(title: str, images: list[NDArray[np.float32]], edges: Sequence[int], reads: int, scratch: Path) -> None:
    """Measure all formats on the same images."""
    if not images:
        return
    sizes = "×".join(map(str, images[0].shape[1:]))
    costs = {one.name: measure(one, images, edges, reads, scratch) for one in formats()}
    print_table(f"{title}: {len(images)} image(s), the first of {sizes} voxels; costs are per image", costs, edges)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Formats for the case store, measured.")
    parser.add_argument("--slices", type=int, default=400, help="of the phantom CT (default 400)")
    parser.add_argument("--reads", type=int, default=15, help="boxes a size (default 15)")
    parser.add_argument("--scratch", type=Path, help="folder on the disk to measure (default: the temporary folder)")
    arguments = parser.parse_args(argv)
    print_machine()
    with tempfile.TemporaryDirectory(prefix="segplan-store-", dir=arguments.scratch) as name:
        compare("Phantom CT at 1 mm", ct_images(arguments.slices), (128, 205), arguments.reads, Path(name))
        compare(SARCOMA, real_images(SARCOMA, 9, "ct"), (128,), arguments.reads, Path(name))
        compare(HIPPOCAMPUS, real_images(HIPPOCAMPUS, 20, "zscore"), (64,), arguments.reads, Path(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
