"""Splits against scikit-learn, whose KFold defines nnU-Net's folds."""

import json

import numpy as np
import pytest
from sklearn.model_selection import KFold

from segplan.dataset import Split, make_splits, read_splits, select_fold, write_splits
from segplan.errors import ConfigError, DatasetError


@pytest.mark.parametrize("count", [5, 6, 12, 23, 260])
def test_folds_equal_scikit_learns(count):
    names = [f"case_{number}" for number in range(count)]
    ordered = np.sort(names)
    splits = make_splits(list(reversed(names)))
    expected = KFold(5, shuffle=True, random_state=12345).split(ordered)
    for split, (train, validation) in zip(splits, expected, strict=True):
        assert split == Split(tuple(ordered[train].tolist()), tuple(ordered[validation].tolist()))


def test_the_worked_example_of_twelve_cases():
    splits = make_splits([f"{number:02d}" for number in range(12)])
    held_out = [tuple(int(name) for name in split.validation) for split in splits]
    assert held_out == [(0, 3, 8), (7, 10, 11), (6, 9), (1, 4), (2, 5)]


def test_other_numbers_of_folds_and_seeds():
    names = [str(number) for number in range(10)]
    train, validation = next(KFold(3, shuffle=True, random_state=7).split(names))
    split = make_splits(names, k=3, seed=7)[0]
    assert split == Split(tuple(names[i] for i in train), tuple(names[i] for i in validation))


def test_too_few_cases_or_folds_are_explained():
    with pytest.raises(DatasetError, match="4 cases cannot be split into 5") as caught:
        make_splits(["a", "b", "c", "d"])
    assert "fold=all" in caught.value.remedy
    with pytest.raises(ConfigError, match="1 folds"):
        make_splits(["a", "b"], k=1)


NAMES = [f"c{number}" for number in range(11)]


def test_a_fold_of_the_file_is_taken_as_it_is():
    splits = [Split(("c3", "c1"), ("c2",)), Split(("c2",), ("c1",))]
    assert select_fold(splits, NAMES, 0) == splits[0]
    assert select_fold(splits, NAMES, "1") == splits[1]


def test_fold_all_has_every_case_on_both_sides():
    split = select_fold(make_splits(NAMES), NAMES, "all")
    assert split.train == split.validation == tuple(sorted(NAMES))


@pytest.mark.parametrize("fold", [5, 6, 40])
def test_a_fold_beyond_the_file_is_a_seeded_80_20_split(fold):
    split = select_fold(make_splits(NAMES), NAMES, fold)
    ordered = np.sort(NAMES)
    expected = np.random.RandomState(12345 + fold).choice(11, 8, replace=False)
    assert split.train == tuple(ordered[expected].tolist())
    assert set(split.validation) == set(NAMES) - set(split.train)
    assert len(split.validation) == 3


@pytest.mark.parametrize("fold", [-1, "-2", "one", "", None, 1.5, True])
def test_folds_that_cannot_exist_name_those_that_do(fold):
    with pytest.raises(ConfigError, match="folds 0 to 4") as caught:
        select_fold(make_splits(NAMES), NAMES, fold)
    assert "all" in caught.value.remedy


def test_a_fold_that_names_unknown_cases_is_refused():
    with pytest.raises(DatasetError, match=r"names 1 cases that do not exist \(zz\)"):
        select_fold([Split(("c1", "zz"), ("c2",))], NAMES, 0)


def test_the_file_has_nnunets_shape_and_reads_back(tmp_path):
    splits = make_splits([*NAMES, "größe 数"])
    path = tmp_path / "splits_final.json"
    write_splits(path, splits)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert [set(entry) for entry in content] == [{"train", "val"}] * 5
    assert content[0]["val"] == list(splits[0].validation)
    assert read_splits(path) == splits


@pytest.mark.parametrize("content", ["{", "{}", '[{"train": ["a"]}]', '[{"train": ["a"], "val": [1]}]', '["a"]'])
def test_files_of_another_shape_are_refused(tmp_path, content):
    path = tmp_path / "splits_final.json"
    path.write_text(content)
    with pytest.raises(DatasetError, match=r"splits_final\.json"):
        read_splits(path)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_splits(tmp_path / "absent.json")
