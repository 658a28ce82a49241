"""How many processors this process may really use."""

import os
from collections.abc import Iterator
from pathlib import Path


def available_cpus(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """The smaller of CPU affinity and the control group's CPU quota (rounded down, at least 1).

    Containers and SLURM limit a job by quota, which `os.cpu_count` does not know: workers beyond it only take turns.

    Args:
        root: where control groups are mounted.
        membership: the file that names this process's groups.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = list(_quotas(root, membership))
    return max(1, min(affinity, int(min(quotas, default=float(affinity)))))


def _quotas(root: Path, membership: Path) -> Iterator[float]:
    """CPUs allowed by each group on the way from the process's own up to the root; unlimited ones are left out."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            tops = [root, root / "unified"]
        elif "cpu" in controllers.split(","):
            tops = [root / "cpu", root / controllers]
        else:
            continue
        for top in tops:
            folder = top / group.strip("/")
            yield from _quota(folder)
            while folder != top:
                folder = folder.parent
                yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    """The quota of one group: version 2's cpu.max ("max 100000" is none), or version 1's pair (-1 is none)."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        elif (folder / "cpu.cfs_quota_us").is_file():
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        else:
            return
        if quota not in ("max", "-1"):
            yield int(quota) / int(period)
    except (OSError, ValueError):  # a group that hides its limits does not limit what we can know
        return
