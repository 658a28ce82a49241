"""`plan.py` as a user runs it: one command, from another folder, on good and bad data."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from small_dataset import case_arrays, make_dataset, write_image

from segplan.cli import main as segplan
from segplan.entry import main
from segplan.preprocessing import CaseStore

ROOT = Path(__file__).resolve().parents[2]


def plan(*words: object, workspace: Path) -> int:
    return main("plan", [*map(str, words), f"workspace={workspace}", "num_workers=0"])


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "raw" / "Dataset001_Boxes")


def store_of(workspace: Path) -> CaseStore:
    [folder] = (workspace / "preprocessed").glob("*/*")
    return CaseStore(folder)


def files_below(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_all_stages_make_plans_splits_and_a_full_store(dataset, tmp_path, capsys):
    assert plan(f"dataset={dataset}", workspace=tmp_path / "w") == 0
    folder = tmp_path / "w" / "plan" / dataset.name
    assert sorted(path.name for path in folder.iterdir()) == [
        "2d.yaml", "3d_fullres.yaml", "_dataset.yaml", "dataset.json", "dataset_fingerprint.json", "splits_final.json",
    ]  # fmt: skip
    splits = json.loads((folder / "splits_final.json").read_text())
    assert len(splits) == 5
    assert sorted(case for split in splits for case in split["val"]) == [f"case_{index:02d}" for index in range(6)]
    assert len(store_of(tmp_path / "w").identifiers()) == 6
    printed = capsys.readouterr().out
    assert "3d_fullres" in printed
    assert f"Next: python train.py plan={dataset.name}/3d_fullres fold=0 workspace=" in printed


def test_a_second_run_does_nothing_again_and_force_redoes_it(dataset, tmp_path, capsys):
    workspace = tmp_path / "w"
    plan(f"dataset={dataset}", workspace=workspace)
    before = files_below(workspace / "preprocessed") | files_below(workspace / "fingerprints")
    capsys.readouterr()
    assert plan(f"dataset={dataset}", workspace=workspace) == 0
    assert files_below(workspace / "preprocessed") | files_below(workspace / "fingerprints") == before
    assert capsys.readouterr().out.count("done before") == 2
    assert plan(f"dataset={dataset}", "force=true", workspace=workspace) == 0
    after = files_below(workspace / "preprocessed") | files_below(workspace / "fingerprints")
    assert after.keys() == before.keys()
    assert all(after[name] > before[name] for name in before)


def test_a_changed_case_is_noticed_and_only_it_is_preprocessed_again(dataset, tmp_path):
    workspace = tmp_path / "w"
    plan(f"dataset={dataset}", workspace=workspace)
    before = files_below(workspace / "preprocessed")
    image, _ = case_arrays(3, [15, 17, 19], 1)
    write_image(dataset / "imagesTr" / "case_03_0000.nii.gz", image[0] * 2, (1, 1, 1))
    assert plan(f"dataset={dataset}", workspace=workspace) == 0
    after = files_below(workspace / "preprocessed")
    changed = {name.rsplit("/", 1)[1].split(".")[0] for name in after if after[name] != before.get(name)}
    assert changed == {"case_03"}


def test_a_dataset_seen_before_is_known_by_its_name(dataset, tmp_path, capsys):
    plan(f"dataset={dataset}", workspace=tmp_path / "w")
    assert plan(f"dataset={dataset.name}", workspace=tmp_path / "w") == 0
    assert plan("dataset=Dataset009_Other", workspace=tmp_path / "w") == 2
    assert "Dataset001_Boxes" in capsys.readouterr().err


def test_a_damaged_record_of_a_dataset_is_named(tmp_path, capsys):
    record = tmp_path / "w" / "fingerprints" / "D" / "verification.json"
    record.parent.mkdir(parents=True)
    for text in ("{", "{}", "[]"):
        record.write_text(text)
        assert plan("dataset=D", workspace=tmp_path / "w") == 2
        assert f"{record}: is damaged" in capsys.readouterr().err


def test_a_workspace_that_is_a_file_is_refused_in_one_line(dataset, tmp_path, capsys):
    (tmp_path / "w").write_text("")
    assert plan(f"dataset={dataset}", workspace=tmp_path / "w") == 2
    assert "a part of this path is a file" in capsys.readouterr().err


def test_too_few_cases_for_folds_are_recommended_fold_all(tmp_path, capsys):
    raw = make_dataset(tmp_path / "raw" / "Dataset001_Boxes", cases=1)
    assert plan(f"dataset={raw}", "stages=[plan]", workspace=tmp_path / "w") == 0
    printed = capsys.readouterr().out
    assert "1 case is too few for 5 folds" in printed
    assert "3d_fullres fold=all" in printed


def test_plans_with_no_image_at_hand(dataset, tmp_path):
    workspace = tmp_path / "w"
    plan(f"dataset={dataset}", workspace=workspace)
    fingerprint = workspace / "fingerprints" / dataset.name / "dataset_fingerprint.json"
    words = [f"fingerprint={fingerprint}", f"dataset_json={dataset / 'dataset.json'}", "stages=[plan]"]
    assert plan(*words, workspace=tmp_path / "other") == 0
    mine = OmegaConf.load(tmp_path / "other" / "plan" / dataset.name / "3d_fullres.yaml")
    assert mine.data == OmegaConf.load(workspace / "plan" / dataset.name / "3d_fullres.yaml").data


def add_case(dataset: Path, index: int) -> None:
    image, labels = case_arrays(index, [30, 34, 38], 1)
    write_image(dataset / "imagesTr" / f"case_{index:02d}_0000.nii.gz", image[0], (1, 1, 1))
    write_image(dataset / "labelsTr" / f"case_{index:02d}.nii.gz", labels, (1, 1, 1))
    describe(dataset, numTraining=7)


def describe(dataset: Path, **changes: object) -> None:
    path = dataset / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def planned_from(folder: Path) -> set[str]:
    nodes = [OmegaConf.load(path).plan for path in folder.glob("*.yaml")]
    return {str(node.get("planned_from") or node.get("fingerprint")) for node in nodes}


def test_planning_one_configuration_again_leaves_no_other_with_an_older_fingerprint(dataset, tmp_path):
    workspace = tmp_path / "w"
    folder = workspace / "plan" / dataset.name
    plan(f"dataset={dataset}", "stages=[plan]", workspace=workspace)
    [before] = planned_from(folder)
    add_case(dataset, 7)
    assert plan(f"dataset={dataset}", "stages=[plan]", "configurations=[2d]", workspace=workspace) == 0
    [after] = planned_from(folder)
    assert after != before
    assert (folder / "3d_fullres.yaml").is_file()


@pytest.mark.parametrize("change", ["added", "removed", "changed", "dataset.json"])
def test_a_plan_of_other_images_is_noticed_before_anything_is_preprocessed(dataset, tmp_path, capsys, change):
    workspace = tmp_path / "w"
    plan(f"dataset={dataset}", "stages=[plan]", workspace=workspace)
    if change == "added":
        add_case(dataset, 7)
    elif change == "removed":
        (dataset / "imagesTr" / "case_03_0000.nii.gz").unlink()
        (dataset / "labelsTr" / "case_03.nii.gz").unlink()
        describe(dataset, numTraining=5)
    elif change == "changed":
        write_image(dataset / "imagesTr" / "case_03_0000.nii.gz", case_arrays(3, [15, 17, 19], 1)[0][0] * 2, (1, 1, 1))
    else:
        describe(dataset, channel_names={"0": "CT"})
    capsys.readouterr()
    assert plan(f"dataset={dataset}", "stages=[preprocess]", workspace=workspace) == 2
    assert "has changed since it was planned" in capsys.readouterr().err
    assert not (workspace / "preprocessed").exists()
    assert plan(f"dataset={dataset}", "stages=[plan,preprocess]", workspace=workspace) == 0


def test_an_edited_file_is_kept_and_the_difference_is_printed(dataset, tmp_path, capsys):
    workspace = tmp_path / "w"
    plan(f"dataset={dataset}", "stages=[plan]", workspace=workspace)
    path = workspace / "plan" / dataset.name / "3d_fullres.yaml"
    edited = path.read_text().replace("batch_size: 2", "batch_size: 3")
    path.write_text(edited)
    add_case(dataset, 7)
    capsys.readouterr()
    assert plan(f"dataset={dataset}", "stages=[plan]", workspace=workspace) == 0
    printed = capsys.readouterr().out
    assert f"kept {path}, which was edited; the new plan is 3d_fullres.new.yaml" in printed
    assert "  -  batch_size: 3 " in printed
    assert "  +  batch_size: 2 " in printed
    assert path.read_text() == edited


def test_a_plan_from_nnunets_fingerprint_serves_for_the_images_it_was_made_of(dataset, tmp_path, capsys):
    workspace = tmp_path / "w"
    plan(f"dataset={dataset}", "stages=[fingerprint]", workspace=workspace)
    own = json.loads((workspace / "fingerprints" / dataset.name / "dataset_fingerprint.json").read_text())
    theirs = {key: value for key, value in own.items() if key != "segplan"}
    theirs["foreground_intensity_properties_per_channel"]["0"]["median"] += 0.5  # theirs are drawn at random
    (tmp_path / "fp.json").write_text(json.dumps(theirs))
    words = [f"fingerprint={tmp_path / 'fp.json'}", f"dataset_json={dataset / 'dataset.json'}", "stages=[plan]"]
    describe(dataset, name=dataset.name)
    assert plan(*words, workspace=workspace) == 0
    capsys.readouterr()
    assert plan(f"dataset={dataset}", "stages=[preprocess]", workspace=workspace) == 0
    assert "planned from a given fingerprint" in capsys.readouterr().out


def test_pictures_have_a_size_and_no_spacing(tmp_path, capsys):
    from segplan.jobs.phantom import run as make

    make(tmp_path / "Dataset005_Pictures", "rgb", 3, 0, 0)
    capsys.readouterr()
    words = [f"dataset={tmp_path / 'Dataset005_Pictures'}", "stages=[plan]", "configurations=[2d]"]
    assert plan(*words, workspace=tmp_path / "w") == 0
    printed = capsys.readouterr().out
    assert "fingerprint  pictures of " in printed
    assert "999" not in printed


def test_the_cascade_is_planned_with_its_previous_stage(tmp_path):
    dataset = make_dataset(tmp_path / "Dataset006_Large", cases=5, shape=(60, 64, 66))
    words = [f"dataset={dataset}", "stages=[plan]", "configurations=[3d_lowres,3d_cascade_fullres]"]
    assert plan(*words, "planner.gpu_memory_gb=0.05", workspace=tmp_path / "w") == 0
    folder = tmp_path / "w" / "plan" / dataset.name
    cascade = OmegaConf.load(folder / "3d_cascade_fullres.yaml")
    assert (cascade.plan.previous_stage, cascade.plan.previous_stage_run) == ("3d_lowres", "default")
    assert cascade.network.input_channels == 1 + 2
    assert OmegaConf.load(folder / "3d_lowres.yaml").plan.next_stage == "3d_cascade_fullres"


def test_another_planner_shares_the_data_and_has_its_own_folder(dataset, tmp_path):
    plan(f"dataset={dataset}", workspace=tmp_path / "w")
    assert plan(f"dataset={dataset}", "planner=resenc_m", workspace=tmp_path / "w") == 0
    assert (tmp_path / "w" / "plan" / dataset.name / "resenc_m" / "3d_fullres.yaml").is_file()
    assert len(list((tmp_path / "w" / "preprocessed").glob("*/*"))) == 1


@pytest.mark.parametrize("name", ["Dataset002_a b", "Dataset002_a,b=c (d)", "Dataset002_Größe", "Dataset002_数据"])
def test_paths_with_odd_characters_work_from_the_shell(tmp_path, name):
    dataset = make_dataset(tmp_path / f"raw {name}" / name, cases=5)
    workspace = tmp_path / f"w {name}"
    command = [sys.executable, str(ROOT / "plan.py"), f"dataset={dataset}", f"workspace={workspace}", "num_workers=0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(store_of(workspace).identifiers()) == 5


class TestBadInput:
    """One clear line on stderr, exit code 2, nothing half-written."""

    def refused(self, capsys, tmp_path, dataset, *expected: str) -> str:
        assert plan(f"dataset={dataset}", workspace=tmp_path / "w") == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1, captured.err
        assert captured.err.startswith("segplan: ")
        text = captured.out + captured.err
        for words in expected:
            assert words in text
        assert not (tmp_path / "w" / "plan").exists()
        assert not (tmp_path / "w" / "preprocessed").exists()
        return text

    def test_no_such_folder(self, capsys, tmp_path):
        self.refused(capsys, tmp_path, tmp_path / "none", "no such folder")

    def test_dataset_json_missing(self, capsys, tmp_path, dataset):
        (dataset / "dataset.json").unlink()
        self.refused(capsys, tmp_path, dataset, "dataset.json")

    def test_dataset_json_lacks_a_key(self, capsys, tmp_path, dataset):
        description = json.loads((dataset / "dataset.json").read_text())
        del description["file_ending"]
        (dataset / "dataset.json").write_text(json.dumps(description))
        self.refused(capsys, tmp_path, dataset, "file_ending")

    def test_image_without_label_and_label_without_image(self, capsys, tmp_path, dataset):
        (dataset / "labelsTr" / "case_00.nii.gz").unlink()
        (dataset / "imagesTr" / "case_01_0000.nii.gz").unlink()
        self.refused(capsys, tmp_path, dataset, "case_00", "case_01")

    def test_every_kind_of_bad_case_is_reported_at_once(self, capsys, tmp_path, dataset):
        images, labels = dataset / "imagesTr", dataset / "labelsTr"
        _, label_map = case_arrays(0, [14, 16, 18], 1)
        label_map[0, 0, 0] = 7
        write_image(labels / "case_00.nii.gz", label_map, (1, 1, 1))
        write_image(labels / "case_01.nii.gz", label_map[:, :, :-2] % 3, (1, 1, 1))
        write_image(labels / "case_02.nii.gz", case_arrays(2, [14, 16, 18], 1)[1], (1, 1, 2))
        content = (images / "case_03_0000.nii.gz").read_bytes()
        (images / "case_03_0000.nii.gz").write_bytes(content[: len(content) // 2])
        bad = case_arrays(4, [14, 16, 18], 1)[0][0]
        bad[0, 0, 0], bad[1, 1, 1] = np.nan, np.inf
        write_image(images / "case_04_0000.nii.gz", bad, (1, 1, 1))
        text = self.refused(capsys, tmp_path, dataset, "case_00", "case_01", "case_02", "case_03", "case_04", "7")
        assert "5 cases" in text

    def test_wrong_number_of_channels(self, capsys, tmp_path, dataset):
        shutil.copy(dataset / "imagesTr" / "case_02_0000.nii.gz", dataset / "imagesTr" / "case_02_0001.nii.gz")
        self.refused(capsys, tmp_path, dataset, "case_02")

    def test_every_label_map_empty(self, capsys, tmp_path, dataset):
        for path in (dataset / "labelsTr").iterdir():
            index = int(path.name[5:7])
            shape = [size + index % 2 for size in (14, 16, 18)]
            write_image(path, np.zeros(shape, np.uint8), (1, 1, 1))
        self.refused(capsys, tmp_path, dataset, "every label map is empty")

    def test_misspelt_override_names_the_nearest(self, capsys, tmp_path, dataset):
        assert plan(f"dataset={dataset}", "planner.gpu_memory=8", workspace=tmp_path / "w") == 2
        assert "planner.gpu_memory_gb" in capsys.readouterr().err

    def test_no_space_left(self, tmp_path, dataset):
        small = tmp_path / "small"
        small.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(small)], capture_output=True, check=False
        )
        if mounted.returncode != 0:
            pytest.skip("mounting a small file system is not permitted here")
        try:
            command = [
                sys.executable,
                str(ROOT / "plan.py"),
                f"dataset={dataset}",
                f"workspace={small}/w",
                "num_workers=0",
            ]
            done = subprocess.run(
                command, capture_output=True, text=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}, check=False
            )
            assert done.returncode == 2, done.stderr
            assert "space" in done.stdout + done.stderr
            assert "Traceback" not in done.stderr
            assert not [path for path in small.rglob("*") if "tmp" in path.name]
        finally:
            subprocess.run(["umount", str(small)], check=True)


def test_one_empty_label_map_is_noted_and_kept(dataset, tmp_path, capsys):
    write_image(dataset / "labelsTr" / "case_00.nii.gz", np.zeros((14, 16, 18), np.uint8), (1, 1, 1))
    assert plan(f"dataset={dataset}", workspace=tmp_path / "w") == 0
    assert "note: case_00" in capsys.readouterr().out
    stored = store_of(tmp_path / "w").open("case_00")
    assert not any(len(rows) for rows in stored.locations.values())


def test_a_class_that_occurs_in_no_case_is_noted_by_plan_and_by_verify(dataset, tmp_path, capsys):
    path = dataset / "dataset.json"
    content = json.loads(path.read_text())
    content["labels"] = {**content["labels"], "absent": 7, "ignore": 9}
    path.write_text(json.dumps(content))
    for _ in range(2):  # the second time from the record
        assert plan(f"dataset={dataset}", "stages=[verify,fingerprint,plan]", workspace=tmp_path / "w") == 0
        assert "note: dataset: absent (value 7) occurs in no case" in capsys.readouterr().out
    assert segplan(["verify", str(dataset)]) == 0
    assert capsys.readouterr().out.count("occurs in no case") == 1


def test_a_class_is_not_called_absent_while_a_case_cannot_be_read(dataset, capsys):
    content = json.loads((dataset / "dataset.json").read_text())
    content["labels"]["absent"] = 7
    (dataset / "dataset.json").write_text(json.dumps(content))
    (dataset / "labelsTr" / "case_05.nii.gz").write_bytes(b"")
    assert segplan(["verify", str(dataset)]) == 2
    assert "occurs in no case" not in capsys.readouterr().out


def test_truncated_gzip_content_is_named(dataset, tmp_path, capsys):
    path = dataset / "labelsTr" / "case_05.nii.gz"
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[: len(raw) // 2]))
    assert plan(f"dataset={dataset}", workspace=tmp_path / "w") == 2
    assert "case_05.nii.gz" in capsys.readouterr().out


def test_hippocampus_gets_the_published_plan(real_data, tmp_path):
    raw = real_data / "Dataset004_Hippocampus"
    assert main("plan", [f"dataset={raw}", f"workspace={tmp_path}", "stages=[verify,fingerprint,plan]"]) == 0
    full = OmegaConf.load(tmp_path / "plan" / raw.name / "3d_fullres.yaml")
    flat = OmegaConf.load(tmp_path / "plan" / raw.name / "2d.yaml")
    assert (list(full.data.patch_size), full.data.batch_size) == ([40, 56, 40], 9)
    assert (list(flat.data.patch_size), flat.data.batch_size) == ([56, 40], 366)
