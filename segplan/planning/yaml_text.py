"""YAML as text, with comments: values on one line each, readable with any YAML reader and with OmegaConf."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_BARE = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]*|\.[A-Za-z][A-Za-z0-9.]*|/?[A-Za-z][A-Za-z0-9_./-]*|[23]d(_[a-z]+)*")
_RESERVED = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null", ".nan", ".inf"))
_COMMENT_COLUMN = 40


@dataclass(frozen=True)
class Entry:
    """One key of a section, its value, and what stands beside it as a comment."""

    key: str
    value: Any
    comment: str = ""


def section(name: str, entries: Sequence[Entry]) -> list[str]:
    """The lines of a top-level node."""
    lines = [f"{name}:"]
    for entry in entries:
        if isinstance(entry.value, Mapping) and entry.value:
            lines.append(_with_comment(f"  {key(entry.key)}:", entry.comment))
            lines += [f"    {key(str(name))}: {flow(value)}" for name, value in entry.value.items()]
        else:
            lines.append(_with_comment(f"  {key(entry.key)}: {flow(entry.value)}", entry.comment))
    return lines


def flow(value: Any) -> str:
    """`value` on one line: scalars, lists [a, b] and mappings {k: v}, nested."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key(str(name))}: {flow(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float):
        return _number(value)
    # An interpolation mark in someone's text is text.
    return key(str(value).replace("${", "\\${"))


def short(value: Any) -> str:
    """`value` for a person's eye: numbers rounded, lists of lists as sizes (1×3×3  3×3×3)."""
    if isinstance(value, list | tuple) and value:
        if all(isinstance(item, list | tuple) for item in value):
            return "  ".join("×".join(short(edge) for edge in item) for item in value)
        return f"[{', '.join(short(item) for item in value)}]"
    return f"{value:.6g}" if isinstance(value, float) else flow(value)


def key(text: str) -> str:
    """`text` bare where YAML reads it as the same string, else in double quotes."""
    if _BARE.fullmatch(text) and text.casefold() not in _RESERVED:
        return text
    return json.dumps(text, ensure_ascii=False)


def whole(values: Sequence[float | None]) -> list[float | int | None]:
    """Numbers without a fraction as integers."""
    return [int(value) if value is not None and float(value).is_integer() else value for value in values]


def _number(value: float) -> str:
    text = repr(value)
    if text in ("inf", "-inf", "nan"):
        return text.replace("inf", ".inf").replace("nan", ".nan")
    # YAML 1.1 reads 1e-05 as a string.
    mantissa, mark, exponent = text.partition("e")
    return f"{mantissa}.0e{exponent}" if mark and "." not in mantissa else text


def _with_comment(text: str, comment: str) -> str:
    if not comment:
        return text
    return f"{text:<{_COMMENT_COLUMN}}  # {' '.join(comment.split())}"
