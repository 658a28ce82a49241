"""The environment of a process that segplan starts."""

import os
from pathlib import Path


def child_environment() -> dict[str, str]:
    """This process's environment, in which the package is found although the current folder is not the checkout."""
    parent = str(Path(__file__).resolve().parents[2])
    paths = [parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
