"""What this process may use of the machine's memory, and whether the system has killed for it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
_SHARED = Path("/dev/shm")  # noqa: S108 (looked at, not written)
_GB = 1e9


def available_memory(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Bytes that can still be used: the smaller of the machine's free memory and what the control groups leave.

    Args:
        root: where control groups are mounted.
        membership: the file that names this process's groups.
    """
    import psutil

    return min([int(psutil.virtual_memory().available), *(left for left, _ in _limits(root, membership))])


def total_memory(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Bytes of the machine's memory, or of the smallest control group's limit."""
    import psutil

    return min([int(psutil.virtual_memory().total), *(limit for _, limit in _limits(root, membership))])


def kills_for_memory(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """How many processes of this control group the system has killed for memory; 0 where it does not say."""
    for folder in _groups(root, membership):
        for name in ("memory.events", "memory.oom_control"):
            for key, value in _pairs(folder / name):
                if key == "oom_kill":
                    return value
    return 0


def memory_text() -> str:
    """Free memory and /dev/shm in a few words, for an error message."""
    text = f"free memory {available_memory() / _GB:.1f} of {total_memory() / _GB:.1f} GB"
    if _SHARED.is_dir():
        usage = shutil.disk_usage(_SHARED)
        text += f", /dev/shm {size_text(usage.free)} of {size_text(usage.total)} free"
    return text


def size_text(size: int) -> str:
    """Bytes as MB or GB."""
    return f"{size / _GB:.1f} GB" if size >= _GB else f"{size / 1e6:.0f} MB"


def _limits(root: Path, membership: Path) -> Iterator[tuple[int, int]]:
    """Per control group with a limit, the bytes that it leaves and the limit."""
    for folder in _groups(root, membership):
        for limit_file, used_file in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = _number(folder / limit_file), _number(folder / used_file)
            if limit is not None and used is not None:
                # Cached files count as used and are given up when memory is asked for.
                cached = sum(value for key, value in _pairs(folder / "memory.stat") if key == "inactive_file")
                yield max(0, limit - used + cached), limit


def _groups(root: Path, membership: Path) -> Iterator[Path]:
    """Folders of this process's memory groups, from its own up to the root."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        folder = top / group.strip("/")
        while folder != top:
            yield folder
            folder = folder.parent
        yield top


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # there is no such file, or "max": no limit
        return None


def _pairs(path: Path) -> Iterator[tuple[str, int]]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        key, _, value = line.partition(" ")
        if value.isdigit():
            yield key, int(value)
