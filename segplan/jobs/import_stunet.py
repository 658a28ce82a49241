"""Import STU-Net's published weights, and say what the model folder is good for."""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any

import yaml

from segplan.errors import ConfigError


def run(source: Path, target: Path, given: Mapping[str, str]) -> int:
    """Make the model folder `target` of the file `source`.

    Args:
        source: the file of weights.
        target: the folder to make.
        given: values of `ImportSettings` as text, in YAML.

    Raises:
        ModelError: the file cannot be used.
        ConfigError: a value cannot be read.
    """
    values = {key: _parsed(key, text) for key, text in given.items()}
    from segplan.interop.stunet import ImportSettings, import_stunet

    model = import_stunet(source, target, ImportSettings(**values))
    network = model.network
    mode = model.plan["inference_mode"]
    print(
        f"{target}: STU-Net, {len(model.plan['labels'])} classes, features {network['features']}, "
        f"strides {network['strides'][1:]}, inference.mode={mode}"
    )
    print(f"Predict:   python predict.py model={shlex.quote(str(target))} input=IMAGES output=FOLDER")
    print(f"Fine-tune: python plan.py dataset=FOLDER planner.adopt={shlex.quote(str(target))}")
    return 0


def _parsed(key: str, text: str) -> Any:
    """The value of a setting: lists become tuples, which is what the settings hold."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError("cannot be read", f"{key}={text}", "Write lists as [1,2,3].") from error
    wanted = {"pools": 2, "patch_size": 1, "spacing": 1}.get(key, 0)
    if not _nested(value, wanted, int | float if key == "spacing" else int):
        numbers = "numbers" if key == "spacing" else "whole numbers"
        shape = ("one value", f"a list of three {numbers}", f"a list of lists of three {numbers}")[wanted]
        raise ConfigError(f"must be {shape}", f"{key}={text}", "Write lists as [1,2,3].")
    if key == "use_plan" and not isinstance(value, bool):
        raise ConfigError("must be true or false", f"{key}={text}", "Use true.")
    if key == "fold" and text != "all" and not text.isdecimal():
        raise ConfigError("is no fold", f"{key}={text}", "Use a number or all.")
    if wanted == 2:
        return tuple(tuple(row) for row in value)
    return tuple(value) if wanted else value if key == "use_plan" else str(value)


def _nested(value: Any, depth: int, kinds: type[int] | UnionType) -> bool:
    if depth == 0:
        return not isinstance(value, list | dict)
    if not isinstance(value, list) or not value:
        return False
    if depth == 2:
        return all(_nested(row, 1, kinds) for row in value)
    return len(value) == 3 and all(isinstance(x, kinds) and not isinstance(x, bool) and 0 < x < math.inf for x in value)
