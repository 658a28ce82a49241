"""Writes a phantom dataset in nnU-Net's raw layout."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segplan.dataset.phantom.acquisition import KINDS, Kind, PhantomCase, draw_case
from segplan.dataset.phantom.anatomy import LABELS
from segplan.errors import ConfigError, StorageError
from segplan.imaging import Geometry, write_label_map

REVISION = 1
"""Of the phantom's parameters: it changes when any case would come out otherwise."""
_CHANNELS = {"ct": ("CT",), "mr": ("MR",), "rgb": ("R", "G", "B")}
_ENDINGS = {"ct": ".nii.gz", "mr": ".nii.gz", "rgb": ".png"}


def make_phantom(out: Path, kind: Kind, cases: int, seed: int, test_cases: int = 0) -> None:
    """Make a phantom dataset; the folder appears as a whole or not at all.

    Case i is a pure function of (kind, seed, i). The test cases carry on the numbering of the training cases and lie in
    imagesTs and labelsTs.

    Args:
        out: the dataset's folder; its name becomes the dataset's name.
        kind: "ct" (NIfTI, Hounsfield units), "mr" (NIfTI, arbitrary units) or "rgb" (2D PNG).
        cases: number of training cases.
        seed: of the whole dataset.
        test_cases: number of further cases for testing.

    Raises:
        ConfigError: an argument cannot work, or the folder exists and is not empty.
        StorageError: the disk is full or the folder cannot be written.
    """
    _check(out, kind, cases, seed, test_cases)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".tmp-{out.name}-", dir=out.parent))
    except OSError as error:
        raise StorageError("cannot be made", out, "Choose a folder that you may write to.") from error
    try:
        for index in range(cases + test_cases):
            subset = "Tr" if index < cases else "Ts"
            _write_case(unfinished, subset, f"phantom_{index:04d}", draw_case(kind, seed, index), kind)
        _write_description(unfinished, out.name, _parameters(kind, cases, seed, test_cases))
        unfinished.chmod(0o755)  # mkdtemp makes private folders
        if out.exists():
            out.rmdir()  # it is empty
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def holds_phantom(out: Path, kind: Kind, cases: int, seed: int, test_cases: int = 0) -> bool:
    """Whether the folder holds the phantom that `make_phantom` would make of these arguments."""
    try:
        description = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(description, dict) and description.get("phantom") == _parameters(kind, cases, seed, test_cases)


def _check(out: Path, kind: str, cases: int, seed: int, test_cases: int) -> None:
    if kind not in KINDS:
        raise ConfigError(f"there is no kind {kind}", "kind", f"Take one of {', '.join(KINDS)}.")
    if cases < 1 or test_cases < 0:
        raise ConfigError(f"cases={cases}, test_cases={test_cases}", "cases", "Make at least one training case.")
    if seed < 0:
        raise ConfigError(f"the seed is {seed}", "seed", "Take a whole number from 0 up.")
    if out.exists() and not out.is_dir():
        raise ConfigError("this is a file", out, "Give the path of a new folder.")
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError("the folder is not empty", out, "Give a new folder, or take this one away first.")


def _parameters(kind: str, cases: int, seed: int, test_cases: int) -> dict[str, Any]:
    return {"kind": kind, "cases": cases, "seed": seed, "test_cases": test_cases, "revision": REVISION}


def _write_description(folder: Path, name: str, parameters: Mapping[str, Any]) -> None:
    kind = parameters["kind"]
    description = {
        "name": name,
        "description": f"segplan's {kind} phantom: synthetic, no patient's data",
        "channel_names": {str(index): channel for index, channel in enumerate(_CHANNELS[kind])},
        "labels": LABELS,
        "numTraining": parameters["cases"],
        "file_ending": _ENDINGS[kind],
        "phantom": parameters,
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=4) + "\n", encoding="utf-8")


def _write_case(folder: Path, subset: str, identifier: str, case: PhantomCase, kind: Kind) -> None:
    images, labels = folder / f"images{subset}", folder / f"labels{subset}"
    images.mkdir(exist_ok=True)
    labels.mkdir(exist_ok=True)
    image_path = images / f"{identifier}_0000{_ENDINGS[kind]}"
    label_path = labels / f"{identifier}{_ENDINGS[kind]}"
    if kind == "rgb":
        _write_picture(image_path, case.image)
        geometry = Geometry(2, (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    else:
        geometry = Geometry(3, case.spacing[::-1], case.origin, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
        _write_volume(image_path, case.image, geometry)
    write_label_map(label_path, case.labels, geometry)


def _write_picture(path: Path, image: NDArray[np.float32]) -> None:
    """Write an image (3, 1, Y, X) of whole numbers up to 255 as an RGB picture."""
    from PIL import Image as Pillow

    Pillow.fromarray(image[:, 0].transpose(1, 2, 0).astype(np.uint8)).save(path)


def _write_volume(path: Path, image: NDArray[np.float32], geometry: Geometry) -> None:
    """Write an image (1, Z, Y, X) of whole numbers as NIfTI, 16 bit."""
    import SimpleITK

    volume = SimpleITK.GetImageFromArray(image[0].astype(np.int16))
    volume.SetSpacing(geometry.spacing)
    volume.SetOrigin(geometry.origin)
    volume.SetDirection(geometry.direction)
    SimpleITK.WriteImage(volume, str(path), useCompression=True)
