"""`memory_gb` of plan.py: what is chosen is said with its reason, and a case that is too large runs alone."""

from pathlib import Path

import pytest
from small_dataset import make_dataset

from segplan.dataset import Case
from segplan.entry import main
from segplan.jobs import fill_stores


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    raw = make_dataset(folder / "raw" / "Dataset001_Boxes", cases=3)
    words = [f"dataset={raw}", f"workspace={folder / 'w'}", "configurations=[3d_fullres]", "num_workers=2"]
    assert main("plan", [*words, "stages=[verify,fingerprint,plan]"]) == 0
    return [*words, "stages=[preprocess]", "force=true"]


def test_the_choice_is_printed_with_its_reason(planned, capsys):
    assert main("plan", planned) == 0
    printed = capsys.readouterr().out
    assert "2 cases at once: num_workers 2, free memory" in printed and "the largest case needs 0.1 GB" in printed
    assert "3/3" in printed and "note:" not in printed
    assert main("plan", [*planned, "memory_gb=0.1"]) == 0
    assert "1 case at once: num_workers 2, memory_gb 0.1 GB" in capsys.readouterr().out


def case(name):
    return Case(name, (Path(f"{name}_0000.nii.gz"),), None)


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ([6, 6, 6], "1 case at once"),
        ([6, 3, 3], "1 to 2 cases at once"),
        ([4, 4, 4], "3 cases at once"),
        ([20, 13, 2], "1 case at once"),
        ([9, 6, 5], "1 to 2 cases at once"),
    ],
)
def test_only_as_many_are_announced_as_the_memory_can_hold(costs, said, capsys):
    budget = {6: 10, 9: 11}.get(costs[0], 12)
    fill_stores._print_choice([case(name) for name in "abc"], costs, 3, budget, given=True)
    assert f"{said}: num_workers 3" in capsys.readouterr().out


def test_cases_that_need_more_are_named_and_still_done(planned, capsys):
    assert main("plan", [*planned, "memory_gb=0.01"]) == 0
    printed = capsys.readouterr().out
    notes = [line for line in printed.splitlines() if line.startswith("note:")]
    assert [line.split()[1] for line in notes] == ["case_00", "case_01", "case_02"]
    assert "worked on alone" in notes[0] and "3/3" in printed


@pytest.mark.parametrize("value", ["-1", "0", "much", "true"])
def test_other_values_are_refused(planned, capsys, value):
    assert main("plan", [*planned, f"memory_gb={value}"]) == 2
    assert "memory_gb" in capsys.readouterr().err
