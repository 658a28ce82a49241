"""What a training job needs to know before any heavy import: folders, labels, the fold's cases, and that they fit."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from segplan.dataset import Labels, Split, read_splits, select_fold
from segplan.errors import ConfigError, PlanError, StoreError
from segplan.inference.settings import STUNET_V1, InferenceSettings
from segplan.jobs.console import workspace_word
from segplan.jobs.finetune_settings import FinetuneSettings, finetune_settings
from segplan.jobs.mirror_settings import check_mirror_swap
from segplan.jobs.network_node import is_own_network
from segplan.jobs.plan_node import check_plan, labels_of, preprocessing_of, store_folder
from segplan.jobs.predict import settings_of
from segplan.jobs.prepare import fold_folder, run_folder
from segplan.jobs.previous_stage import PreviousStage, previous_stage
from segplan.planning import check_patch
from segplan.preprocessing import CaseStore, PreprocessingPlan

if TYPE_CHECKING:
    from segplan.augmentation import Pipeline

PRECISIONS = ("auto", "32", "32-true", "bf16", "bf16-mixed", "16", "16-mixed")
"""What both training and the validation after it can compute in."""
DETERMINISM = ("fast", "strict")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")


@dataclass(frozen=True)
class TrainingSetup:
    """One fold of one run.

    Args:
        config: the resolved configuration.
        labels: what the network's heads stand for.
        split: the fold's cases.
        store: their preprocessed data.
        preprocessing: how these came about.
        previous: in a cascade, the first stage, whose segmentations of the cases are inputs too.
    """

    config: DictConfig
    labels: Labels
    split: Split
    store: CaseStore
    preprocessing: PreprocessingPlan
    previous: PreviousStage | None = None

    @property
    def run_folder(self) -> Path:
        """RUN, a model folder."""
        return run_folder(self.config)

    @property
    def folder(self) -> Path:
        """RUN/fold_K."""
        return fold_folder(self.config)

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Voxels per network axis, (Z, Y, X) or (Y, X)."""
        return tuple(int(size) for size in self.config.data.patch_size)

    @property
    def checkpoints(self) -> Path:
        """Where last, best and final stand."""
        return self.folder / "checkpoints"

    @property
    def weights(self) -> str:
        """Those that validation uses: final or best."""
        return str(self.config.get("ckpt", "final"))

    @property
    def validation(self) -> Path:
        """Where the segmentations of the fold's validation cases stand."""
        return self.validation_of(self.weights)

    def validation_of(self, weights: str) -> Path:
        """Where those with the `weights` final or best stand."""
        return self.folder / ("validation" if weights == "final" else f"validation_{weights}")

    @property
    def starts_over(self) -> bool:
        """Whether what the fold holds is to be discarded; validating again never discards a training."""
        return bool(self.config.force) and self.config.mode == "train"

    @property
    def finetune(self) -> FinetuneSettings:
        """The weights to start from, and what becomes of them."""
        return finetune_settings(self.config.finetune)

    @property
    def inference(self) -> InferenceSettings:
        """How the fold's whole validation cases are segmented."""
        node = self.config.inference
        try:
            settings = settings_of(node)
        except (TypeError, ValueError) as error:
            text = OmegaConf.to_yaml(node, resolve=True).strip().replace("\n", ", ")
            raise ConfigError(f"a value cannot work: {error}", f"inference ({text})") from error
        if settings.mode == STUNET_V1:
            what = "resamples before it normalises, and preprocessed cases were normalised first"
            raise ConfigError(what, f"inference.mode={STUNET_V1}", "Leave it out here; predict.py takes it.")
        return settings

    @property
    def mirror_axes(self) -> tuple[int, ...] | None:
        """Network axes along which training mirrors, so that prediction may; None if it does not."""
        return self._pipeline().mirror_axes

    @property
    def mirror_swap(self) -> dict[str, Any] | None:
        """Along which network axis mirroring exchanges which labels, as model.json records it; None if it does not."""
        swap = self._pipeline().mirror_swap
        return None if swap is None else {"axis": swap[0], "labels": [list(pair) for pair in swap[1]]}

    def _pipeline(self) -> "Pipeline":
        from segplan.augmentation import build_pipeline

        node: Any = OmegaConf.to_container(self.config.augmentation, resolve=True)
        return build_pipeline(node, self.patch_size, list(self.config.plan.use_mask_for_norm))


def prepare_training(config: DictConfig, *, waits: bool = False) -> TrainingSetup:
    """Find a training's data and cases; imports no torch, so that what cannot work is refused at once.

    Args:
        config: the composed configuration.
        waits: a cascade's first stage may still train, and segments the cases before this training begins.

    Raises:
        PlanError: the plan cannot run.
        ConfigError: the fold does not exist, the patch does not fit, or another value cannot work.
        StoreError: data are not preprocessed, or a cascade's first stage has not segmented them.
    """
    plan = config.plan
    check_plan(plan, "/".join(_address(config)))
    if plan.get("runnable") is False:
        reason = plan.get("not_runnable_because") or "it is marked plan.runnable: false"
        raise PlanError(
            f"this configuration cannot run: {reason}",
            f"{config.dataset}/{config.configuration}",
            "Plan one that can: python plan.py … planner.repair=true name=NAME.",
        )
    if config.mode not in ("train", "validate"):
        raise ConfigError("there is no such mode", f"mode={config.mode}", "Use train or validate.")
    if config.get("ckpt", "final") not in ("final", "best"):
        raise ConfigError("there are no such weights", f"ckpt={config.ckpt}", "Use final or best.")
    _check_values(config)
    store = CaseStore(store_folder(Path(config.workspace), plan))
    available = store.identifiers()
    if not available:
        raise StoreError("there are no preprocessed data", store.folder, _plan_command(config))
    split = select_fold(read_splits(_plan_folder(config) / "splits_final.json"), available, config.fold)
    missing = sorted({*split.train, *split.validation} - set(available))
    if missing:
        what = f"{len(missing)} cases of the fold are not preprocessed, {missing[0]} among them"
        raise StoreError(what, store.folder, _plan_command(config))
    setup = TrainingSetup(config, labels_of(plan), split, store, preprocessing_of(plan), previous_stage(config))
    if setup.previous is not None and not waits:
        setup.previous.check({*split.train, *split.validation}, setup.labels)
    check_mirror_swap(config, setup.labels)
    _ = setup.inference, setup.finetune  # what cannot work is refused now, not after the training
    return setup


def _check_values(config: DictConfig) -> None:
    for key in ("trainer.max_epochs", "trainer.limit_train_batches", "data.batch_size"):
        value = OmegaConf.select(config, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{key}={value} must be a whole number above 0")
    seed = config.seed
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ConfigError(f"seed={seed} must be a whole number of at least 0")
    _check_choice("determinism", str(config.get("determinism", "fast")), DETERMINISM)
    _check_choice("trainer.precision", str(config.trainer.precision), PRECISIONS)
    _check_choice("trainer.accelerator", str(config.trainer.accelerator), ACCELERATORS)
    patch = patch_sizes(config.data.get("patch_size"))
    if "strides" in config.network and is_own_network(str(config.network._target_)):
        check_patch(patch, [list(stride) for stride in config.network.strides])


def patch_sizes(given: Any) -> list[int]:
    """The voxels of a patch per axis, as `data.patch_size` gives them.

    Raises:
        ConfigError: it is no list of whole numbers.
    """
    is_list = isinstance(given, Sequence) and not isinstance(given, str)
    if not is_list or any(isinstance(size, bool) or not isinstance(size, int) for size in given):
        raise ConfigError(
            "must be a list of whole numbers", f"data.patch_size={given}", "Write data.patch_size=[64,64,64]."
        )
    return list(given)


def _check_choice(key: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError("is unknown", f"{key}={value}", f"Use {', '.join(known[:-1])} or {known[-1]}.")


def _address(config: DictConfig) -> list[str]:
    name = [str(config.plan_name)] if config.plan_name else []
    return [str(config.dataset), *name, str(config.configuration)]


def _plan_folder(config: DictConfig) -> Path:
    return Path(config.workspace, "plan", *_address(config)[:-1])


def _plan_command(config: DictConfig) -> str:
    words = [f"dataset={config.dataset}", *([f"name={config.plan_name}"] if config.plan_name else [])]
    words += ["stages=[preprocess]", f"configurations=[{config.configuration}]"]
    return f"Run: python plan.py {shlex.join([*words, *workspace_word(Path(config.workspace))])}"
