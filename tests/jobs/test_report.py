"""`segplan report`: a page whose numbers are those of the label maps, that loads nothing and says what is missing."""

import html
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import PurePosixPath

import numpy as np
import pytest
import SimpleITK as sitk
from report_workspace import DATASET, SPLITS, plan_files, validated_fold
from tiny_run import make_run

from segplan.cli import main
from segplan.errors import ConfigError
from segplan.evaluation import Member, Selection, Step, write_selection
from segplan.jobs.report import find_runs
from segplan.jobs.report_gather import case_identifier

VOID = {"meta", "img", "input", "br", "wbr"}


class Page(HTMLParser):
    """Refuses unclosed tags; collects tags, addresses, words, and the values of table rows."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.urls, self.words, self.rows = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.urls += [values[name] for name in ("src", "href", "srcset", "data", "action") if name in values]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td" and "data-value" in values:
            self.rows[-1].append(values["data-value"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def report(workspace, target=DATASET):
    path = workspace / "page.html"
    assert main(["report", str(target), f"workspace={workspace}", f"output={path}"]) == 0
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workspace")
    validated_fold(folder, 0, shift=1)
    validated_fold(folder, 1, shift=3)
    plan_files(folder, "3d_fullres")
    return folder


@pytest.fixture(scope="module")
def page(workspace):
    return report(workspace)


def counted_dice(workspace, fold, case, value):
    """From the files, by SimpleITK and numpy: the references are the predictions moved back."""
    folder = workspace / "runs" / DATASET / "3d_fullres" / "default" / f"fold_{fold}" / "validation"
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}.nii.gz"))) == value
    expected = np.roll(found, -(1 if fold == 0 else 3), axis=2)
    return 2 * int((found & expected).sum()) / int(found.sum() + expected.sum())


def test_the_numbers_of_every_case_are_those_of_its_label_map(workspace, page):
    rows = {row[0]: row for row in Page(page).rows if len(row) == 9}
    assert sorted(rows) == ["a", "b", "e", "f"]
    for fold, cases in enumerate(SPLITS):
        for case in cases:
            dice = [counted_dice(workspace, fold, case, value) for value in (1, 2)]
            assert [float(rows[case][3]), float(rows[case][6])] == dice
            assert float(rows[case][2]) == math.fsum(dice) / 2
            assert rows[case][1] == str(fold)


def test_class_means_are_the_means_over_all_cases_of_all_folds(workspace, page):
    means = {row[0]: float(row[1]) for row in Page(page).rows if len(row) == 6}
    for name, value in (("bright", 1), ("dark", 2)):
        dice = [counted_dice(workspace, fold, case, value) for fold, cases in enumerate(SPLITS) for case in cases]
        assert means[name] == math.fsum(dice) / len(dice)


def test_fold_means_are_those_of_summary_json(workspace, page):
    rows = {row[0]: row for row in Page(page).rows if len(row) == 5}
    for fold in (0, 1):
        path = workspace / "runs" / DATASET / "3d_fullres" / "default" / f"fold_{fold}" / "validation" / "summary.json"
        summary = json.loads(path.read_text())
        assert [float(value) for value in rows[str(fold)][3:]] == [summary["mean"][key]["Dice"] for key in ("1", "2")]


def test_the_page_is_well_formed_and_loads_nothing(page):
    checked = Page(page)
    assert checked.tags.count("script") == 1
    assert all(url.startswith("data:image/") for url in checked.urls)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "@import" not in page
    assert "url(" not in page
    assert "A <fast> one" in checked.text


def test_the_only_script_is_the_one_that_the_policy_names(page):
    import base64
    import hashlib

    script = re.search(r"<script>(.*?)</script>", page, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html.unescape(page)
    assert "default-src 'none'" in page


def test_cases_are_drawn_in_three_planes_with_reference_and_prediction(page):
    checked = Page(page)
    assert checked.tags.count("figure") == 3  # worst, median and best of four cases
    assert len(checked.urls) == 3 * 3 * 3


def test_two_pages_differ_in_one_line_at_most(workspace, page):
    def lines(text):
        return re.sub(r"Made on [0-9: UTC-]+\.", "", text)

    assert lines(report(workspace)) == lines(page)


def test_commands_versions_and_times_are_shown(page):
    text = Page(page).text
    assert f"python train.py plan={DATASET}/3d_fullres fold=1" in text
    assert "0.1.0" in text
    assert "3 of 3" in text
    assert "All folds together trained for 3 min" in text


def test_without_case_store_the_page_says_so_and_counts_voxels(workspace, tmp_path):
    shutil.copytree(workspace / "runs", tmp_path / "runs")
    text = Page(report(tmp_path)).text
    assert "the preprocessed cases are not in this workspace" in text
    assert "reference voxels" in text


def test_a_run_that_is_not_validated_yet_has_a_page_that_says_so(tmp_path):
    make_run(tmp_path)
    plan_files(tmp_path, "3d_fullres")
    text = Page(report(tmp_path, tmp_path / "runs" / DATASET / "3d_fullres" / "default")).text
    assert "No fold of this run is validated yet" in text
    assert "No epoch-by-epoch record" in text


def test_folds_that_are_missing_are_named(workspace, tmp_path):
    shutil.copytree(workspace, tmp_path / "w")
    shutil.rmtree(tmp_path / "w" / "runs" / DATASET / "3d_fullres" / "default" / "fold_1")
    assert "Not yet validated, so not in the numbers: fold 1." in Page(report(tmp_path / "w")).text


def test_a_run_folder_brings_its_own_workspace(workspace, tmp_path):
    folder = workspace / "runs" / DATASET / "3d_fullres" / "default"
    for place in (folder / "fold_0", folder, folder.parent, workspace / "runs" / DATASET):
        assert find_runs(str(place), tmp_path) == (workspace, [(f"{DATASET}/3d_fullres", "default")])


def test_a_dataset_without_runs_is_refused_with_the_command_that_trains_one(tmp_path):
    make_run(tmp_path)
    plan_files(tmp_path, "3d_fullres")
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(ConfigError, match="segplan train plan=Dataset999_Tiny/3d_fullres"):
        find_runs(DATASET, tmp_path)


@pytest.mark.parametrize(
    ("path", "case"),
    [("/x/case.1.nii.gz", "case.1"), ("C:\\x\\a_b.mha", "a_b"), ("/x/p_labels.npz", "p"), ("/x/p.png", "p")],
)
def test_a_case_is_known_by_the_name_of_its_label_map(path, case):
    assert case_identifier(path) == case


def test_scores_on_training_cases_are_left_out(workspace, tmp_path):
    shutil.copytree(workspace, tmp_path / "w")
    run = tmp_path / "w" / "runs" / DATASET / "3d_fullres" / "default"
    shutil.copytree(run / "fold_0", run / "fold_all")
    page = Page(report(tmp_path / "w"))
    assert "its scores are left out" in page.text
    assert sorted(row[0] for row in page.rows if len(row) == 9) == ["a", "b", "e", "f"]


def test_what_select_decided_is_shown_with_its_candidates(workspace, tmp_path):
    shutil.copytree(workspace, tmp_path / "w")
    folder = tmp_path / "w" / "runs" / DATASET
    summary = json.loads((folder / "3d_fullres" / "default" / "fold_0" / "validation" / "summary.json").read_text())
    content = f"dataset: {DATASET}\nmembers:\n  - {{plan: {DATASET}/3d_fullres, folds: [0, 1]}}\npostprocessing: []\n"
    (folder / "inference.yaml").write_text(content + "scores: {cases: 4}\n")
    candidates = {"3d_fullres": summary, "2d + 3d_fullres": summary}
    chosen = {"best": "3d_fullres", "metric": "Dice", "candidates": candidates, "best_after_postprocessing": summary}
    (folder / "selection.json").write_text(json.dumps(chosen))
    page = Page(report(tmp_path / "w"))
    assert "Selected model" in page.text
    rows = {row[0]: row for row in page.rows if row and row[0] in candidates}
    assert float(rows["2d + 3d_fullres"][2]) == summary["mean"]["1"]["Dice"]


def test_a_selection_is_called_outdated_when_its_models_score_otherwise_by_now(workspace, tmp_path):
    shutil.copytree(workspace, tmp_path / "w")
    folder = tmp_path / "w" / "runs" / DATASET
    files = [folder / "3d_fullres" / "default" / f"fold_{fold}" / "validation" / "summary.json" for fold in (0, 1)]
    first, second = (json.loads(file.read_text()) for file in files)
    both = first | {"metric_per_case": first["metric_per_case"] + second["metric_per_case"]}
    steps = [Step("keep_largest_component", (1,)), Step("remove_small_components", (1, 2), 30.0)]
    member = Member(f"{DATASET}/3d_fullres", folds=(0, 1))
    write_selection(folder / "inference.yaml", Selection(DATASET, (member,), tuple(steps)))
    (folder / "selection.json").write_text(json.dumps({"best": "3d_fullres", "candidates": {"3d_fullres": both}}))
    plan = folder.parents[1] / "plan" / DATASET / "dataset.json"
    names = {
        "labels": {"background": 0, "kidney": 1, "other": 2},
        "channel_names": {"0": "CT"},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    plan.write_text(json.dumps(names))
    text = Page(report(tmp_path / "w")).text
    assert "trained again" not in text
    assert "keep largest component: kidney" in text
    assert "remove small components: all classes joined, below 30 mm³" in text
    second["metric_per_case"][0]["metrics"]["1"]["Dice"] = 0.125
    files[1].write_text(json.dumps(second))
    assert "A model was trained again since this was decided" in Page(report(tmp_path / "w")).text


def test_a_selected_ensemble_comes_first_with_its_own_cases_and_pictures(workspace, tmp_path):
    shutil.copytree(workspace, tmp_path / "w")
    folder = tmp_path / "w" / "runs" / DATASET
    ensemble = folder / "ensembles" / "2d+3d_fullres_default"
    ensemble.mkdir(parents=True)
    entries = []
    for fold in (0, 1):
        validation = folder / "3d_fullres" / "default" / f"fold_{fold}" / "validation"
        for entry in json.loads((validation / "summary.json").read_text())["metric_per_case"]:
            own = ensemble / PurePosixPath(entry["prediction_file"]).name
            shutil.copy(validation / own.name, own)
            metrics = {key: each | {"Dice": each["Dice"] / 2} for key, each in entry["metrics"].items()}
            entries.append({"prediction_file": str(own), "metrics": metrics})
    members = [Member(f"{DATASET}/{name}", folds=(0, 1)) for name in ("3d_fullres", "2d")]
    write_selection(folder / "inference.yaml", Selection(DATASET, tuple(members)))
    both = "2d + 3d_fullres"
    summary = {"metric_per_case": entries, "mean": {"1": {"Dice": 0.1}, "2": {"Dice": 0.1}}}
    (folder / "selection.json").write_text(json.dumps({"best": both, "candidates": {both: summary}}))
    text = report(tmp_path / "w")
    first, second = (text.index(f"<summary>{title}</summary>") for title in (both, "3d_fullres"))
    assert first < second
    section = text[first:second]
    assert "before postprocessing" in section
    assert "<figure" in section
    for entry in entries:
        assert repr(entry["metrics"]["1"]["Dice"]) in section
