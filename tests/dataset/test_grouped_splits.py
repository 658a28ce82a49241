"""Folds of whole groups and even labels: what must hold for any dataset, and the two ways to name a group."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segplan.dataset import groups_of_cases, make_grouped_splits
from segplan.errors import ConfigError, DatasetError


@st.composite
def datasets(draw: st.DrawFn) -> tuple[dict[str, str], dict[str, list[int]], int]:
    k = draw(st.integers(2, 6))
    sizes = draw(st.lists(st.integers(1, 5), min_size=k, max_size=25))
    groups = {f"c{number}_{index}": f"g{number}" for number, size in enumerate(sizes) for index in range(size)}
    present = st.lists(st.integers(1, 4), max_size=4, unique=True)
    return groups, {case: draw(present) for case in groups}, k


@settings(max_examples=80, deadline=None)
@given(datasets(), st.integers(0, 3), st.booleans())
def test_folds_are_disjoint_cover_all_keep_groups_whole_and_are_balanced(dataset, seed, stratify):
    groups, labels, k = dataset
    splits = make_grouped_splits(groups, labels if stratify else None, k, seed)
    assert len(splits) == k
    held_out = Counter(case for split in splits for case in split.validation)
    assert held_out == dict.fromkeys(groups, 1)
    for split in splits:
        assert sorted((*split.train, *split.validation)) == sorted(groups)
        assert not {groups[case] for case in split.train} & {groups[case] for case in split.validation}
    sizes = [len(split.validation) for split in splits]
    assert min(sizes) > 0
    assert max(sizes) - min(sizes) <= max(Counter(groups.values()).values())
    assert make_grouped_splits(dict(reversed(groups.items())), labels if stratify else None, k, seed) == splits


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from([(), (1,), (2,), (3,)]), min_size=5, max_size=60), st.integers(2, 5), st.integers(0, 3))
def test_with_one_label_a_case_no_fold_has_two_more_of_it_than_another(labels, k, seed):
    present = {f"c{index}": label for index, label in enumerate(labels)}
    splits = make_grouped_splits({case: case for case in present}, present, k, seed)
    for label in (1, 2, 3):
        counts = [sum(label in present[case] for case in split.validation) for split in splits]
        assert max(counts) - min(counts) <= 1


def test_a_rare_label_beside_a_common_one_is_in_every_fold():
    labels = {f"c{index:02d}": [1, 2] if index < 5 else [1] for index in range(50)}
    splits = make_grouped_splits({case: case for case in labels}, labels)
    assert [sum(2 in labels[case] for case in split.validation) for split in splits] == [1] * 5
    assert [len(split.validation) for split in splits] == [10] * 5


def test_the_seed_changes_the_folds():
    groups = {f"c{index}": f"g{index // 2}" for index in range(40)}
    assert make_grouped_splits(groups, seed=1) != make_grouped_splits(groups, seed=2)


def test_fewer_groups_than_folds_are_refused():
    with pytest.raises(DatasetError, match="2 groups of cases cannot be split into 5 folds"):
        make_grouped_splits({f"c{index}": f"g{index % 2}" for index in range(10)})
    with pytest.raises(ConfigError, match="1 folds"):
        make_grouped_splits({"a": "a", "b": "b"}, k=1)
    with pytest.raises(DatasetError, match=r"1 group of cases.*smaller split\.k"):
        make_grouped_splits({"a": "x", "b": "x"}, k=2)


CASES = ["anna_1", "anna_2", "bob_1", "carl"]


def test_what_the_pattern_captures_is_the_group():
    assert groups_of_cases(CASES, r"^([a-z]+)") == dict(zip(CASES, ["anna", "anna", "bob", "carl"], strict=True))
    assert groups_of_cases(CASES, "[a-z]+") == dict(zip(CASES, ["anna", "anna", "bob", "carl"], strict=True))


def test_a_column_of_a_table_is_the_group(tmp_path):
    table = tmp_path / "who, what (1).csv"
    table.write_text("patient,case,site\nA,anna_1,x\nA,anna_2,y\nB,bob_1,x\nC,carl,y\nD,dora,x\n", encoding="utf-8-sig")
    assert list(groups_of_cases(CASES, f"{table}:patient").values()) == ["A", "A", "B", "C"]
    assert list(groups_of_cases(CASES, f"{table}:site").values()) == ["x", "y", "x", "y"]
    table.write_text("scan,patient\nanna_1,A\nanna_2,A\nbob_1,B\ncarl,C\n")
    assert list(groups_of_cases(CASES, f"{table}:patient").values()) == ["A", "A", "B", "C"]


def test_what_gives_no_group_is_named(tmp_path):
    with pytest.raises(DatasetError, match="gives no group to carl"):
        groups_of_cases(CASES, r"^([a-z]+)_\d")
    table = tmp_path / "t.csv"
    table.write_text("case,patient\nanna_1,A\nanna_2,\nbob_1,B\n")
    with pytest.raises(DatasetError, match="no group to anna_2, carl"):
        groups_of_cases(CASES, f"{table}:patient")
    with pytest.raises(ConfigError, match=r"no column person.*There are: case, patient"):
        groups_of_cases(CASES, f"{table}:person")
    with pytest.raises(ConfigError, match="cannot be read"):
        groups_of_cases(CASES, f"{tmp_path / 'none.csv'}:person")
    with pytest.raises(ConfigError, match="no regular expression"):
        groups_of_cases(CASES, "(anna")


def test_a_pattern_whose_groups_match_nothing_gives_no_group():
    assert len(set(groups_of_cases(["anna", "bob"], "(anna)?(bob)?").values())) == 2
    with pytest.raises(DatasetError, match="no group to anna_1, anna_2, bob_1 and 1 more"):
        groups_of_cases(CASES, "(x)?(y)?")


def test_a_case_in_two_groups_of_a_table_is_refused(tmp_path):
    table = tmp_path / "t.csv"
    lines = "case, patient\nanna_1, A\nanna_2, A\nanna_2, A\nbob_1, B\ncarl, C\n"
    table.write_text(lines)
    assert list(groups_of_cases(CASES, f"{table}:patient").values()) == ["A", "A", "B", "C"]
    table.write_text(lines + "anna_1, B\n")
    with pytest.raises(DatasetError, match="anna_1 in two groups, A and B"):
        groups_of_cases(CASES, f"{table}:patient")
