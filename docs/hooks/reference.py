"""mkdocs hook: writes the reference from the code and the configs when the documentation is built; no file is kept."""

import contextlib
import io
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    "segplan.errors",
    "segplan.imaging",
    "segplan.dataset",
    "segplan.planning",
    "segplan.preprocessing",
    "segplan.augmentation",
    "segplan.patches",
    "segplan.networks",
    "segplan.inference",
    "segplan.evaluation",
    "segplan.training",
    "segplan.dashboards",
)
_TOP = ("plan", "train", "predict")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the written ones."""
    pages = {"reference/configs.md": configs(), "reference/commands.md": commands()}
    pages |= {f"reference/{name.removeprefix('segplan.')}.md": module(name) for name in MODULES}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def configs() -> str:
    """Every shipped configuration file, group by group."""
    parts = ["# Configurations\n\nAll files as they are shipped; `python train.py --help` lists them too.\n"]
    for name in _TOP:
        parts.append(_file(f"{name}.py", ROOT / "configs" / f"{name}.yaml"))
    folders = sorted(path for path in (ROOT / "configs").rglob("*") if path.is_dir())
    for folder in folders:
        group = folder.relative_to(ROOT / "configs").as_posix()
        files = sorted(folder.glob("*.yaml"))
        parts += [f"## {group}\n"] if files else []
        parts += [_file(f"{group}={path.stem}", path, level=3) for path in files]
    return "\n".join(parts)


def commands() -> str:
    """The help of every job of the `segplan` command."""
    from segplan.cli import job_names, main

    parts = ["# The segplan command\n\n`key=value` works for every `--key value`.\n"]
    for name in job_names():
        if name in _TOP:
            continue
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main([name, "--help"])
        parts.append(f"## segplan {name}\n\n```text\n{text.getvalue().rstrip()}\n```\n")
    return "\n".join(parts)


def module(name: str) -> str:
    """What a package offers to other programs: the names in its `__all__`."""
    import importlib

    loaded: Any = importlib.import_module(name)
    title = f"# {name}\n\n{(loaded.__doc__ or '').strip()}\n"
    names = getattr(loaded, "__all__", None)
    if names is None:
        return f"{title}\n::: {name}\n"
    places = dict.fromkeys(_place(getattr(loaded, each)) for each in sorted(names))
    return title + "".join(f"\n::: {place}\n" for place in places if place is not None)


def _place(thing: Any) -> str | None:
    """Where a class or function of segplan is defined; None for anything else."""
    module = getattr(thing, "__module__", None) or ""
    return f"{module}.{thing.__qualname__}" if callable(thing) and module.startswith("segplan") else None


def _file(title: str, path: Path, level: int = 2) -> str:
    return f"{'#' * level} {title}\n\n```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```\n"
