"""A plan that a user names by its address or by a file, composed, with the files that it is made of."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segplan.entry.compose import compose_training
from segplan.entry.own_plan import check_own_file
from segplan.errors import ConfigError
from segplan.planning.comparison import Side, side


def read_side(given: str, workspace: Path) -> Side:
    """A plan to compare.

    Args:
        given: DATASET/[NAME/]CONFIGURATION in `workspace`, or a file: one in a workspace's folder `plan` is composed as
            training would; any other is taken as it is, with the `_dataset.yaml` beside it.
        workspace: where addresses are looked up.

    Raises:
        SegplanError: there is no such plan, or it is unusable.
    """
    path = Path(given).expanduser().absolute()
    if not given.endswith(".yaml") or not path.is_file():
        return _composed(given, given, workspace)
    root = next((parent for parent in path.parents if parent.name == "plan"), None)
    if root is not None and len(path.relative_to(root).parts) in (2, 3) and not path.stem.startswith("_"):
        return _composed(given, path.relative_to(root).with_suffix("").as_posix(), root.parent)
    shared = path.with_name("_dataset.yaml")
    files = [path, *([shared] if shared.is_file() and shared != path else [])]
    try:
        merged: Any = OmegaConf.to_container(OmegaConf.merge(*(OmegaConf.load(file) for file in reversed(files))))
    except (OmegaConfBaseException, ValueError, OSError) as error:
        raise ConfigError(f"cannot be read as a plan ({error})", path, "Name a plan's YAML file.") from error
    return side(given, merged, [_text(file) for file in files])


def _composed(name: str, address: str, workspace: Path) -> Side:
    config = compose_training(address, workspace)
    files, current = [], address
    while True:
        files.append(workspace / "plan" / f"{current}.yaml")
        base = check_own_file(current, workspace)
        if base is None or not (workspace / "plan" / f"{base}.yaml").is_file() or len(files) > 10:
            break
        current = base
    shared = files[-1].with_name("_dataset.yaml")
    return side(name, config, [_text(file) for file in (*files, *([shared] if shared.is_file() else []))])


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
