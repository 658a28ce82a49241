import json
import pickle

import numpy as np
import pytest

from segplan.errors import StoreError
from segplan.preprocessing import CaseProperties, CaseStore, PreprocessedCase

PROPERTIES = CaseProperties(
    spacing=(1.100000023841858, 1.0, 2.5),
    shape_before_cropping=(20, 41, 47),
    box=((0, 19), (3, 39), (4, 47)),
    shape_after_cropping=(19, 36, 43),
    shape=(5, 6, 7),
    transpose=(2, 0, 1),
    geometry={"dimension": 3, "spacing": [0.1, 0.2, 1 / 3]},
)
ENDINGS = (".image.npy", ".labels.npy", ".locations.npy", ".reference.npz", ".json")


def make_case(top=3, seed=0):
    random = np.random.default_rng(seed)
    image = random.normal(size=(2, 5, 6, 7)).astype(np.float32)
    labels = random.integers(-1, top + 1, (5, 6, 7)).astype(np.int16)
    labels[0, 0, :2] = -1, top
    return PreprocessedCase(image, labels, PROPERTIES)


LOCATIONS = {
    "1": np.arange(12, dtype=np.int32).reshape(4, 3),
    "2": np.empty((0, 3), dtype=np.int32),
    "(1, 2)": np.arange(6, dtype=np.int32).reshape(2, 3),
}
REFERENCE = np.random.default_rng(1).integers(0, 4, (8, 9, 10)).astype(np.uint8)


@pytest.fixture
def store(tmp_path):
    store = CaseStore(tmp_path / "store, größe")
    store.write("case_01", make_case(), LOCATIONS, REFERENCE, "hash")
    return store


def files(store):
    return {path.name: path.read_bytes() for path in store.folder.iterdir()}


@pytest.mark.parametrize(
    "identifier", ["case_01", "a b, c=(d)", "Größe", "患者.1", "x.json", "x.image.npy", "-", "..x"]
)
@pytest.mark.parametrize(("top", "dtype"), [(127, np.int8), (128, np.int16)])
def test_what_is_written_is_read(tmp_path, identifier, top, dtype):
    store, case = CaseStore(tmp_path), make_case(top)
    store.write(identifier, case, LOCATIONS, REFERENCE, "hash")
    stored = store.open(identifier)
    assert store.identifiers() == [identifier]
    assert store.verify(identifier) == []
    assert stored.image.dtype == np.float32 and np.array_equal(stored.image, case.image)
    assert stored.labels.dtype == dtype and np.array_equal(stored.labels, case.labels)
    assert stored.reference().dtype == np.uint8 and np.array_equal(stored.reference(), REFERENCE)
    assert stored.properties == PROPERTIES
    assert {key: rows.tolist() for key, rows in stored.locations.items()} == {
        key: rows.tolist() for key, rows in LOCATIONS.items()
    }


def test_arrays_are_maps_that_cannot_be_written_to(store):
    image = store.open("case_01").image
    assert not image.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        image[0] = 0


def test_files_are_plain_npy_and_no_pickle(store):
    for ending in (".image.npy", ".labels.npy", ".locations.npy"):
        np.load(store.folder / f"case_01{ending}", allow_pickle=False)
    assert "reference" in np.load(store.folder / "case_01.reference.npz", allow_pickle=False)


def test_a_stored_case_goes_through_pickle(store):
    stored = pickle.loads(pickle.dumps(store.open("case_01")))
    assert np.array_equal(stored.image, make_case().image)


def test_a_case_without_label_map(tmp_path):
    store = CaseStore(tmp_path)
    store.write("new", PreprocessedCase(make_case().image, None, PROPERTIES), {}, None, "hash")
    assert store.has("new", "hash") and store.verify("new") == [] and store.open("new").locations == {}
    with pytest.raises(StoreError, match="no labels"):
        _ = store.open("new").labels
    with pytest.raises(StoreError, match="no reference"):
        store.open("new").reference()


def test_has_asks_for_the_source_and_whole_files(store):
    assert store.has("case_01", "hash")
    assert not store.has("case_01", "other")
    assert not store.has("case_02", "hash")
    with (store.folder / "case_01.locations.npy").open("r+b") as file:
        file.truncate(130)
    assert not store.has("case_01", "hash")


def test_writing_again_gives_the_same_bytes(store):
    before = files(store)
    store.write("case_01", make_case(), LOCATIONS, REFERENCE, "hash")
    assert files(store) == before


def test_remove_leaves_nothing(store):
    store.remove("case_01")
    assert files(store) == {} and store.identifiers() == []
    store.remove("case_01")
    with pytest.raises(StoreError, match="not in the store"):
        store.open("case_01")


@pytest.mark.parametrize("stop_at", range(5))
def test_a_write_that_is_broken_off_leaves_no_case(store, monkeypatch, stop_at):
    """Also where it was to replace one: old description and new arrays must never meet."""
    from segplan.preprocessing import store as module

    real, calls = module.atomic_write, []

    def broken(path):
        calls.append(path)
        if len(calls) > stop_at:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(module, "atomic_write", broken)
    with pytest.raises(KeyboardInterrupt):
        store.write("case_01", make_case(seed=5), LOCATIONS, REFERENCE, "hash")
    assert store.identifiers() == [] and not store.has("case_01", "hash")
    assert [path.name for path in calls][-1].endswith(".json") == (stop_at == 4)


def test_leftovers_of_a_killed_writer_do_not_count_and_can_be_removed(store):
    for name in (".tmp-12345678-case_02.json", ".tmp-87654321-case_02.image.npy"):
        (store.folder / name).write_bytes(b"{}")
    assert store.identifiers() == ["case_01"]
    assert store.remove_leftovers() == 0  # they could be another writer's
    assert store.remove_leftovers(older_than_s=-1) == 2
    assert store.verify("case_01") == []


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("damage", ["truncated", "emptied", "missing"])
def test_a_damaged_file_is_named_with_the_remedy(store, ending, damage):
    path = store.folder / f"case_01{ending}"
    content = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(content[: len(content) // 2 * (damage == "truncated")])
    with pytest.raises(StoreError) as caught:
        stored = store.open("case_01")
        _ = stored.image, stored.labels, stored.locations, stored.reference()
    assert caught.value.where == str(path)
    assert caught.value.remedy is not None
    assert not store.has("case_01", "hash")
    assert len(store.verify("case_01")) == 1


@pytest.mark.parametrize("ending", ENDINGS[:4])
def test_verify_sees_a_single_changed_byte(store, ending):
    path = store.folder / f"case_01{ending}"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert store.has("case_01", "hash")
    (problem,) = store.verify("case_01")
    assert problem.case == "case_01" and path.name in problem.what and "--remove" in problem.remedy


@pytest.mark.parametrize(
    "change", [{"format": 1}, {"properties": {}}, {"files": None}, {"locations": {"1": 3}}, {"source_hash": None}]
)
def test_a_description_of_another_kind_is_refused_or_not_taken_for_valid(store, change):
    path = store.folder / "case_01.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert not store.has("case_01", "hash")
    if "source_hash" not in change:
        with pytest.raises(StoreError):
            _ = store.open("case_01").image


@pytest.mark.parametrize("identifier", ["", "a/b", ".", "a\0b"])
def test_names_that_are_paths_are_refused(tmp_path, identifier):
    with pytest.raises(StoreError, match="cannot be a path"):
        CaseStore(tmp_path).write(identifier, make_case(), {}, None, "hash")


def test_a_store_that_does_not_exist_is_empty(tmp_path):
    assert CaseStore(tmp_path / "none").identifiers() == []
