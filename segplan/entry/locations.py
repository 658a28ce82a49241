"""Where the shipped configs and the user's workspace stand."""

import os
from collections.abc import Sequence
from pathlib import Path

from segplan.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]
_NOT_A_PLAN = ("_",)


def configs_folder() -> Path:
    """The hand-written Hydra groups: in the wheel `segplan/configs`, in a checkout `configs` beside the package."""
    for folder in (PACKAGE / "configs", PACKAGE.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(
        "segplan's configs are missing",
        where=PACKAGE,
        remedy="Reinstall segplan (pip install --force-reinstall segplan).",
    )


def workspace_folder(arguments: Sequence[str]) -> Path:
    """The workspace that `arguments` name (`workspace=DIR`), else `$SEGPLAN_WORKSPACE`, else `./workspace`; absolute.

    It is read before Hydra runs, because Hydra's search path cannot take a value from the command line.
    """
    chosen = os.environ.get("SEGPLAN_WORKSPACE") or "workspace"
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key.lstrip("+") == "workspace" and value:
            chosen = value
    if len(chosen) > 1 and chosen[0] == chosen[-1] and chosen[0] in "'\"":
        chosen = chosen[1:-1]
    return Path(chosen).expanduser().absolute()


def planned(workspace: Path) -> list[str]:
    """All plans in the workspace as `DATASET/CONFIGURATION` or `DATASET/NAME/CONFIGURATION`, sorted."""
    root = workspace / "plan"
    files = [*root.glob("*/*.yaml"), *root.glob("*/*/*.yaml")]
    names = [
        file.relative_to(root).with_suffix("").as_posix() for file in files if not file.name.startswith(_NOT_A_PLAN)
    ]
    return sorted(name for name in names if not name.endswith(".new"))
