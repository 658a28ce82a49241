"""The text of `--help`: the primary config's own header, its keys and groups, and what is planned."""

from pathlib import Path

from segplan.entry.locations import configs_folder, planned


def help_text(job: str, workspace: Path) -> str:
    """What `python JOB.py --help` prints; built from the config files alone, so it is quick and never out of date."""
    lines = (configs_folder() / f"{job}.yaml").read_text(encoding="utf-8").splitlines()
    header = [line[1:].removeprefix(" ") for line in _leading(lines)]
    keys = [f"  {line}" for line in _keys(lines[len(header) :])]
    parts = [*header, "", "Keys (key=value; --cfg job prints the whole configuration):", *keys]
    groups = [
        line.strip()[2:].removeprefix("optional ").split(":")[0]
        for line in lines
        if line.startswith("  - ") and "_self_" not in line
    ]
    options = {group: sorted(file.stem for file in (configs_folder() / group).glob("*.yaml")) for group in groups}
    shown = [f"  {group}={'|'.join(names)}" for group, names in options.items() if names]
    if shown:
        parts += ["", "Groups (group=option; each key inside as group.key=value):", *shown]
    if job in ("train", "predict"):
        plans = planned(workspace)
        parts += (
            ["", f"Planned in {workspace}:", *(f"  plan={name}" for name in plans)]
            if plans
            else ["", f"Nothing is planned in {workspace} yet."]
        )
    return "\n".join(parts)


def _keys(lines: list[str]) -> list[str]:
    """The lines that name a key, those inside a node included."""
    shown, node = [], ""
    for line in lines:
        if line and line[0].isalpha():
            node = line.partition(":")[0]
        if line.strip() and line.strip()[0].isalpha() and node not in ("defaults", "hydra"):
            shown.append(line)
    return shown


def _leading(lines: list[str]) -> list[str]:
    count = next((index for index, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return lines[:count]
