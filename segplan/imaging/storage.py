"""Writing a file so that it is either whole or absent."""

import errno
import glob
import os
import platform
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from segplan.errors import StorageError

TEMPORARY_PREFIX = ".tmp-"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG}
_IN_THE_WAY = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
_NEARLY_FULL_BYTES = 1 << 20


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and rename it to `path` when the block ends without an error.

    The temporary name has the same ending (writers that choose the format by it work) and begins with a dot. Missing
    parent folders are made. After an error nothing is left, and an older file of that name is as it was.

    Args:
        path: the file to be written.

    Yields:
        The path that the block must write to.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(temporary_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except Exception as error:
        trouble = _storage_trouble(error, path, temporary)
        if trouble is None:
            raise
        raise trouble from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside `path` that becomes `path` when the block ends without an error.

    After an error nothing is left. Missing parent folders are made.

    Args:
        path: the folder to be made; unless `replace`, it must not exist, or be empty.
        replace: an older folder of that name is deleted once the new one is whole.

    Yields:
        The folder that the block must fill.

    Raises:
        StorageError: it is the working folder, which cannot be replaced.
    """
    target = path.absolute()
    if target.is_dir() and target.samefile(Path.cwd()):
        raise StorageError("it is the working folder", path, "Name a folder within it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target)
    temporary, older = (target.with_name(temporary_name(target.name)) for _ in range(2))
    temporary.mkdir()
    try:
        yield temporary
        if replace and target.is_dir():
            target.replace(older)
        elif target.exists():
            target.rmdir()
        temporary.replace(target)
    finally:
        for folder in (temporary, older):
            shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(path: Path) -> None:
    """Delete what killed writers of this very file or folder left beside it."""
    for found in path.parent.glob(f"{TEMPORARY_PREFIX}*-{glob.escape(path.name)}"):
        if _is_abandoned(found):
            shutil.rmtree(found, ignore_errors=True)
            with suppress(OSError):
                found.unlink(missing_ok=True)


def remove_leftovers(folder: Path, older_than_s: float = 3600.0) -> int:
    """Delete the temporary files of `atomic_write` and folders of `atomic_folder` whose writers were killed.

    They go if their writer was a process of this machine that is gone; a file also if it is old. A younger one of
    another machine may belong to a writer at work, and so may any folder: its age says little.

    Returns:
        How many there were.
    """
    if not folder.is_dir():
        return 0
    removed = 0
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_dir():
            if _is_abandoned(path):
                shutil.rmtree(path, ignore_errors=True)
                removed += 1
            continue
        with suppress(FileNotFoundError):  # renamed or removed by its writer meanwhile
            if _is_abandoned(path) or path.stat().st_mtime <= time.time() - older_than_s:
                path.unlink()
                removed += 1
    return removed


def temporary_name(name: str) -> str:
    """Says which process of which machine writes it, and keeps the ending."""
    return f"{TEMPORARY_PREFIX}{_machine()}.{os.getpid()}.{secrets.token_hex(3)}-{name}"


@cache
def _machine() -> str:
    """Where process numbers mean the same: this machine since it was started, and this container."""
    parts = [platform.node()]
    with suppress(OSError):  # not Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return f"{zlib.crc32(' '.join(parts).encode()):08x}"


def _is_abandoned(path: Path) -> bool:
    """Whether the temporary file's name says that its writer ran here, and no such process runs."""
    machine, _, rest = path.name.removeprefix(TEMPORARY_PREFIX).partition(".")
    number = rest.partition(".")[0]
    if machine != _machine() or not number.isdigit():
        return False
    import psutil

    try:
        return bool(psutil.Process(int(number)).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _storage_trouble(error: Exception, path: Path, temporary: Path) -> StorageError | None:
    """The StorageError that `error` stands for, or None if it is about something else."""
    if _says_disk_full(error, path):
        return StorageError("no space left on the disk", path, "Free some space, or choose another folder.")
    if not isinstance(error, OSError) or error.errno not in _REFUSED:
        return None
    about = {str(name) for name in (error.filename, error.filename2) if name is not None}
    ours = {str(place) for place in (path, temporary, *path.parents)}
    if about and not about & ours:
        return None  # a file that the block reads, not the one that it writes
    reason = os.strerror(error.errno).lower()
    remedy = "Choose a folder that you may write to."
    if error.errno in _IN_THE_WAY:
        remedy = f"Move away what has the name of a folder or of a file: {error.filename2 or error.filename or path}."
    return StorageError(f"cannot be written ({reason})", path, remedy)


def _says_disk_full(error: Exception, path: Path) -> bool:
    """Whether `error` comes from a full disk, also where a library (torch, safetensors, ITK) hides the errno."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    if os.strerror(errno.ENOSPC) in str(error):
        return True
    try:
        return isinstance(error, RuntimeError) and shutil.disk_usage(path.parent).free < _NEARLY_FULL_BYTES
    except OSError:
        return False
