"""Two gloo processes: whole cases are shared though their number is odd, and a bad loss of one ends both alike."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from segplan.errors import RunError
from segplan.training import SegmentationModule
from segplan.training.callbacks import WholeCases
from segplan.training.nonfinite import BATCH_FILE, FirstBadStep, check_losses

DICE = {"a": {"x": 0.5, "y": math.nan}, "b": {"x": 0.75, "y": 0.5}, "c": {"x": 1.0, "y": 0.25}}


def one_rank(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    seen = []

    def case_dice(network, case):
        seen.append(case)
        return DICE[case]

    module = SegmentationModule.__new__(SegmentationModule)
    nn.Module.__init__(module)
    module.network, module.average = nn.Linear(1, 1), None
    trainer = SimpleNamespace(global_rank=rank, world_size=2)
    dice = WholeCases(["a", "b", "c"], case_dice, 1)._measure(trainer, module)

    watch = FirstBadStep()
    for step in range(4):
        watch.note(torch.tensor(math.nan if rank == 1 and step == 2 else 1.0), step)

    def make(number):
        return {
            "image": torch.full((1, 1, 2, 2), float(number)),
            "labels": torch.zeros(1, 2, 2),
            "case": [f"of {rank}"],
        }

    message = ""
    try:
        check_losses(watch, 1, 4, Path(folder) / str(rank), make)
    except RunError as error:
        message = error.what
    torch.save({"dice": dice, "seen": seen, "message": message}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.start_processes(one_rank, args=(folder,), nprocs=2, start_method="fork")
    return folder


@pytest.fixture(scope="module")
def ranks(folder):
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_an_odd_number_of_cases_is_shared_and_every_rank_knows_the_mean_of_all(ranks):
    assert [rank["seen"] for rank in ranks] == [["a", "c"], ["b"]]
    assert [rank["dice"] for rank in ranks] == [{"x": 0.75, "y": 0.375}] * 2


def test_a_bad_loss_of_one_rank_ends_all_with_its_cases_and_one_file(folder, ranks):
    assert ranks[0]["message"] == ranks[1]["message"]
    assert "nan in epoch 2, batch 3 (of 1;" in ranks[0]["message"]
    assert not (folder / "0").exists()
    kept = torch.load(folder / "1" / BATCH_FILE, weights_only=True)
    assert kept["image"].unique().item() == 6.0
