"""Plan a dataset: every derived value of every configuration, from the fingerprint and dataset.json.

The rules and their constants are nnU-Net 2.8.1's; a plan takes milliseconds, because no network is built.
"""

from collections.abc import Sequence
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from segplan.errors import ConfigError, DatasetError
from segplan.planning.adopt import adopt
from segplan.planning.assemble import Frame, Inputs, assemble
from segplan.planning.configure import configure
from segplan.planning.configured import Configured, Measure, Probe, Resolution
from segplan.planning.fingerprint import PICTURE_SPACING, Fingerprint
from segplan.planning.lowres import Lowres, search_lowres
from segplan.planning.plan import CONFIGURATIONS, ConfigurationPlan, DatasetPlan
from segplan.planning.reasons import percent
from segplan.planning.recorded import changed_settings
from segplan.planning.settings import PlannerSettings

if TYPE_CHECKING:
    from segplan.dataset import Description


def plan_dataset(
    fingerprint: Fingerprint,
    description: "Description",
    settings: PlannerSettings,
    configurations: Sequence[str] = CONFIGURATIONS,
    *,
    dataset: str | None = None,
    plan_name: str | None = None,
    measure: Measure | None = None,
) -> DatasetPlan:
    """Derive the plan of a dataset.

    Args:
        fingerprint: the dataset's measurements.
        description: its dataset.json.
        settings: the planner's constants.
        configurations: which to plan; those that do not exist for this dataset end up in `not_planned`.
        dataset: name under which the plan is kept; the description's if None.
        plan_name: sub-folder of the plan; if None the planner's name, and none for the default planner.
        measure: runs a training step, for `planner.memory=measured`; it is asked once for each step.

    Raises:
        ConfigError: an unknown configuration, a name that cannot be addressed, none of the configurations exists, or
            the memory budget holds no patch at all, or memory is to be measured and `measure` is None.
        ModelError: `planner.adopt` names no model that can be adopted.
        DatasetError: fingerprint and description differ in their number of channels.
    """
    dataset = dataset or description.name
    plan_name = plan_name or (None if settings.name == "default" else settings.name)
    _check(fingerprint, description, configurations, [dataset] if plan_name is None else [dataset, plan_name])
    frame = Frame.of(fingerprint, settings)
    inputs = Inputs(fingerprint, description, settings, frame, _measure(settings, measure))
    planned, not_planned = _plan_configurations(inputs, configurations)
    if not planned:
        raise ConfigError("; ".join(f"{name} {why}" for name, why in not_planned.items()), dataset)
    labels = description.labels
    plan = DatasetPlan(
        dataset=dataset,
        planner=settings.name,
        plan_name=plan_name,
        fingerprint_hash=fingerprint.hash(),
        num_cases=len(fingerprint.spacings),
        channels=tuple(description.channel_names),
        labels=labels.to_json()["labels"],
        has_regions=labels.has_regions,
        regions_class_order=labels.regions_class_order,
        ignore_label=labels.ignore,
        num_classes=labels.num_heads,
        intensities=fingerprint.intensities or (None,) * len(description.channel_names),
        file_ending=description.file_ending,
        label_ending=description.label_ending,
        transpose=inputs.frame.transpose,
        configurations=MappingProxyType(planned),
        not_planned=MappingProxyType(not_planned),
        label_resampling=_label_resampling(settings, labels.ignore is not None),
        planner_settings=MappingProxyType(changed_settings(settings)),
    )
    return plan if settings.adopt is None else adopt(plan, settings)


def _label_resampling(settings: PlannerSettings, has_ignore: bool) -> str:
    if settings.label_resampling != "auto":
        return settings.label_resampling
    return "annotated" if has_ignore else "votes"


def _plan_configurations(inputs: Inputs, names: Sequence[str]) -> tuple[dict[str, ConfigurationPlan], dict[str, str]]:
    """The plans of `names` in the usual order, and why others do not exist."""
    planned: dict[str, ConfigurationPlan] = {}
    missing: dict[str, str] = {}
    if "2d" in names and inputs.settings.network == "stunet":
        missing["2d"] = "does not exist: STU-Net is for volumes"
    elif "2d" in names:
        planned["2d"] = _plan_2d(inputs)
    volumes = [name for name in CONFIGURATIONS if name in names and name != "2d"]
    if not volumes:
        return planned, missing
    if inputs.frame.flat:
        why = f"does not exist: the median image is one slice thick along {inputs.frame.axes[0]}"
        return planned, missing | dict.fromkeys(volumes, why)
    fullres = _configure(inputs, inputs.frame.spacing, inputs.frame.median_shape)
    lowres = search_lowres(
        fullres,
        inputs.frame.spacing,
        inputs.frame.median_shape,
        num_training=inputs.description.num_training,
        label_count=inputs.label_count,
        settings=inputs.settings,
        probe=_probe(inputs),
    )
    for name in volumes:
        if name != "3d_fullres" and isinstance(lowres, str):
            missing[name] = lowres
        elif name == "3d_lowres" and isinstance(lowres, Lowres):
            planned[name] = _plan_lowres(inputs, lowres)
        else:
            planned[name] = _plan_fullres(inputs, name, fullres, has_lowres=isinstance(lowres, Lowres))
    return planned, missing


def _plan_2d(inputs: Inputs) -> ConfigurationPlan:
    frame = inputs.frame
    across, y, x = frame.spacing
    own = {spacing[frame.transpose[0]] for spacing in inputs.fingerprint.spacings}
    return assemble(
        inputs,
        "2d",
        _configure(inputs, (y, x), frame.median_shape[1:]),
        spacing=(None, y, x),
        median_shape=frame.median_shape[1:],
        batch_dice=True,
        common_slice_spacing=across if own == {across} and not frame.flat else None,
        why={
            "spacing": _why_2d_spacing(inputs),
            "batch_dice": "one slice may show few labels, so the Dice is taken over the batch",
        },
    )


def _plan_fullres(inputs: Inputs, name: str, configured: Configured, has_lowres: bool) -> ConfigurationPlan:
    if has_lowres:
        why_batch = "there is a 3d_lowres: a patch shows little of the image, so the Dice is taken over the batch"
    else:
        why_batch = "no 3d_lowres: a patch shows enough of the image, so the Dice is taken sample by sample"
    return assemble(
        inputs,
        name,
        configured,
        spacing=inputs.frame.spacing,
        median_shape=inputs.frame.median_shape,
        batch_dice=has_lowres,
        previous_stage="3d_lowres" if name == "3d_cascade_fullres" else None,
        why={"spacing": f"{_unit(inputs.frame)}: {inputs.frame.reason}", "batch_dice": why_batch},
    )


def _plan_lowres(inputs: Inputs, lowres: Lowres) -> ConfigurationPlan:
    settings = inputs.settings
    why_spacing = (
        f"{_unit(inputs.frame)}: at full resolution a patch covers {percent(lowres.coverage)} of the median image; "
        f"{lowres.steps} steps of ×{settings.lowres_spacing_step:g} until {percent(settings.lowres_patch_fraction)}"
    )
    return assemble(
        inputs,
        "3d_lowres",
        lowres.configured,
        spacing=lowres.spacing,
        median_shape=lowres.median_shape,
        batch_dice=False,
        next_stage="3d_cascade_fullres",
        why={
            "spacing": why_spacing,
            "batch_dice": "a patch shows much of the image: the Dice is taken sample by sample",
        },
    )


def _configure(inputs: Inputs, spacing: Sequence[float], median_shape: Sequence[float]) -> Configured:
    resolution = Resolution(spacing, median_shape, inputs.dataset_voxels, inputs.label_count)
    return configure(resolution, inputs.settings, _probe(inputs))


def _measure(settings: PlannerSettings, measure: Measure | None) -> Measure | None:
    if settings.memory == "estimated":
        return None
    if measure is None:
        raise ConfigError(
            "there is nothing to measure with here", "planner.memory=measured", "Plan with plan.py or segplan plan."
        )
    return cache(measure)


def _probe(inputs: Inputs) -> Probe | None:
    # STU-Net replaces the network after patch and batch are planned: its memory never decides them.
    return inputs.probe if inputs.measure and inputs.settings.network != "stunet" else None


def _why_2d_spacing(inputs: Inputs) -> str:
    frame, spacings = inputs.frame, set(inputs.fingerprint.spacings)
    if not frame.flat:
        return f"{_unit(frame)}: {frame.reason}; each case keeps its own across slices"
    if spacings == {PICTURE_SPACING}:
        return "pixels: pictures have no physical size"
    # What was decided about the axis across slices is of no use where there is one slice.
    return f"{_unit(frame)}: {frame.reason.partition(';')[0]}"


def _unit(frame: Frame) -> str:
    return f"mm ({', '.join(frame.axes)})"


def _check(
    fingerprint: Fingerprint, description: "Description", configurations: Sequence[str], names: Sequence[str]
) -> None:
    unknown = [name for name in configurations if name not in CONFIGURATIONS]
    if unknown or not configurations:
        there_are = f"There are: {', '.join(CONFIGURATIONS)}."
        what = f"no configuration {', '.join(unknown)}" if unknown else "no configuration is asked for"
        raise ConfigError(what, "configurations", there_are)
    for name in names:
        _check_name(name)
    measured, described = len(fingerprint.intensities), len(description.channel_names)
    if measured and measured != described:
        raise DatasetError(
            f"the fingerprint has {measured} channels, dataset.json names {described}",
            description.name,
            "Make the fingerprint again (stages=[fingerprint,plan] force=true).",
        )


def _check_name(name: str) -> None:
    # Hydra reads @ in a defaults list as the package to put a file in, and ${ as an interpolation; nothing quotes them.
    bad = [mark for mark in ("@", "${", "/", "\\", "\n") if mark in name]
    if bad or name in ("", ".", "..") or name != name.strip():
        what = f"it contains {bad[0]!r}" if bad else "it is empty, a dot, or has spaces at its ends"
        raise ConfigError(
            f"{name!r} cannot name a plan: {what}",
            remedy='Rename the dataset (its folder, or "name" in dataset.json) or the plan.',
        )
