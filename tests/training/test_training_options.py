"""Weight averages, early stopping, losses that are no number, and which whole cases are looked at: the parts alone."""

import math
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from segplan.errors import ConfigError, RunError
from segplan.training import SegmentationModule
from segplan.training.callbacks import EarlyStopping, choose_cases, time_limit
from segplan.training.nonfinite import BATCH_FILE, FirstBadStep, check_losses
from segplan.training.weight_average import WeightAverage


def test_the_first_bad_step_is_remembered_with_its_loss():
    watch = FirstBadStep()
    for step, value in enumerate([0.5, math.inf, math.nan, 1.0]):
        watch.note(torch.tensor(value), step)
    assert watch.read() == (1, math.inf)
    watch.reset()
    assert watch.read() is None


def test_finite_losses_raise_nothing(tmp_path):
    watch = FirstBadStep()
    watch.note(torch.tensor(1.0), 0)
    check_losses(watch, 0, 4, tmp_path, None)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_with_values_that_are_no_numbers_is_kept_and_its_cases_are_named(tmp_path):
    watch = FirstBadStep()
    watch.note(torch.tensor(math.nan), 2)
    asked = []

    def make(number):
        asked.append(number)
        image = torch.ones(2, 1, 4, 4)
        image[1, 0, 0, 0] = math.nan
        return {"image": image, "labels": torch.zeros(2, 4, 4, dtype=torch.int16), "case": ["a", "b"]}

    with pytest.raises(RunError, match=r"nan in epoch 4, batch 3 \(a, b; .*no numbers: run segplan verify"):
        check_losses(watch, 3, 10, tmp_path, make)
    assert asked == [32]
    kept = torch.load(tmp_path / BATCH_FILE, weights_only=True)
    assert kept["case"] == ["a", "b"]
    assert kept["image"].isnan().sum() == 1


def test_the_average_is_exponential_and_forgets_its_start_faster():
    net = nn.Linear(1, 1, bias=False)
    average, expected = WeightAverage(net, 0.5), 0.0
    for number, value in enumerate([3.0, 5.0, -1.0, 2.0, 8.0, 1.0, 4.0, 0.0, 9.0, 2.0], start=1):
        with torch.no_grad():
            net.weight.fill_(value)
        average.update()
        kept = min(0.5, (1 + number) / (10 + number)) if number > 1 else 0.0
        expected = kept * expected + (1 - kept) * value
    with average.in_place():
        assert net.weight.item() == pytest.approx(expected)
    assert net.weight.item() == 2.0


def test_a_checkpoint_holds_the_average_for_prediction_and_the_weights_for_going_on():
    net = nn.BatchNorm1d(1)
    average = WeightAverage(net, 0.9)
    average.update()
    with torch.no_grad():
        net.weight.fill_(3.0)
        net.running_mean.fill_(7.0)
    average.update()
    state = {f"network.{key}": value.clone() for key, value in net.state_dict().items()}
    checkpoint = {"state_dict": state, "optimizer_states": []}
    saved = average.exchange(checkpoint, "network.")
    assert 1.0 < checkpoint["state_dict"]["network.weight"].item() < 3.0
    assert checkpoint["state_dict"]["network.running_mean"].item() == 7.0  # buffers are the last ones
    other = WeightAverage(nn.BatchNorm1d(1), 0.9)
    other.restore(checkpoint, saved, "network.")
    assert checkpoint["state_dict"]["network.weight"].item() == 3.0
    with average.in_place(), other.in_place():
        assert torch.equal(other._network.weight, net.weight)


@pytest.mark.parametrize("decay", [0, 1, "often", True])
def test_a_decay_that_cannot_work_is_refused(decay):
    with pytest.raises(ConfigError, match=r"module\.ema_decay"):
        WeightAverage(nn.Linear(1, 1), decay)


def test_cases_are_spread_over_the_sorted_names_and_always_the_same():
    names = [f"case_{number:02d}" for number in range(10)]
    assert choose_cases(names[::-1], 2) == ("case_02", "case_07")
    assert choose_cases(names, 5) == tuple(names[1::2])
    assert choose_cases(names, 99) == choose_cases(names, None) == tuple(names)
    with pytest.raises(ConfigError, match=r"validation\.num_cases"):
        choose_cases(names, 0)


def test_max_time_is_read_as_lightning_writes_it():
    assert time_limit("01:02:03:04") == timedelta(days=1, hours=2, minutes=3, seconds=4)
    assert time_limit({"hours": 1.5}) == timedelta(minutes=90)
    for wrong in ("12 hours", {"fortnights": 1}, "00:00:00:00"):
        with pytest.raises(ConfigError, match="DD:HH:MM:SS"):
            time_limit(wrong)


def fake_module(score):
    class Module(SegmentationModule):
        trainer = SimpleNamespace(should_stop=False)

    module = Module.__new__(Module)
    nn.Module.__init__(module)
    module.true_dice, module.ema, module.cooldown, module.ended_because = None, score, 1.0, None
    return module


def test_without_progress_the_rate_runs_out_and_training_ends():
    stopping, factors = EarlyStopping(patience=2, cooldown_epochs=4), []
    module = fake_module(0.5)
    scores = [0.5, 0.6, 0.6, 0.55, 0.9, 0.9, 0.9, 0.9]
    for epoch, score in enumerate(scores):
        trainer = SimpleNamespace(current_epoch=epoch)
        module.ema = score
        stopping.on_train_epoch_start(trainer, module)
        factors.append(module.cooldown)
        stopping.on_train_epoch_end(trainer, module)
        resumed = EarlyStopping(patience=2, cooldown_epochs=4)
        resumed.load_state_dict(stopping.state_dict())
        stopping = resumed
        if module.ended_because:
            break
    assert factors == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert module.ended_because == "score has made no progress for 2 epochs"


def test_epochs_without_a_value_do_not_count_as_epochs_without_progress():
    stopping, module = EarlyStopping(patience=2, cooldown_epochs=0), fake_module(0.5)
    ended = None
    for epoch in range(12):
        is_measured = epoch % 3 == 2
        module.true_dice = {"organ": 0.5} if is_measured else {}
        stopping.on_train_epoch_end(SimpleNamespace(current_epoch=epoch), module)
        if module.ended_because:
            ended = epoch
            break
    assert ended == 5  # first measured in epoch 2, and in epoch 5 no better


@pytest.mark.parametrize("wrong", [{"patience": 0}, {"cooldown_epochs": -1}, {"monitor": "dice"}])
def test_early_stopping_refuses_what_cannot_work(wrong):
    with pytest.raises(ConfigError, match=f"callbacks.early_stopping.{next(iter(wrong))}"):
        EarlyStopping(**wrong)
