"""How many processors this process may really use."""

import os
from collections.abc import Iterator
from pathlib import Path

from segplan.preprocessing.control_groups import MEMBERSHIP, ROOT, control_groups


def available_cpus(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """The smaller of CPU affinity and the control group's CPU quota (rounded down, at least 1).

    Containers and SLURM limit a job by quota, which `os.cpu_count` does not know: workers beyond it only take turns.

    Args:
        root: where control groups are mounted.
        membership: the file that names this process's groups.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in control_groups("cpu", root, membership) for quota in _quota(folder)]
    return max(1, min(affinity, int(min(quotas, default=float(affinity)))))


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
