"""What a shell delivers, made safe for Hydra's grammar: any path works as a value, quoted or not."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

PATH_KEYS = frozenset(
    (
        "dataset",
        "workspace",
        "fingerprint",
        "dataset_json",
        "plan",
        "run",
        "name",
        "model",
        "input",
        "output",
        "previous_stage",
        "selection",
    )
) | {"finetune.checkpoint", "plan.previous_stage_run", "planner.adopt", "split.group_by"}
_NEVER_LISTS = frozenset(("split.group_by",))


def quote_paths(arguments: Sequence[str], plans: Collection[str] = (), *, multirun: bool = False) -> list[str]:
    """Quote the values of path-like keys, so that spaces, commas, `=`, parentheses and `$` reach the job as they are.

    Values that are quoted already stay; a value in brackets is a list, split at its commas, unless a file of that name
    exists. With `multirun`, commas of `plan=` separate choices unless the whole value is the name of one of `plans`.
    """
    return [_quote_argument(argument, plans, multirun) for argument in arguments]


def name_selection(argument: str) -> str:
    """`inference=FILE.yaml`, which is no choice of the group `inference`, as `selection=FILE.yaml`."""
    key, _, value = argument.partition("=")
    is_file = key == "inference" and value.strip("'\"").lower().endswith((".yaml", ".yml"))
    return f"selection={value}" if is_file else argument


def quote(value: str) -> str:
    """`value` as a quoted string of Hydra's override grammar that is no interpolation."""
    # In Hydra's grammar a backslash is itself, except in a run of them before a quote: there each is written twice.
    escaped = re.sub(r"(\\*)'", lambda match: f"{match[1] * 2}\\'", value)
    escaped = re.sub(r"\\+$", lambda match: match[0] * 2, escaped).replace("${", "\\${")
    return f"'{escaped}'"


def _quote_argument(argument: str, plans: Collection[str], multirun: bool) -> str:
    key, separator, value = argument.partition("=")
    if not separator or key.lstrip("+~") not in PATH_KEYS or not value or value in ("null", "???"):
        return argument
    if _is_quoted(value) or (multirun and _is_sweep_function(value)):
        return argument
    if key not in _NEVER_LISTS and _is_list(value):
        return f"{key}=[{','.join(_quote_element(element) for element in value[1:-1].split(','))}]"
    if multirun and value not in plans and "," in value and not Path(value).exists():
        return f"{key}={','.join(quote(choice.strip()) for choice in value.split(','))}"
    return f"{key}={quote(value)}"


def _quote_element(element: str) -> str:
    element = element.strip()
    return element if not element or _is_quoted(element) else quote(element)


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] and value[0] in "'\""


def _is_list(value: str) -> bool:
    return value.startswith("[") and value.endswith("]") and not Path(value).exists()


def _is_sweep_function(value: str) -> bool:
    return value.startswith(("choice(", "glob(", "range(", "interval(")) and value.endswith(")")
