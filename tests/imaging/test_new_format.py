"""The seam for formats: one module with ENDINGS and three functions, named in one tuple, and everything works."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from segplan.errors import ImageError
from segplan.imaging import Geometry, Image, atomic_write, files, read_image, read_label_map, write_label_map

GEOMETRY = Geometry(3, (2.0, 1.0, 3.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def toy_format() -> ModuleType:
    """Text files: the shape in the first line, the numbers in the second."""
    toy = ModuleType("toy")

    def read(path: Path) -> Image:
        shape, numbers = path.read_text().splitlines()
        array = np.array(numbers.split(), dtype=float).reshape([1, *map(int, shape.split())])
        return Image(array, (3.0, 1.0, 2.0), GEOMETRY)

    def write_labels(path: Path, labels: np.ndarray, geometry: Geometry) -> None:
        with atomic_write(path) as temporary:
            temporary.write_text(f"{' '.join(map(str, labels.shape))}\n{' '.join(map(str, labels.ravel()))}")

    toy.ENDINGS = {".toy": ".toy", ".toyjpg": ".toy"}
    toy.read_image = toy.read_labels = read
    toy.write_labels = write_labels
    return toy


@pytest.fixture
def _toy(monkeypatch):
    toy = toy_format()
    monkeypatch.setattr(files, "_FORMATS", (*files._FORMATS, toy))
    monkeypatch.setattr(files, "IMAGE_ENDINGS", (*files.IMAGE_ENDINGS, *toy.ENDINGS))


@pytest.mark.usefixtures("_toy")
def test_a_format_is_one_module(tmp_path):
    labels = np.arange(24).reshape(2, 3, 4)
    write_label_map(tmp_path / "a.toy", labels, GEOMETRY)
    read = read_label_map(tmp_path / "a.toy")
    assert read.array.dtype == np.uint8
    np.testing.assert_array_equal(read.array[0], labels)
    assert read_image([tmp_path / "a.toy"]).array.dtype == np.float32
    assert files.split_ending("case.TOY") == ("case", ".TOY")
    assert files.label_ending_for("case.toyjpg") == ".toy"
    assert files.label_ending_for("case.TOY") == ".TOY"


@pytest.mark.usefixtures("_toy")
def test_it_needs_no_checks_of_its_own(tmp_path):
    (tmp_path / "empty.toy").write_text("")
    (tmp_path / "fraction.toy").write_text("1 1 1\n0.5")
    with pytest.raises(ImageError, match="empty"):
        read_image([tmp_path / "empty.toy"])
    with pytest.raises(ImageError, match="no such file"):
        read_image([tmp_path / "absent.toy"])
    with pytest.raises(ImageError, match="whole numbers"):
        read_label_map(tmp_path / "fraction.toy")
    with pytest.raises(ImageError, match=r"0000|differs"):
        (tmp_path / "b.toy").write_text("1 1 2\n1 2")
        read_image([tmp_path / "fraction.toy", tmp_path / "b.toy"])


def test_every_format_here_has_the_functions_and_lower_case_endings():
    for module in files._FORMATS:
        assert all(callable(getattr(module, name)) for name in ("read_image", "read_labels", "write_labels"))
        assert all(ending == ending.lower() and ending[0] == "." for ending in module.ENDINGS)
    assert len(set(files.IMAGE_ENDINGS)) == len(files.IMAGE_ENDINGS)
    written = {files.label_ending_for(f"a{ending}") for ending in files.IMAGE_ENDINGS}
    assert written <= set(files.IMAGE_ENDINGS) - {".jpg", ".jpeg", ".dcm"}


def test_importing_the_package_imports_no_decoder():
    import subprocess
    import sys

    heavy = ("SimpleITK", "tifffile", "PIL", "scipy", "nibabel", "torch")
    code = f"import sys, segplan.imaging; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
