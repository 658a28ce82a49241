"""The folds that planning fixes: made once, from all raw cases, or the dataset's own."""

import json

import pytest

from segplan.dataset import Split, make_splits, read_splits, write_splits
from segplan.entry.compose import compose_job
from segplan.errors import ConfigError, DatasetError
from segplan.jobs.folds import SplitSettings, make_folds, write_folds
from segplan.planning import Fingerprint

CASES = [f"p{patient}_{scan}" for patient in range(7) for scan in range(2)]


def fingerprint(labels: bool = True) -> Fingerprint:
    case_labels = tuple((1, 2) if index % 7 == 0 else (1,) for index in range(len(CASES))) if labels else ()
    unit = ((1.0, 1.0, 1.0),) * len(CASES)
    return Fingerprint(unit, ((4, 4, 4),) * len(CASES), (), 1.0, "hash", tuple(CASES) if labels else (), case_labels)


def test_the_options_of_the_command_line_are_those_of_the_settings(tmp_path):
    node = dict(compose_job("plan", [], tmp_path).split)
    assert SplitSettings(**node) == SplitSettings()
    pattern = r"split.group_by=([a-z]+\d)_[0-9]"
    assert compose_job("plan", ["split.k=3", "split.stratify=true"], tmp_path).split.k == 3
    from segplan.entry.arguments import quote_paths

    assert compose_job("plan", quote_paths([pattern]), tmp_path).split.group_by == pattern.partition("=")[2]
    [quoted] = quote_paths(["split.group_by=[a-z]+[0-9]"])
    assert compose_job("plan", [quoted], tmp_path).split.group_by == "[a-z]+[0-9]"


def test_without_options_the_folds_are_nnunets():
    assert make_folds(CASES, SplitSettings(), fingerprint()) == make_splits(CASES)


def test_groups_and_labels_go_together():
    splits = make_folds(CASES, SplitSettings(k=7, group_by=r"^(p\d)_", stratify=True), fingerprint())
    assert [{case.split("_")[0] for case in split.validation} for split in splits]
    assert all(len({case.split("_")[0] for case in split.validation}) == 1 for split in splits)
    rare = {case for case, labels in zip(CASES, fingerprint().case_labels, strict=True) if 2 in labels}
    assert sorted(len(rare & set(split.validation)) for split in splits) == [0] * 5 + [1] * 2


def test_labels_that_the_fingerprint_does_not_record_are_asked_for():
    with pytest.raises(DatasetError, match="force=true"):
        make_folds(CASES, SplitSettings(stratify=True), fingerprint(labels=False))


@pytest.mark.parametrize("values", [{"k": 1}, {"k": 0}, {"seed": -1}])
def test_impossible_settings_are_refused(values):
    with pytest.raises(ConfigError, match="split"):
        SplitSettings(**values)


def write(path, settings=None, **options):
    return write_folds(path, CASES, settings or SplitSettings(), fingerprint(), **options)


def test_folds_are_made_once_and_kept_until_forced(tmp_path):
    path = tmp_path / "splits_final.json"
    assert write(path) == []
    first = path.read_bytes()
    assert write(path) == []
    [note] = write(path, SplitSettings(k=3))
    assert "the 5 folds in" in note
    assert path.read_bytes() == first
    [note] = write(path, SplitSettings(k=3), force=True)
    assert "splits_final.previous.json" in note
    assert len(read_splits(path)) == 3
    assert (tmp_path / "splits_final.previous.json").read_bytes() == first


def test_redoing_everything_does_not_tear_patients_apart(tmp_path):
    path, second = tmp_path / "splits_final.json", tmp_path / "resenc_m" / "splits_final.json"
    write(path, SplitSettings(group_by=r"^(p\d)_"))
    grouped = path.read_bytes()
    [note] = write(path, force=True)
    assert "are kept" in note
    assert path.read_bytes() == grouped
    assert write(second, sibling=path, force=True) == write(second, sibling=path, force=True) == []
    assert read_splits(second) == read_splits(path)


def test_folds_unlike_those_of_the_first_plan_are_noticed(tmp_path):
    path, second = tmp_path / "splits_final.json", tmp_path / "resenc_m" / "splits_final.json"
    write(path)
    write(second, sibling=path)
    write(path, SplitSettings(group_by=r"^(p\d)_"), force=True)
    [note] = write(second, sibling=path)
    assert "not those of the dataset's first plan" in note


def test_other_cases_are_noticed(tmp_path):
    path = tmp_path / "splits_final.json"
    write_splits(path, make_splits([*CASES[:-1], "gone_a", "gone_b"]))
    [note] = write(path)
    assert "1 new, 2 gone" in note


def test_folds_of_a_person_in_another_order_are_the_same_folds(tmp_path):
    path = tmp_path / "splits_final.json"
    write_splits(path, [Split(split.train[::-1], split.validation[::-1]) for split in make_splits(CASES)])
    assert write(path) == []


def test_the_datasets_own_file_comes_first(tmp_path):
    own, path = tmp_path / "raw.json", tmp_path / "splits_final.json"
    own.write_text(json.dumps([{"train": CASES[:10], "val": CASES[9:12]}]))
    notes = write(path, SplitSettings(k=3), own=own)
    assert read_splits(path) == [Split(tuple(CASES[:10]), tuple(CASES[9:12]))]
    assert [text for text in ("1 folds are those of", "not looked at", "2 cases are in no fold", "same fold")
            if not any(text in note for note in notes)] == []  # fmt: skip
    own.write_text(json.dumps([{"train": ["nobody"], "val": []}]))
    with pytest.raises(DatasetError, match="nobody"):
        write(path, own=own)


def test_too_few_cases_have_no_folds_but_can_all_be_trained_on(tmp_path):
    path = tmp_path / "splits_final.json"
    [note] = write_folds(path, CASES[:3], SplitSettings(), fingerprint())
    assert "fold=all" in note
    assert read_splits(path) == []


def test_another_plan_of_the_dataset_begins_with_the_same_folds(tmp_path):
    first, second = tmp_path / "splits_final.json", tmp_path / "resenc_m" / "splits_final.json"
    write(first, SplitSettings(k=3))
    assert write(second, sibling=first) == []
    assert read_splits(second) == read_splits(first)
    other = tmp_path / "big" / "splits_final.json"
    assert write(other, SplitSettings(k=4), sibling=first) == []
    assert len(read_splits(other)) == 4
