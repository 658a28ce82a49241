"""The limits that containers and SLURM set: Linux control groups of version 1 and 2."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")

_UNLIMITED = 1 << 60
# Per version: a group's limit, what it uses, and the key of the files that it caches, which are given up when needed.
_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def control_groups(controller: str, root: Path = ROOT, membership: Path = MEMBERSHIP) -> Iterator[Path]:
    """Folders of this process's groups for `controller` (cpu, memory), from its own up to the root.

    Args:
        controller: its name in version 1; version 2 has one tree for all.
        root: where control groups are mounted.
        membership: the file that names this process's groups.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            tops = [root, root / "unified"]
        elif controller in controllers.split(","):
            tops = [root / controller, root / controllers]
        else:
            continue
        for top in tops:
            folder = top / group.strip("/")
            yield folder
            while folder != top:
                folder = folder.parent
                yield folder


def available_memory(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """Bytes that can still be used: the smaller of the machine's free memory and what the control groups leave."""
    import psutil

    return min([int(psutil.virtual_memory().available), *(left for left, _ in _memory_limits(root, membership))])


def total_memory(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """Bytes of the machine's memory, or of the smallest control group's limit."""
    import psutil

    return min([int(psutil.virtual_memory().total), *(limit for _, limit in _memory_limits(root, membership))])


def kills_for_memory(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """How many processes of this control group the system has killed for memory; 0 where it does not say."""
    for folder in control_groups("memory", root, membership):
        for name in ("memory.events", "memory.oom_control"):
            for key, value in _pairs(folder / name):
                if key == "oom_kill":
                    return value
    return 0


def _memory_limits(root: Path, membership: Path) -> Iterator[tuple[int, int]]:
    """Per group with a limit, the bytes that it leaves and the limit."""
    for folder in control_groups("memory", root, membership):
        for limit_file, used_file, cached_key in _MEMORY_FILES:
            limit, used = _number(folder / limit_file), _number(folder / used_file)
            if limit is not None and used is not None and limit < _UNLIMITED:
                cached = sum(value for key, value in _pairs(folder / "memory.stat") if key == cached_key)
                yield max(0, limit - used + cached), limit


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
        if value.strip().isdigit():
            yield key, int(value)
