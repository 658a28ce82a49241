import math

import pytest
import yaml

from segplan.errors import ConfigError
from segplan.evaluation import Member, Selection, Step, read_selection, write_selection


def test_a_selection_is_read_as_it_was_written(tmp_path):
    selection = Selection(
        "Dataset001_Größe: x",
        (Member("D/2d", "default", (0, 1)), Member("D/resenc_m/3d_fullres", "long", ("all",), "best")),
        (Step("keep_largest_component", (1, 2)), Step("remove_small_components", (2,), 30.5)),
        {"metric": "Dice", "best": 0.75, "nested": {"a": [1, 2]}},
    )
    write_selection(tmp_path / "inference.yaml", selection, ["what decided"])
    assert read_selection(tmp_path / "inference.yaml") == selection
    text = (tmp_path / "inference.yaml").read_text(encoding="utf-8")
    assert text.startswith("# what decided\ndataset:")
    assert "  - {plan: D/2d, run: default, folds: [0, 1], checkpoint: final}\n" in text


def test_undefined_scores_become_null(tmp_path):
    write_selection(tmp_path / "a.yaml", Selection("D", (Member("D/2d"),), scores={"x": math.nan}))
    assert yaml.safe_load((tmp_path / "a.yaml").read_text())["scores"] == {"x": None}
    assert read_selection(tmp_path / "a.yaml").postprocessing == ()


def test_what_a_person_leaves_out_has_its_default(tmp_path):
    (tmp_path / "a.yaml").write_text("dataset: D\nmembers: [{plan: D/2d}]\n")
    assert read_selection(tmp_path / "a.yaml").members == (Member("D/2d", "default", (0, 1, 2, 3, 4), "final"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "holds no mapping"),
        ("dataset: D", "names no members"),
        ("members: [{plan: D/2d, fold: 0}]", "unknown key fold"),
        ("members: [{run: a}]", "is no member"),
        ("members: [{plan: D/2d, folds: [-1]}]", "-1 is no fold"),
        ("members: [{plan: D/2d, folds: []}]", "names no fold"),
        ("members: [{plan: D/2d, checkpoint: last}]", "no weights 'last'"),
        ("members: [{plan: D/2d}]\npostprocess: []", "unknown key postprocess"),
        ("members: [{plan: D/2d}]\npostprocessing: [{operation: x}]", "operation=x is unknown"),
        ("a: [", "no valid YAML"),
    ],
)
def test_files_that_cannot_work_are_refused(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_selection(tmp_path / "a.yaml")


def test_a_missing_file_says_what_makes_it(tmp_path):
    with pytest.raises(ConfigError, match="segplan select"):
        read_selection(tmp_path / "none.yaml")
