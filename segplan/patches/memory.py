"""Memory in words, for the messages of the loader."""

import shutil
from pathlib import Path

from segplan.preprocessing.control_groups import available_memory, total_memory

_SHARED = Path("/dev/shm")  # noqa: S108 (looked at, not written)
_GB = 1e9


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
