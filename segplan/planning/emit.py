"""Write a plan as Hydra configuration files that a person can read, edit, override and sweep.

A file that a person edited is never overwritten: its header holds a hash of what was written, and where the two no
longer agree, the new file goes beside it as NAME.new.yaml.
"""

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from segplan import __version__
from segplan.imaging import atomic_write
from segplan.planning.plan import SCHEMA_VERSION, ConfigurationPlan, DatasetPlan
from segplan.planning.yaml_text import Entry, flow, section, whole

_MARK = "# content "
_MARK_LINE = re.compile(rf"^{_MARK}([0-9a-f]{{16}}):.*\n", re.MULTILINE)
_PURPOSE = {
    "2d": "Slices one by one at full resolution: for pictures, and for volumes with thick slices.",
    "3d_fullres": "Volumes in patches at full resolution: the one to train first.",
    "3d_lowres": "Volumes at reduced resolution, so that a patch shows more of the body: first stage of the cascade.",
    "3d_cascade_fullres": "Refines what 3d_lowres segmented, at full resolution: train all folds of 3d_lowres first.",
}


def emit(plan: DatasetPlan, folder: Path) -> list[Path]:
    """Write `_dataset.yaml` and CONFIGURATION.yaml for each configuration.

    Args:
        plan: what to write.
        folder: workspace/plan/DATASET[/NAME]; `plan.group` below workspace/plan.

    Returns:
        The files that hold this plan now; NAME.new.yaml where a person edited NAME.yaml.

    Raises:
        StorageError: the folder cannot be written.
    """
    files = {"_dataset": dataset_yaml(plan)}
    files |= {name: configuration_yaml(plan, configuration) for name, configuration in plan.configurations.items()}
    return [_write(folder / f"{name}.yaml", text) for name, text in files.items()]


def is_edited(text: str) -> bool:
    """Whether the text of an emitted file is not what was written: a person edited it (or wrote it)."""
    mark = _MARK_LINE.search(text)
    return mark is None or mark.group(1) != _hash(_MARK_LINE.sub("", text, count=1))


def dataset_yaml(plan: DatasetPlan) -> str:
    """The text of `_dataset.yaml`: what all configurations of the plan share."""
    entries = [
        Entry("schema_version", SCHEMA_VERSION, "version of this file's structure"),
        Entry("planner", plan.planner),
        Entry("segplan_version", __version__),
        Entry("fingerprint", plan.fingerprint_hash, f"hash of the measurements of {plan.num_cases} cases"),
        Entry("dataset", plan.dataset),
        Entry("channels", list(plan.channels)),
        Entry("labels", plan.labels),
        Entry("regions_class_order", plan.regions_class_order, "labels in the order in which regions are painted"),
        Entry("ignore_label", plan.ignore_label, "voxels that are not annotated"),
        Entry("input_channels", len(plan.channels)),
        Entry("num_classes", plan.num_classes, "outputs of the network: the labels with background, or the regions"),
        Entry("file_ending", plan.file_ending),
        Entry("label_ending", plan.label_ending),
    ]
    lines = [
        f"# {plan.dataset} · what its configurations share · {_origin(plan)}",
        "# Not a configuration by itself: the files beside it include it.",
    ]
    body = [*section("plan", entries), "  intensities:  # foreground, every case weighing the same; used for CT"]
    body += [f"    - {flow(asdict(channel) if channel else None)}" for channel in plan.intensities]
    return _marked(lines, body)


def configuration_yaml(plan: DatasetPlan, configuration: ConfigurationPlan) -> str:
    """The text of CONFIGURATION.yaml."""
    loss = "dice_bce" if plan.has_regions else "dice_ce"
    body = [
        "defaults:",
        f"  - {flow(f'/plan/{plan.group}/_dataset')}  # labels, channels, intensities: shared by all configurations",
        f"  - override /network: {configuration.network}",
        f"  - override /loss: {loss}",
        "  - _self_",
        "",
        *section("plan", _plan_entries(plan, configuration)),
        *section("data", _entries(configuration, ("patch_size", "batch_size"))),
        *section(
            "network",
            [
                Entry(name, value, configuration.reasons[name])
                for name, value in configuration.network_arguments.items()
            ],
        ),
        *section("augmentation", _entries(configuration, ("dummy_2d",))),
        *section("loss", _entries(configuration, ("batch_dice",))),
    ]
    return _marked(_header(plan, configuration), body)


def _plan_entries(plan: DatasetPlan, configuration: ConfigurationPlan) -> list[Entry]:
    reasons = configuration.reasons
    entries = [
        Entry("configuration", configuration.name),
        Entry("spacing", list(configuration.spacing), reasons["spacing"]),
        Entry("transpose", list(plan.transpose), reasons["transpose"]),
        Entry("median_shape", whole(configuration.median_shape), reasons["median_shape"]),
        *_entries(configuration, ("normalization", "use_mask_for_norm")),
    ]
    if configuration.name == "2d":
        why = "across slices, if all cases and 3d_fullres have the same: then 2d and 3d share their data"
        entries.append(Entry("common_slice_spacing", configuration.common_slice_spacing, why))
    if configuration.previous_stage:
        entries.append(Entry("previous_stage", configuration.previous_stage, "its segmentation is an input"))
    if configuration.next_stage:
        entries.append(Entry("next_stage", configuration.next_stage, "takes this one's segmentation as an input"))
    entries.append(Entry("runnable", configuration.runnable))
    if configuration.not_runnable:
        entries.append(Entry("not_runnable_because", configuration.not_runnable))
    return entries


def _entries(configuration: ConfigurationPlan, names: Sequence[str]) -> list[Entry]:
    return [Entry(name, getattr(configuration, name), configuration.reasons[name]) for name in names]


def _header(plan: DatasetPlan, configuration: ConfigurationPlan) -> list[str]:
    lines = [f"# {plan.dataset} · {configuration.name} · {_origin(plan)}", f"# {_PURPOSE[configuration.name]}"]
    if configuration.not_runnable:
        return [*lines, f"# It cannot be trained: {configuration.not_runnable}."]
    option = shlex.quote(f"plan={plan.group}/{configuration.name}")
    batch = 2 if configuration.batch_size > 2 else 4
    return [
        *lines,
        f"# {len(configuration.strides)} stages, {configuration.parameters / 1e6:.1f} M parameters, "
        f"about {configuration.memory_gb:.1f} GB in training (estimated)",
        "#",
        f"#   python train.py {option} fold=0",
        f"#   python train.py -m {option} fold=0,1,2,3,4",
        f"#   python train.py {option} fold=0 data.batch_size={batch} trainer.max_epochs=250",
    ]


def _origin(plan: DatasetPlan) -> str:
    return (
        f"planned by segplan {__version__} (planner {plan.planner}, schema {SCHEMA_VERSION}) "
        f"from fingerprint {plan.fingerprint_hash} ({plan.num_cases} cases)"
    )


def _marked(header: Sequence[str], body: Sequence[str]) -> str:
    package = "# @package _global_\n"
    head, tail = "\n".join(header) + "\n", "\n".join(body) + "\n"
    mark = f"{_MARK}{_hash(package + head + tail)}: planning again leaves this file alone once you have edited it\n"
    return package + head + mark + tail


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write(path: Path, text: str) -> Path:
    if path.exists():
        # A byte that is not UTF-8 is an edit like any other.
        present = path.read_text(encoding="utf-8", errors="replace")
        if present == text:
            return path
        if is_edited(present):
            if _mark_of(present) == _mark_of(text):
                return path  # the edits were made on this very plan
            path = path.with_name(f"{path.stem}.new.yaml")
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _mark_of(text: str) -> str | None:
    mark = _MARK_LINE.search(text)
    return mark.group(1) if mark else None
