"""`segplan verify-store`: whatever happens to a file of the store is found, named, and mended by the named commands."""

import json

import numpy as np
import pytest

from segplan.cli import main
from segplan.errors import VerificationError
from segplan.jobs.verify_store import run, verify_store
from segplan.preprocessing import CaseProperties, CaseStore, PreprocessedCase

PROPERTIES = CaseProperties(
    spacing=(1.5, 1.0, 1.0),
    shape_before_cropping=(5, 6, 7),
    box=((0, 5), (0, 6), (0, 7)),
    shape_after_cropping=(5, 6, 7),
    shape=(5, 6, 7),
    transpose=(0, 1, 2),
    geometry={"dimension": 3, "spacing": [0.1, 0.2, 1 / 3]},
)
ENDINGS = (".image.npy", ".labels.npy", ".locations.npy", ".reference.npz", ".json")
CASES = ("a", "b.1", "c")


def write_case(store, identifier, seed=0):
    random = np.random.default_rng(seed)
    image = random.normal(size=(1, 5, 6, 7)).astype(np.float32)
    labels = random.integers(0, 3, (5, 6, 7)).astype(np.int8)
    case = PreprocessedCase(image, labels, PROPERTIES)
    store.write(identifier, case, {"1": np.argwhere(labels == 1).astype(np.int32)}, labels.astype(np.uint8), "hash")


@pytest.fixture
def store(tmp_path):
    store = CaseStore(tmp_path / "preprocessed" / "Dataset001_A" / "1x1x1mm")
    for seed, identifier in enumerate(CASES):
        write_case(store, identifier, seed)
    return store


def damaged_cases(store):
    return sorted({problem.case for problem in verify_store(store, 1) if problem.fatal})


def test_a_sound_store_is_said_to_be_so(store, tmp_path, capsys):
    assert verify_store(store, 1) == []
    assert main(["verify-store", "Dataset001_A", f"workspace={tmp_path}", "num_workers=2"]) == 0
    assert "3 cases ok" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ENDINGS)
def test_any_flipped_bit_is_found(store, ending):
    path = store.folder / f"b.1{ending}"
    content = path.read_bytes()
    positions = {0, len(content) // 3, len(content) // 2, len(content) - 1}
    positions |= set(np.random.default_rng(0).integers(0, len(content), 12).tolist())
    for position in positions:
        for bit in (0, 6):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            assert damaged_cases(store) == ["b.1"], (position, bit)
    path.write_bytes(content)
    assert damaged_cases(store) == []


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "longer"])
def test_missing_cut_and_longer_files_are_found(store, ending, damage):
    path = store.folder / f"c{ending}"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "cut": content[:-1], "longer": content + b"\n"}[damage])
    assert damaged_cases(store) == ["c"]


def test_swapped_files_of_two_cases_are_found(store):
    first, second = (store.folder / f"{case}.image.npy" for case in ("a", "c"))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert damaged_cases(store) == ["a", "c"]


def test_an_edited_description_is_found_though_it_is_valid(store):
    path = store.folder / "a.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"source_hash": "other"}))
    assert damaged_cases(store) == ["a"]


def test_a_case_that_is_gone_altogether_is_found_by_the_fingerprint(store, tmp_path):
    record = tmp_path / "fingerprints" / "Dataset001_A" / "dataset_fingerprint.json"
    record.parent.mkdir(parents=True)
    channel = {"0": {"mean": 0, "median": 0, "std": 1, "min": 0, "max": 1, "percentile_00_5": 0, "percentile_99_5": 1}}
    content = {
        "foreground_intensity_properties_per_channel": channel,
        "median_relative_size_after_cropping": 1.0,
        "shapes_after_crop": [[5, 6, 7]] * 3,
        "spacings": [[1.5, 1, 1]] * 3,
        "segplan": {"version": "0", "source_hash": None, "case_ids": list(CASES), "case_labels": [[1]] * 3},
    }
    record.write_text(json.dumps(content))
    assert verify_store(store, 1) == []
    for ending in ENDINGS:
        (store.folder / f"c{ending}").unlink()
    assert damaged_cases(store) == ["c"]


def test_remains_of_a_killed_writer_are_notes(store):
    (store.folder / ".tmp-0.1.abc-a.json").write_bytes(b"{")
    (problem,) = verify_store(store, 1)
    assert not problem.fatal and ".tmp-0.1.abc-a.json" in problem.what
    assert run(str(store.folder), store.folder) == 0


def test_all_damage_is_reported_at_once_with_the_commands_that_mend_it(store, tmp_path, capsys):
    (store.folder / "a.image.npy").unlink()
    (store.folder / "c.json").write_text("{")
    assert main(["verify-store", "Dataset001_A", f"workspace={tmp_path}"]) == 2
    captured = capsys.readouterr()
    assert "a.image.npy" in captured.out and "problem: c:" in captured.out and "2 damaged" in captured.out
    assert "segplan verify-store Dataset001_A --remove" in captured.err
    assert "python plan.py dataset=Dataset001_A stages=[preprocess]" in captured.err


def test_remove_takes_out_the_damaged_cases_and_no_other(store, tmp_path, capsys):
    (store.folder / "a.labels.npy").write_bytes(b"")
    (store.folder / "c.json").unlink()
    assert main(["verify-store", "Dataset001_A", f"workspace={tmp_path}", "--remove"]) == 0
    assert "stages=[preprocess]" in capsys.readouterr().out
    assert sorted({path.name.split(".")[0] for path in store.folder.iterdir()}) == ["b"]
    assert verify_store(store, 1) == []


def test_a_folder_serves_as_well_as_a_name_and_nothing_is_refused(store, tmp_path):
    (store.folder / "a.labels.npy").write_bytes(b"")
    for target in (store.folder, store.folder.parent):
        with pytest.raises(VerificationError):
            run(str(target), tmp_path / "elsewhere")
    assert main(["verify-store", "Dataset002_B", f"workspace={tmp_path}"]) == 2


def test_a_raw_dataset_of_the_same_name_is_neither_taken_for_the_store_nor_harmed(store, tmp_path, capsys, monkeypatch):
    raw = tmp_path / "here" / "Dataset001_A"
    raw.mkdir(parents=True)
    (raw / "dataset.json").write_text("{}")
    monkeypatch.chdir(raw.parent)
    (store.folder / "a.labels.npy").write_bytes(b"")
    assert main(["verify-store", "Dataset001_A", f"workspace={tmp_path}", "--remove"]) == 0
    assert store.described() == ["b.1", "c"] and (raw / "dataset.json").exists()
    assert main(["verify-store", str(raw), f"workspace={tmp_path}", "--remove"]) == 2
    assert "no preprocessed cases" in capsys.readouterr().err and (raw / "dataset.json").exists()


def test_descriptions_whose_arrays_are_all_gone_are_found_by_the_folder_too(store, tmp_path):
    for path in store.folder.glob("*.np[yz]"):
        path.unlink()
    assert damaged_cases(store) == ["a", "b.1", "c"]
    with pytest.raises(VerificationError, match="3 cases"):
        run(str(store.folder), tmp_path / "elsewhere")


def test_a_store_near_the_root_of_the_file_system_can_be_checked(store, monkeypatch):
    monkeypatch.setattr(type(store.folder), "absolute", lambda self: type(self)("/top/store"))
    assert verify_store(store, 1) == []


def test_the_named_command_has_the_datasets_name_where_a_relative_path_was_given(store, monkeypatch, capsys):
    (store.folder / "a.labels.npy").write_bytes(b"")
    monkeypatch.chdir(store.folder)
    assert main(["verify-store", "."]) == 2
    assert "dataset=Dataset001_A stages=[preprocess]" in capsys.readouterr().err
