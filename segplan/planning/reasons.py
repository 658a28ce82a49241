"""The sentence beside each derived value: from what and by which rule it came. Text only; nothing is decided here."""

from collections.abc import Sequence

from segplan.planning.configured import Configured
from segplan.planning.normalization import MEANING
from segplan.planning.settings import PlannerSettings
from segplan.planning.topology import Topology

_MAX_CHANNELS_NAMED = 4


def times(size: Sequence[float]) -> str:
    """A size as text: 20×320×256."""
    return "×".join(f"{edge:g}" for edge in size)


def percent(fraction: float) -> str:
    """A fraction as text: 80 %."""
    return f"{fraction * 100:.2g} %" if fraction < 0.1 else f"{fraction * 100:.0f} %"


def of_patch(configured: Configured, axes: str, settings: PlannerSettings) -> str:
    """Why the patch has its size; `axes` names its axes, such as `zyx`."""
    first, last = configured.steps[0], configured.steps[-1]
    budget = f"the {settings.gpu_memory_gb:g} GB budget holds {_millions(settings.budget(len(axes)))}"
    if len(configured.steps) == 1:
        return f"the median image, rounded up to the strides, needs {_millions(last.features)} features; {budget}"
    counts = [sum(step.shortened_axis == axis for step in configured.steps) for axis in range(len(axes))]
    shortened = ", ".join(f"{name} {_count(count)}" for name, count in zip(axes, counts, strict=True) if count)
    return f"{times(first.patch_size)} needed {_millions(first.features)} features, {budget}: shortened {shortened}"


def of_batch(configured: Configured, settings: PlannerSettings) -> str:
    """What decided the batch size."""
    batch, affordable, cap = configured.batch_size, configured.affordable_batch, configured.batch_cap
    budget = f"the {settings.gpu_memory_gb:g} GB budget"
    share = f"{percent(settings.max_dataset_fraction)} of the dataset's voxels"
    if batch == affordable and affordable <= cap:
        if batch == settings.min_batch_size and len(configured.steps) > 1:
            return "the patch was shortened until the minimum fits"
        return f"what {budget} holds"
    if batch == cap and cap < affordable:
        return f"{share}; {budget} would hold {affordable}"
    if cap < affordable:
        return f"the minimum; {share} would be {cap}, {budget} would hold {affordable}"
    return f"the minimum; {budget} would hold {affordable}"


def of_strides(topology: Topology, axes: str, settings: PlannerSettings) -> str:
    """How often each axis is halved, and which axes start late."""
    halved = [sum(stride[axis] > 1 for stride in topology.strides) for axis in range(len(axes))]
    counts = ", ".join(f"{name} {_count(count)}" for name, count in zip(axes, halved, strict=True))
    late = [name for axis, name in enumerate(axes) if halved[axis] and topology.strides[1][axis] == 1]
    text = f"halved while {settings.min_bottleneck_edge} voxels are left: {counts}"
    if late:
        text += f"; {' and '.join(late)} joins once the finest spacing is within {settings.pooling_spacing_ratio:g}×"
    return text


def of_kernels(topology: Topology, axes: str, settings: PlannerSettings) -> str:
    """On which axes kernels start 1 wide."""
    thin = [name for axis, name in enumerate(axes) if topology.kernel_sizes[0][axis] == 1]
    if not thin:
        return "3 wide on every axis"
    return (
        f"1 wide across {' and '.join(thin)} while the finest spacing is not within {settings.pooling_spacing_ratio:g}×"
    )


def of_features(settings: PlannerSettings, axes: int) -> str:
    """The growth of the features."""
    most = settings.max_features_2d if axes == 2 else settings.max_features_3d
    return f"double each stage from {settings.base_features}, at most {most}"


def of_normalization(channels: Sequence[str], schemes: Sequence[str]) -> str:
    """What the schemes do, channel by channel."""
    meanings = [MEANING[scheme] for scheme in schemes]
    if len(set(meanings)) == 1:
        few = len(channels) <= _MAX_CHANNELS_NAMED
        return f"{', '.join(channels) if few else f'all {len(channels)} channels'}: {meanings[0]}"
    listed = zip(channels[:_MAX_CHANNELS_NAMED], meanings, strict=False)
    return "; ".join(f"{name}: {meaning}" for name, meaning in listed)


def of_mask(median_relative_size: float, settings: PlannerSettings) -> str:
    """What cropping to non-zero left."""
    comparison = "below" if median_relative_size < settings.nonzero_mask_fraction else "not below"
    return (
        f"cropping to non-zero leaves {percent(median_relative_size)} of the median image, "
        f"{comparison} {percent(settings.nonzero_mask_fraction)}"
    )


def of_transpose(transpose: Sequence[int], suppressed: bool) -> str:
    """Whether and why axes are reordered."""
    if suppressed:
        return "as planner.transpose=false asks"
    if transpose[0] == 0:
        return "the coarsest axis already comes first"
    return f"the coarsest axis, {'zyx'[transpose[0]]}, comes first"


def of_dummy_2d(patch_size: Sequence[int], axes: str, settings: PlannerSettings) -> str:
    """Why patches are or are not rotated in plane only."""
    if len(patch_size) == 2:
        return "a 2D configuration has only one plane"
    longest = max(range(3), key=lambda axis: patch_size[axis])
    if longest == 0:
        return f"no axis is longer than {axes[0]}: rotate about all axes"
    ratio = f"{axes[longest]} / {axes[0]} = {patch_size[longest]} / {patch_size[0]}"
    if patch_size[longest] / patch_size[0] > settings.slicewise_ratio:
        return f"{ratio} > {settings.slicewise_ratio:g}: rotate in plane only"
    return f"{ratio}, not above {settings.slicewise_ratio:g}: rotate about all axes"


def _millions(count: float) -> str:
    return f"{round(count / 1e6, 1):g} M" if count >= 1e5 else "less than 0.1 M"


def _count(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")
