"""Write a plan as Hydra configuration files that a person can read, edit, override and sweep.

A file that a person edited is never overwritten: its header holds a hash of what was written, and where the two no
longer agree, the new file goes beside it as NAME.new.yaml.
"""

import difflib
import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from segplan import __version__
from segplan.imaging import atomic_write
from segplan.planning.plan import CONFIGURATIONS, SCHEMA_VERSION, ConfigurationPlan, DatasetPlan
from segplan.planning.table import gigabytes
from segplan.planning.yaml_text import Entry, flow, section, whole

_MARK = "# content "
_MARK_LINE = re.compile(rf"^{_MARK}([0-9a-f]{{16}}):.*\n", re.MULTILINE)
_LABEL_RESAMPLING = {
    "annotated": "the ignore label only where the nearest voxel bears it; it outvotes no other (nnU-Net: votes)",
    "votes": "the label with the most weight around a point, as in nnU-Net; here the ignore label outvotes others",
    "nearest": "the nearest voxel's label (nnU-Net: votes)",
}
_PURPOSE = {
    "2d": "Slices one by one at full resolution: for pictures, and for volumes with thick slices.",
    "3d_fullres": "Volumes in patches at full resolution: the one to train first.",
    "3d_lowres": "Volumes at reduced resolution, so that a patch shows more of the body: first stage of the cascade.",
    "3d_cascade_fullres": "Refines what 3d_lowres segmented, at full resolution: train all folds of 3d_lowres first.",
}


@dataclass(frozen=True)
class Kept:
    """A file that a person edited, and that therefore stays as it is.

    Args:
        path: the file.
        new: the file of the new plan beside it; None where the configuration is not planned any more.
        difference: the lines that differ, `-` in the person's file and `+` in the new one.
    """

    path: Path
    new: Path | None
    difference: tuple[str, ...] = ()


@dataclass(frozen=True)
class Emission:
    """What became of the files: those that hold the plan now, those left to their owner, those that are gone.

    `edited` are those of `files` in which a person edited this very plan: their values are not the plan's.
    """

    files: tuple[Path, ...]
    kept: tuple[Kept, ...]
    removed: tuple[Path, ...]
    edited: tuple[Path, ...] = ()


def emit(plan: DatasetPlan, folder: Path) -> Emission:
    """Write `_dataset.yaml` and CONFIGURATION.yaml for each configuration.

    A configuration that was asked for and does not exist for the dataset loses its file, unless a person edited it.

    Args:
        plan: what to write.
        folder: workspace/plan/DATASET[/NAME]; `plan.group` below workspace/plan.

    Raises:
        StorageError: the folder cannot be written.
    """
    texts = {"_dataset": dataset_yaml(plan)}
    texts |= {name: configuration_yaml(plan, configuration) for name, configuration in plan.configurations.items()}
    files, kept, removed = [], [], []
    for name, text in texts.items():
        path = folder / f"{name}.yaml"
        files.append(written := _write(path, text))
        if written != path:
            kept.append(Kept(path, written, _difference(path, text)))
        elif _remove_unedited(_beside(path)):
            removed.append(_beside(path))
    for path in (folder / f"{name}.yaml" for name in plan.not_planned):
        removed += [gone for gone in (path, _beside(path)) if _remove_unedited(gone)]
        if path.exists():
            kept.append(Kept(path, None))
    edited = tuple(path for path in files if is_edited(_text(path)))
    return Emission(tuple(files), tuple(kept), tuple(removed), edited)


def emitted_configurations(folder: Path) -> list[str]:
    """The configurations in `folder` that `emit` wrote, edited since or not."""
    paths = {name: folder / f"{name}.yaml" for name in CONFIGURATIONS}
    return [name for name, path in paths.items() if path.is_file() and _mark_of(_text(path)) is not None]


def is_edited(text: str) -> bool:
    """Whether the text of an emitted file is not what was written: a person edited it (or wrote it)."""
    mark = _MARK_LINE.search(text)
    return mark is None or mark.group(1) != _hash(_MARK_LINE.sub("", text, count=1))


def dataset_yaml(plan: DatasetPlan) -> str:
    """The text of `_dataset.yaml`: what all configurations of the plan share."""
    entries = [
        Entry("schema_version", SCHEMA_VERSION, "version of this file's structure"),
        Entry("planner", plan.planner),
        Entry("planner_settings", plan.planner_settings, "where they differ from those of the planner's preset"),
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
    if plan.label_resampling != "votes" or plan.ignore_label is not None:
        entries.append(Entry("label_resampling", plan.label_resampling, _LABEL_RESAMPLING[plan.label_resampling]))
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
        Entry("planned_from", plan.fingerprint_hash, "the fingerprint; training refuses another than _dataset.yaml's"),
        Entry("spacing", list(configuration.spacing), reasons["spacing"]),
        Entry("transpose", list(plan.transpose), reasons["transpose"]),
        Entry("median_shape", whole(configuration.median_shape), reasons["median_shape"]),
        *_entries(configuration, ("normalization", "use_mask_for_norm")),
    ]
    if configuration.name == "2d":
        why = "across slices, if all cases and 3d_fullres have the same: then 2d and 3d share their data"
        entries.append(Entry("common_slice_spacing", configuration.common_slice_spacing, why))
    if configuration.previous_stage:
        why = "its segmentations are inputs: of each case by the fold that did not train on it, a channel a label"
        entries.append(Entry("previous_stage", configuration.previous_stage, why))
        entries.append(Entry("previous_stage_run", "default", "the run of that configuration whose folds are taken"))
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
        f"{_memory(configuration)}",
        *([f"# Note: {configuration.name} {configuration.warning}."] if configuration.warning else []),
        "#",
        f"#   python train.py {option} fold=0",
        f"#   python train.py -m {option} fold=0,1,2,3,4",
        f"#   python train.py {option} fold=0 data.batch_size={batch} trainer.max_epochs=250",
        f"#   segplan explain {option}          # how each value came about",
    ]


def _memory(configuration: ConfigurationPlan) -> str:
    estimate = f"about {gigabytes(configuration.memory_gb)}"
    if configuration.measured_gb is None:
        return f"{estimate} in training (estimated)"
    return f"{gigabytes(configuration.measured_gb)} in training (measured where it was planned; estimated {estimate})"


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
        present = _text(path)
        if present == text:
            return path
        if is_edited(present):
            if _mark_of(present) == _mark_of(text):
                return path  # the edits were made on this very plan
            return _write(_beside(path), text)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _mark_of(text: str) -> str | None:
    mark = _MARK_LINE.search(text)
    return mark.group(1) if mark else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")  # a byte that is not UTF-8 is an edit like any other


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}.new.yaml")


def _remove_unedited(path: Path) -> bool:
    if not path.exists() or is_edited(_text(path)):
        return False
    path.unlink()
    return True


def _difference(path: Path, text: str) -> tuple[str, ...]:
    """The lines whose values differ; the header and the comments beside values do not count."""
    mine, new = ([line for line in whole.splitlines() if not line.startswith("#")] for whole in (_text(path), text))
    before, after = ([line.partition("  # ")[0].rstrip() for line in lines] for lines in (mine, new))
    found: list[str] = []
    for kind, first, last, start, end in difflib.SequenceMatcher(None, before, after, False).get_opcodes():
        if kind != "equal":
            found += [f"-{line}" for line in mine[first:last]] + [f"+{line}" for line in new[start:end]]
    return tuple(found)
