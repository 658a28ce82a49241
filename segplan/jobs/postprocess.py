"""Applies postprocessing steps to a folder of label maps."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segplan.errors import ConfigError
from segplan.evaluation import Step, apply_postprocessing, parse_steps, read_selection
from segplan.imaging import IMAGE_ENDINGS, read_label_map, write_label_map
from segplan.jobs.console import progress

_NNUNET = "remove_all_but_largest_component_from_segmentation"
_KNOWN = "Give inference.yaml, a YAML list of steps, or nnU-Net's postprocessing.json."


def run(predictions: Path, output: Path, file: Path) -> int:
    """Write the postprocessed form of every label map of a folder.

    Args:
        predictions: folder of label maps.
        output: another folder.
        file: inference.yaml, a YAML list of steps, or nnU-Net's postprocessing.json.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: the file or a folder cannot be used.
        ImageError: a label map cannot be read.
    """
    steps = read_steps(file)
    if not predictions.is_dir() or output.resolve() == predictions.resolve():
        what = "is the folder of the predictions" if predictions.is_dir() else "is no folder"
        raise ConfigError(what, output if predictions.is_dir() else predictions, "Give two different folders.")
    paths = [
        path
        for path in sorted(predictions.iterdir())
        if path.is_file() and path.name.lower().endswith(IMAGE_ENDINGS) and not path.name.startswith(".")
    ]
    if not paths:
        raise ConfigError("holds no label map", predictions, f"Known endings: {', '.join(IMAGE_ENDINGS)}.")
    output.mkdir(parents=True, exist_ok=True)
    changed = 0
    with progress("postprocess", len(paths)) as advance:
        for path in paths:
            image = read_label_map(path)
            labels = apply_postprocessing(image.array[0], image.spacing, steps)
            changed += bool((labels != image.array[0]).any())
            write_label_map(output / path.name, labels, image.geometry)
            advance()
    print(f"{len(paths)} label maps, {changed} changed by {len(steps)} steps: {output}")
    return 0


def read_steps(path: Path) -> tuple[Step, ...]:
    """The steps of inference.yaml, of a YAML list, or of nnU-Net's postprocessing.json.

    Raises:
        ConfigError: it is none of them.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError("cannot be read", path, _KNOWN) from error
    if isinstance(content, Mapping) and "postprocessing_fns" in content:
        try:
            return _of_nnunet(content, path)
        except (KeyError, TypeError, ValueError) as error:
            what = f"is no postprocessing.json of nnU-Net ({type(error).__name__}: {error})"
            raise ConfigError(what, path, _KNOWN) from error
    if isinstance(content, Mapping) and "members" in content:
        return read_selection(path).postprocessing
    if isinstance(content, Mapping) and "postprocessing" not in content:
        raise ConfigError("has no list of steps under postprocessing", path, _KNOWN)
    return parse_steps(content["postprocessing"] if isinstance(content, Mapping) else content, str(path))


def _of_nnunet(content: Mapping[str, Any], path: Path) -> tuple[Step, ...]:
    steps = []
    pairs = zip(content["postprocessing_fns"], content.get("postprocessing_kwargs", []), strict=True)
    for function, arguments in pairs:
        if function != _NNUNET:
            raise ConfigError(f"{function} is unknown", path, f"segplan knows {_NNUNET}.")
        named = arguments["labels_or_regions"]
        groups = named if isinstance(named, list) else [named]
        values = sorted({int(label) for group in groups for label in (group if isinstance(group, list) else [group])})
        steps.append({"operation": "keep_largest_component", "labels": values})
    return parse_steps(steps, str(path))
