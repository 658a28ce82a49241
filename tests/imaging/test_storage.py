"""Files are whole or absent, and a full disk is said in one line."""

import errno
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segplan.errors import ImageError, StorageError
from segplan.imaging import atomic_folder, atomic_write, read_image, remove_leftovers, write_label_map


def test_the_file_appears_with_its_content_and_nothing_else(tmp_path):
    target = tmp_path / "new" / "folder" / "a.nii.gz"
    with atomic_write(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.name.endswith("a.nii.gz")
        assert not target.exists()
        temporary.write_text("content")
    assert target.read_text() == "content"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_leaves_the_older_file_and_no_remains(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(KeyError), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise KeyError("defect")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "model"
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("content")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["a"]
    with pytest.raises(KeyError), atomic_folder(tmp_path / "other") as temporary:
        (temporary / "a").write_text("half")
        raise KeyError("defect")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_the_working_folder_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match="working folder"), atomic_folder(Path()):
        pass
    assert Path.cwd() == tmp_path


def test_removing_leftovers_passes_folders_over(tmp_path):
    (tmp_path / ".tmp-model-abc").mkdir()
    assert remove_leftovers(tmp_path, older_than_s=-1) == 0
    assert (tmp_path / ".tmp-model-abc").is_dir()


def test_an_interrupt_leaves_no_remains(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_storage_trouble_in_the_block_is_a_storage_error(tmp_path, number):
    with pytest.raises(StorageError) as caught, atomic_write(tmp_path / "a.json"):
        raise OSError(number, os.strerror(number))
    assert str(tmp_path / "a.json") in str(caught.value)
    assert ("no space left" in str(caught.value)) == (number in (errno.ENOSPC, errno.EDQUOT))


def test_storage_trouble_at_the_rename_is_a_storage_error(tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match="no space left"), atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("content")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_that_a_library_reports_in_its_own_way_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="no space left"), atomic_write(tmp_path / "a.safetensors"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"), atomic_write(tmp_path / "file" / "a.json"):
        pytest.fail("the block must not run")


def test_trouble_with_another_file_stays_what_it_is(tmp_path):
    for error in (
        PermissionError(errno.EACCES, "denied", "/elsewhere/input.nii"),
        FileNotFoundError(errno.ENOENT, "gone"),
    ):
        with pytest.raises(type(error)), atomic_write(tmp_path / "a.json"):
            raise error
    with pytest.raises(ImageError), atomic_write(tmp_path / "a.json"):
        raise ImageError("bad")


@pytest.fixture
def tiny_disk(tmp_path):
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)]
    try:
        refused = subprocess.run(command, check=False, capture_output=True).returncode != 0
    except OSError:
        refused = True
    if refused:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".gipl", ".png", ".tif"])
def test_a_label_map_on_a_full_disk_is_a_storage_error_and_nothing_remains(tmp_path, tiny_disk, ending):
    flat = ending in (".png", ".tif")
    shape = (1, 400, 400) if flat else (50, 60, 60)
    source = tmp_path / "image.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros(shape[1:] if flat else shape, dtype=np.uint8)), str(source))
    labels = np.random.default_rng(0).integers(0, 200, shape).astype(np.uint8)
    with pytest.raises(StorageError, match="no space left"):
        write_label_map(tiny_disk / f"a{ending}", labels, read_image([source]).geometry)
    assert not list(tiny_disk.iterdir())
