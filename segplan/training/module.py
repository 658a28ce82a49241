"""The LightningModule: a training and a validation step, the patch-wise Dice of an epoch, and its moving average."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from segplan.errors import RunError
from segplan.networks import set_deep_supervision
from segplan.training.clock import StepClock
from segplan.training.deep_supervision import DeepSupervisionLoss
from segplan.training.execution import Execution, ExecutionWishes, Probe, agree, as_format, choose_execution, take_up
from segplan.training.finetune import SCALE_KEY, parameter_groups
from segplan.training.gather import gather_objects
from segplan.training.micro_batches import forward_in_parts, is_out_of_memory
from segplan.training.nonfinite import FirstBadStep, MakeBatch, check_losses
from segplan.training.patch_dice import PatchDice
from segplan.training.schedule import PlateauDecay
from segplan.training.weight_average import WeightAverage

_log = logging.getLogger(__name__)

EMA_DECAY = 0.9  # nnU-Net's: nine parts history, one part the new epoch
STATE_KEY = "segplan"  # segplan's part of a checkpoint
FORMAT = 2  # of that part
NETWORK_PREFIX = "network."  # of the network's weights in a checkpoint


class SegmentationModule(pl.LightningModule):
    """Trains a network on patches.

    Args:
        network: maps (B, C, *spatial) to logits, with deep supervision to a list of them.
        loss: takes logits and labels of one resolution.
        optimizer: makes the optimiser from the keyword argument `params`.
        schedule: factor on the learning rate, of (epoch, max_epochs).
        patch_dice: counts validation patches.
        deep_supervision: train on the heads of all resolutions; helps small structures at little cost.
        compile: compile the network, for faster steps after minutes of start-up; auto: on CUDA. Where that fails, one
            line says why and training goes on without.
        memory_format: contiguous, channels_last, auto (on CUDA whichever a few steps show to be faster, else
            contiguous), measure (the same on any device).
        ema_decay: average the weights, with this share of history a step (0.999); validation and prediction use the
            average. None: no average.
        oom: when a step does not fit in memory: stop, or shrink: compute the same step in parts, slower.
        learning_rates: factor on the learning rate of each part of the network; 1 where left out.
        metadata: plain values (plan, labels, mirroring, identity) that every checkpoint carries.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        loss: nn.Module,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[[int, int], float],
        patch_dice: PatchDice,
        deep_supervision: bool = True,
        compile: bool | Literal["auto"] = "auto",
        memory_format: Literal["auto", "measure", "contiguous", "channels_last"] = "auto",
        ema_decay: float | None = None,
        oom: Literal["stop", "shrink"] = "stop",
        learning_rates: Mapping[str, float] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        set_deep_supervision(network, deep_supervision)
        self.network = network
        self.execution: Execution | None = None
        self._wishes = ExecutionWishes(compile, memory_format, oom)
        self._is_set_up, self.batch_size = False, 1
        self.average = None if ema_decay is None else WeightAverage(network, ema_decay)
        self.loss = DeepSupervisionLoss(loss)
        self.patch_dice = patch_dice
        self.train_loss, self.val_loss = RunningMean(), RunningMean()
        self.clock = StepClock()
        self.ema: float | None = None
        self.best_ema: float | None = None
        self.best_true_dice: float | None = None
        self.true_dice: dict[str, float] | None = None
        self.cooldown = 1.0
        self.ended_because: str | None = None
        self.saved_max_epochs: int | None = None
        self._bad_step = FirstBadStep()
        self._make_optimizer, self._schedule = optimizer, schedule
        self._learning_rates = dict(learning_rates or {})
        self._metadata = dict(metadata or {})

    def configure_optimizers(self) -> Optimizer:
        """Return the optimiser over all parameters; the schedule is applied at each epoch's start."""
        return self._make_optimizer(params=parameter_groups(self.network, self._learning_rates))

    def on_train_start(self) -> None:
        """Set the rate also where a resumed epoch is entered in its middle."""
        self._set_learning_rate()
        self.clock.start_epoch()

    def on_train_epoch_start(self) -> None:
        """Begin an epoch's means; not called for an epoch that is resumed in its middle."""
        self._set_learning_rate()
        self.train_loss.reset()
        self._bad_step.reset()
        self.clock.start_epoch()

    def on_train_batch_start(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """The batch is here: waiting ends. The first one of this process shows how to compute."""
        self.clock.start_step()
        if not self._is_set_up:
            self._set_up_execution(batch["image"])

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch: image (B, C, *spatial), labels (B, *spatial)."""
        self.batch_size = len(batch["image"])
        how = self.execution or Execution()
        logits = forward_in_parts(self.network, as_format(batch["image"], how.memory_format), how.parts)
        loss: Tensor = self.loss(logits, batch["labels"])
        self.train_loss.update(loss.detach())
        self._bad_step.note(loss.detach(), batch_idx)
        return loss

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Take the step; where it does not fit in memory and may shrink, in parts: more of them each time."""
        while True:
            before = self.train_loss.snapshot() if self._wishes.oom == "shrink" else None
            try:
                super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
                break
            except RuntimeError as error:
                if before is None or not is_out_of_memory(error) or not self._shrink():
                    raise
            self.train_loss.total, self.train_loss.count = before
            optimizer.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if self.average is not None:
            self.average.update()

    def on_train_batch_end(self, outputs: Any, batch: Mapping[str, Any], batch_idx: int) -> None:
        """The step is done: waiting begins."""
        self.clock.end_step(batch["image"].shape[0])

    def on_validation_epoch_start(self) -> None:
        """Begin the validation's means."""
        self.patch_dice.reset()
        self.val_loss.reset()
        if self.average is not None:
            self.average.swap()

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Count a batch of validation patches."""
        logits = self.network(as_format(batch["image"], (self.execution or Execution()).memory_format))
        self.val_loss.update(self.loss(logits, batch["labels"]))
        highest = logits if isinstance(logits, Tensor) else logits[0]
        self.patch_dice.update(highest.float(), batch["labels"])

    def on_validation_epoch_end(self) -> None:
        """Update the moving average of the patch Dice; an epoch in which no target occurred leaves it as it was."""
        if self.average is not None:
            self.average.swap()
        if self.trainer.sanity_checking:
            return
        value = float(self.patch_dice.compute().nanmean())
        if not math.isnan(value):
            self.ema = value if self.ema is None else EMA_DECAY * self.ema + (1 - EMA_DECAY) * value

    def on_train_epoch_end(self) -> None:
        """Send the epoch to the loggers, if there are any."""
        self.log_dict(self.epoch_summary())  # Lightning takes "step" as the step of the others; its own counts from 0

    def conclude_epoch(self) -> None:
        """Stop where a loss was no number, and let a schedule that follows the losses see them.

        `EpochEnd` calls it before any other callback, so that what is saved at an epoch's end knows of the epoch.

        Raises:
            RunError: a loss was infinite or NaN.
        """
        self.check_losses()
        if isinstance(self._schedule, PlateauDecay):
            self._schedule.observe(float(self.train_loss.compute()), float(self.val_loss.compute()))
            if self._schedule.finished is not None:
                self.end(self._schedule.finished)

    def check_losses(self) -> None:
        """Raise `RunError` if a loss of this epoch was infinite or NaN; every rank must call it."""
        make: MakeBatch | None = getattr(getattr(self.trainer, "datamodule", None), "training_batch", None)
        batches, folder = int(self.trainer.num_training_batches), Path(self.trainer.default_root_dir)
        check_losses(self._bad_step, self.current_epoch, batches, folder, make)

    def end(self, reason: str) -> None:
        """Let this epoch be the last; a checkpoint keeps the reason."""
        self.ended_because = reason
        self.trainer.should_stop = True

    @property
    def score(self) -> float | None:
        """What `best` is chosen by: the Dice over whole cases where that is measured, else the EMA of the patch Dice.

        None in an epoch that has none.
        """
        if self.true_dice is None:
            return self.ema
        value = _mean(self.true_dice.values())
        return None if math.isnan(value) else value

    def note_best(self) -> bool:
        """Whether the score is the highest so far; remembers it as such."""
        score, best = self.score, self.best_ema if self.true_dice is None else self.best_true_dice
        is_best = score is not None and (best is None or score > best)
        if is_best and self.true_dice is None:
            self.best_ema = score
        elif is_best:
            self.best_true_dice = score
        return is_best

    @contextmanager
    def weights_to_use(self) -> Iterator[None]:
        """The network has the weights meanwhile that predict: the average's, if there is one."""
        with nullcontext() if self.average is None else self.average.in_place():
            yield

    def epoch_summary(self) -> dict[str, float]:
        """What there is to say about the epoch that just ended; one row of metrics.csv.

        Waits for the device. Epochs count from 1. `patch_dice` and `true_dice` are means over the targets that
        occurred; `true_dice`, over whole cases, is there where it is measured at all, and NaN in the epochs between.
        """
        dice = self.patch_dice.compute().reshape(-1).tolist()  # torchmetrics makes a single value a scalar
        first = self.trainer.optimizers[0].param_groups[0]
        return {
            "epoch": self.current_epoch + 1,
            "step": self.global_step,
            "lr": float(first["lr"]) / first.get(SCALE_KEY, 1.0),
            "train_loss": float(self.train_loss.compute()),
            "val_loss": float(self.val_loss.compute()),
            "patch_dice": _mean(dice),
            **{f"patch_dice/{name}": value for name, value in zip(self.patch_dice.names, dice, strict=True)},
            "ema": math.nan if self.ema is None else self.ema,
            **self._true_dice_columns(),
            "samples_per_s": self.clock.samples_per_s,
            "waiting_share": self.clock.waiting_share,
            "epoch_s": self.clock.epoch_s,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what resuming needs besides Lightning's own; plain values and tensors only.

        Raises:
            RunError: a loss was infinite or NaN: from such weights nothing goes on.
        """
        self.check_losses()
        checkpoint[STATE_KEY] = {
            "format": FORMAT,
            "metadata": self._metadata,
            "ema": self.ema,
            "best_ema": self.best_ema,
            "best_true_dice": self.best_true_dice,
            "execution": None if self.execution is None else asdict(self.execution),
            "precision": str(self.trainer.precision),
            "max_epochs": self.trainer.max_epochs,
            "average": None if self.average is None else self.average.exchange(checkpoint, NETWORK_PREFIX),
            "ended_because": self.ended_because,
            "schedule": self._schedule.state_dict() if isinstance(self._schedule, PlateauDecay) else None,
            "train_loss": self.train_loss.state_of_ranks(),
            "val_loss": self.val_loss.state_of_ranks(),
        }
        # Whoever reads the weights expects their plain layout, which safetensors demands.
        checkpoint["state_dict"] = {key: value.contiguous() for key, value in checkpoint["state_dict"].items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` added.

        Raises:
            RunError: another version of segplan wrote it in another way.
        """
        state = checkpoint[STATE_KEY]
        if state.get("format") != FORMAT:
            what = f"is of format {state.get('format', 1)}, and this version of segplan resumes format {FORMAT}"
            remedy = "Go on with the version that began the run (provenance.json), or start over: force=true."
            raise RunError(what, "the run's last checkpoint", remedy)
        self.ema, self.best_ema, self.best_true_dice = state["ema"], state["best_ema"], state.get("best_true_dice")
        self.saved_max_epochs = state.get("max_epochs")
        self.execution = Execution(**state["execution"]) if state.get("execution") else None
        if self.average is not None and state.get("average"):
            self.average.restore(checkpoint, state["average"], NETWORK_PREFIX)
        if isinstance(self._schedule, PlateauDecay):
            self._schedule.load_state_dict(state["schedule"])
        self.train_loss.restore(state["train_loss"])
        self.val_loss.restore(state["val_loss"])

    def _set_up_execution(self, image: Tensor) -> None:
        """Decide how to compute, or take up what the checkpoint says, and tell it; the ranks do the same."""
        self._is_set_up, self.batch_size = True, len(image)
        probe = Probe(self.network, image, self.trainer.precision_plugin.forward_context)
        if self.execution is None:
            chosen, notes = choose_execution(self._wishes, probe)
        else:
            chosen, notes = take_up(self.execution, self._wishes, probe)
        self.execution = agree(self.network, chosen, gather_objects(chosen))
        if self.trainer.is_global_zero:
            for note in notes:
                _log.warning("%s", note)

    def _shrink(self) -> bool:
        """Compute batches in more parts from now on, if that can be; a device's failure is not known to other ranks."""
        how, batch = self.execution or Execution(), self.batch_size
        if self.trainer.world_size > 1 or self.trainer.accumulate_grad_batches > 1 or how.parts >= batch:
            return False
        self.execution = replace(how, parts=min(batch, 2 * how.parts))
        _log.warning(
            "a step does not fit in memory: batches are computed in %d parts from now on", self.execution.parts
        )
        return True

    def _true_dice_columns(self) -> dict[str, float]:
        if self.true_dice is None:
            return {}
        by_target = {f"true_dice/{name}": self.true_dice.get(name, math.nan) for name in self.patch_dice.names}
        return {"true_dice": _mean(by_target.values()), **by_target}

    def _set_learning_rate(self) -> None:
        factor = self.cooldown * self._schedule(self.current_epoch, int(self.trainer.max_epochs or 1))
        for group in self.trainer.optimizers[0].param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * factor * group.get(SCALE_KEY, 1.0)


def _mean(values: Iterable[float]) -> float:
    """Mean of those that are numbers; NaN where none is."""
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan


class RunningMean(Metric):
    """Mean of scalars, kept on their device so that adding one waits for nothing; 0/0 gives NaN."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, value: Tensor) -> None:
        """Add a scalar."""
        self.total += value.double()
        self.count += 1

    def snapshot(self) -> tuple[Tensor, Tensor]:
        """Total and count so far, which later updates leave alone."""
        return self.total.clone(), self.count.clone()

    def compute(self) -> Tensor:
        """Return the mean so far."""
        return self.total / self.count

    def state_of_ranks(self) -> dict[str, Tensor]:
        """Every rank's total and count, (ranks,) each, so that a resumed epoch's mean is the same to the last bit."""
        if not (dist.is_available() and dist.is_initialized()):
            return {"total": self.total[None], "count": self.count[None]}
        return {
            "total": torch.stack(gather_all_tensors(self.total)),
            "count": torch.stack(gather_all_tensors(self.count)),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from the `state_of_ranks` of another one; with another number of ranks the first takes all."""
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        total, count = state["total"], state["count"]
        if len(total) != ranks:
            total, count = (torch.cat([value.sum()[None], value.new_zeros(ranks - 1)]) for value in (total, count))
        self.total, self.count = total[rank].to(self.total.device), count[rank].to(self.count.device)
        self._update_count = int(self.count)
