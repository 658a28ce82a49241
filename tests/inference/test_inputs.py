from pathlib import Path

import pytest

from segplan.errors import ConfigError
from segplan.inference.inputs import find_cases, input_hash


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    for name in names:
        (folder / name).touch()


def found(inputs, channels=1, ending=".nii.gz") -> dict[str, list[str]]:
    cases = find_cases(inputs, ending, channels)
    return {case.identifier: [path.name for path in case.images] for case in cases}


def test_channel_files_of_a_folder_are_grouped(tmp_path):
    touch(tmp_path, "b_0001.nii.gz", "b_0000.nii.gz", "a_0000.nii.gz", "a_0001.nii.gz", "notes.md", ".a_0000.nii.gz")
    assert found(tmp_path, 2) == {
        "a": ["a_0000.nii.gz", "a_0001.nii.gz"],
        "b": ["b_0000.nii.gz", "b_0001.nii.gz"],
    }


def test_plain_names_are_cases(tmp_path):
    touch(tmp_path, "scan.nii.gz", "other_0000.nii.gz")
    assert found(tmp_path) == {"other": ["other_0000.nii.gz"], "scan": ["scan.nii.gz"]}


def test_numbers_beyond_the_channels_are_part_of_the_name(tmp_path):
    touch(tmp_path, "scan_0000.nii.gz", "scan_0001.nii.gz", "scan_0017.nii.gz")
    assert list(found(tmp_path)) == ["scan_0000", "scan_0001", "scan_0017"]


def test_the_models_ending_wins_and_others_serve_where_there_is_none(tmp_path):
    touch(tmp_path / "mixed", "a.nii.gz", "preview.png")
    touch(tmp_path / "other", "a.mha", "b.nrrd", "readme.txt")
    assert list(found(tmp_path / "mixed")) == ["a"]
    assert found(tmp_path / "other") == {"a": ["a.mha"], "b": ["b.nrrd"]}


def test_a_single_first_channel_brings_the_others(tmp_path):
    touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz")
    assert found(str(tmp_path / "a_0000.nii.gz"), 2) == {"a": ["a_0000.nii.gz", "a_0001.nii.gz"]}


def test_a_single_file_with_odd_characters(tmp_path):
    name = "Knie (links), #2 = ü 膝.nii.gz"
    touch(tmp_path, name)
    assert found(str(tmp_path / name)) == {"Knie (links), #2 = ü 膝": [name]}


def test_several_inputs_and_text_lists(tmp_path):
    touch(tmp_path, "a.nii.gz", "b.nii.gz", "c, d.nii.gz")
    assert list(found([str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nii.gz")])) == ["a", "b"]
    (tmp_path / "list.txt").write_text("c, d.nii.gz\n\n" + str(tmp_path / "b.nii.gz") + "\n", encoding="utf-8")
    assert list(found(tmp_path / "list.txt")) == ["b", "c, d"]


def test_csv_rows_are_cases_with_and_without_a_header(tmp_path):
    (tmp_path / "named.csv").write_text('case,t1,t2\nx,a.nii.gz,"b, c.nii.gz"\n')
    (tmp_path / "plain.csv").write_text("a_0000.nii.gz,b.nii.gz\n")
    (tmp_path / "titled.csv").write_text("t1,t2\na.nii.gz,b.nii.gz\n")
    (tmp_path / "spreadsheet.csv").write_text("case;t1;t2\nx;a.nii.gz;b, c.nii.gz\n", encoding="utf-8-sig")
    assert found(tmp_path / "spreadsheet.csv", 2) == {"x": ["a.nii.gz", "b, c.nii.gz"]}
    assert found(tmp_path / "named.csv", 2) == {"x": ["a.nii.gz", "b, c.nii.gz"]}
    assert found(tmp_path / "plain.csv", 2) == {"a": ["a_0000.nii.gz", "b.nii.gz"]}
    assert found(tmp_path / "titled.csv", 2) == {"a": ["a.nii.gz", "b.nii.gz"]}


def test_a_first_row_of_folders_is_no_header(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "list.csv").write_text("one\ntwo\n")
    assert found(tmp_path / "list.csv") == {"one": ["one"], "two": ["two"]}


def test_spaces_at_the_ends_of_a_line_do_not_count(tmp_path):
    touch(tmp_path, "a.nii.gz")
    (tmp_path / "list.txt").write_text("a.nii.gz \n\n")
    assert found(tmp_path / "list.txt") == {"a": ["a.nii.gz"]}


@pytest.mark.parametrize("name", ["../../evil", "a/b", "..", "..\\evil", "/tmp/evil"])
def test_a_case_name_that_leaves_the_output_folder_is_refused_with_its_row(tmp_path, name):
    (tmp_path / "list.csv").write_text(f"case,t1\nfine,a.nii.gz\n\n{name},a.nii.gz\n")
    with pytest.raises(ConfigError, match=r"list\.csv, line 4: .* is no case name"):
        find_cases(tmp_path / "list.csv", ".nii.gz", 1)


def test_a_case_name_may_hold_dots(tmp_path):
    (tmp_path / "list.csv").write_text("case,t1\na..b.1,a.nii.gz\n")
    assert found(tmp_path / "list.csv") == {"a..b.1": ["a.nii.gz"]}


def test_nothing_there_is_refused(tmp_path):
    touch(tmp_path / "empty", "readme.md")
    with pytest.raises(ConfigError, match="no such file or folder"):
        find_cases(tmp_path / "absent.nii.gz", ".nii.gz", 1)
    with pytest.raises(ConfigError, match="holds no image"):
        find_cases(tmp_path / "empty", ".nii.gz", 1)


def test_two_cases_of_one_name_are_refused(tmp_path):
    touch(tmp_path / "one", "a.nii.gz")
    touch(tmp_path / "two", "a.nii.gz")
    with pytest.raises(ConfigError, match="two cases are named a"):
        find_cases([tmp_path / "one", tmp_path / "two"], ".nii.gz", 1)


def test_the_hash_changes_when_a_file_is_replaced(tmp_path):
    touch(tmp_path, "a.nii.gz")
    (case,) = find_cases(tmp_path, ".nii.gz", 1)
    before = input_hash(case)
    assert input_hash(case) == before
    (tmp_path / "a.nii.gz").write_text("other")
    assert input_hash(case) != before
