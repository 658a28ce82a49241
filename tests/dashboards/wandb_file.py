"""Reads the file that wandb writes offline: records of protobuf in LevelDB's log format."""

import json
import struct
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

_BLOCK, _FILE_HEADER, _HEADER = 32768, 7, 7
_FULL, _FIRST, _LAST = 1, 2, 4


def records(path: Path) -> list[Record]:
    content, at, parts, found = path.read_bytes(), _FILE_HEADER, b"", []
    while at + _HEADER <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:  # the rest of a block that holds no header is padding
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, at)
        part = content[at + _HEADER : at + _HEADER + size]
        if len(part) < size:
            break  # still being written
        parts = part if kind in (_FULL, _FIRST) else parts + part
        at += _HEADER + size
        if kind in (_FULL, _LAST):
            found.append(Record.FromString(parts))
    return found


def history(path: Path) -> list[dict[str, Any]]:
    """The rows that were logged."""
    rows = [record.history for record in records(path) if record.HasField("history")]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item} for row in rows]


def config(path: Path) -> dict[str, Any]:
    """The settings that were logged."""
    found: dict[str, Any] = {}
    for record in records(path):
        updates = [record.run.config, record.config] if record.HasField("run") else [record.config]
        for update in updates:
            found |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in update.update}
    return found
