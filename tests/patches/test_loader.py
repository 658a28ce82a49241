"""The loader's stream, its processes and their memory."""

import gc
import mmap
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from loader_runs import BATCH_SIZE, BATCHES, DEFAULT, Run, make_dataset
from small_store import write_store

from segplan.augmentation import build_pipeline, plain_pipeline
from segplan.errors import StoreError, WorkerError
from segplan.patches import Oversampling, PatchDataset, worker_pool
from segplan.patches.slots import BatchSlots, FreeSlots, SlotLayout, lent
from segplan.preprocessing import control_groups


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"), [(24, 26, 28), (10, 12, 9), (30, 20, 22)])


@pytest.fixture
def dataset(store):
    return make_dataset(store)


@pytest.fixture
def run():
    """Makes runs whose workers are ended."""
    started = []

    def start(*arguments, **changes):
        started.append(Run(*arguments, **changes))
        return started[-1]

    yield start
    for one in started:
        one.loader.close()


def assert_same(found, expected):
    assert [batch["case"] for batch in found] == [batch["case"] for batch in expected]
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["labels"], b["labels"])


@pytest.fixture(scope="module")
def expected(store):
    samples = make_dataset(store)
    made = [[samples[index] for index in range(b * BATCH_SIZE, (b + 1) * BATCH_SIZE)] for b in range(2 * BATCHES + 4)]
    return [
        {
            "image": torch.stack([sample["image"] for sample in batch]),
            "labels": torch.stack([sample["labels"] for sample in batch]),
            "case": [sample["case"] for sample in batch],
        }
        for batch in made
    ]


@pytest.mark.parametrize("num_workers", [0, 1, 2, 5])
def test_a_stream_that_is_interrupted_at_random_points_goes_on_bit_by_bit(dataset, run, expected, num_workers):
    stops = sorted(random.Random(num_workers).sample(range(1, len(expected)), 3))
    found = []
    for start, stop in zip([0, *stops], [*stops, len(expected)], strict=True):
        found += run(dataset, num_workers, start).take(stop - start)
    assert_same(found, expected)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_one_loader_can_be_taken_to_any_batch_and_back(dataset, run, expected, num_workers):
    one = run(dataset, num_workers)
    for start in (5, 2, 6, 0):
        one.due = start
        assert_same(one.take(3), expected[start : start + 3])


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_may_be_started_by_any_method(dataset, run, expected, method):
    assert len(pickle.dumps(dataset)) < 5000
    assert_same(run(dataset, 1, start_method=method).take(3), expected[:3])


def test_a_rank_gets_its_places_of_each_batch(dataset, run, expected):
    (first,) = run(dataset, 2, share=range(1, 3)).take(1)
    assert torch.equal(first["image"], expected[0]["image"][1:])
    assert first["case"] == expected[0]["case"][1:]


def test_batches_that_are_kept_stay_as_they_were(dataset, run, expected):
    kept = [batch for batch, _ in zip(run(dataset, 1).loader, range(BATCHES), strict=True)]
    assert_same(kept, expected[:BATCHES])


def test_a_slot_comes_back_when_the_last_view_of_it_is_gone():
    slots = BatchSlots(SlotLayout({"image": ((2, 3), "float32"), "labels": ((3,), "int16")}, 2), 2)
    views, free = slots.views(1), FreeSlots(2)
    views["image"][:] = 7
    assert (free.take(), free.take()) == (0, 1)
    batch = lent(views, lambda: free.give_back(1))
    part = batch["image"][1].view(-1)
    labels = batch.pop("labels")
    del batch, labels
    assert len(free) == 0
    assert part.tolist() == [7] * 6
    del part
    assert free.take() == 1


def test_a_damaged_case_is_reported_as_in_the_training_process(tmp_path, run):
    damaged = write_store(tmp_path, [(12, 12, 12)])
    samples = make_dataset(damaged, plain_pipeline((8, 8, 8), 2))
    (tmp_path / "case0.image.npy").write_bytes(b"")
    with pytest.raises(StoreError, match="case0"):
        run(samples, 1).take(1)


class Broken(PatchDataset):
    def make(self, index, out=None):
        raise ZeroDivisionError("in the middle of a sample")


def test_a_defect_in_a_worker_is_raised_with_its_traceback(store, run):
    dataset = Broken(store, ["case0"], pipeline=plain_pipeline((8, 8, 8), 2), oversampling=Oversampling(1), seed=0)
    with pytest.raises(RuntimeError, match=r"(?s)at sample 0.*test_loader\.py.*ZeroDivisionError: in the middle"):
        run(dataset, 1).take(1)


class Slow(PatchDataset):
    """Stays at sample 3 for ever."""

    def make(self, index, out=None):
        if index == 3:
            time.sleep(3600)
        return super().make(index, out)


def slow(store):
    return Slow(store, store.identifiers(), pipeline=plain_pipeline((8, 8, 8), 2), oversampling=Oversampling(1), seed=0)


def wait_until(condition):
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to that")


def test_a_killed_worker_is_named_within_seconds_with_its_case_signal_memory_and_remedy(store, run):
    dataset = slow(store)
    one = run(dataset, 4)
    one.take(1)
    pids = one.loader.worker_pids
    wait_until(lambda: one.loader._pool._board.read(3).index == 3)  # samples go to the workers in turn; it stays there
    start = time.monotonic()
    os.kill(pids[3], signal.SIGKILL)
    with pytest.raises(WorkerError) as caught:
        one.take(3)
    assert time.monotonic() - start < 10
    text = str(caught.value)
    assert text.startswith(f"loader worker 3 (pid {pids[3]}) was killed (SIGKILL) while reading {dataset.case_of(3)} (")
    assert "free memory" in text
    assert "/dev/shm" in text
    assert text.endswith("Use data.num_workers=2 (now 4).")
    one.loader.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_the_death_of_a_worker_that_waited_for_work_comes_to_light_too(store, run):
    one = run(make_dataset(store, plain_pipeline((8, 8, 8), 2)), 1)
    one.take(1)
    pool = one.loader._pool
    last = pool._indices_of(pool._due - 1)[-1]
    wait_until(lambda: (note := pool._board.read(0)).index == last and note.is_done)
    os.kill(one.loader.worker_pids[0], signal.SIGXCPU)
    with pytest.raises(WorkerError, match=r"was ended \(SIGXCPU\) after reading case.*data\.num_workers=0 shows"):
        one.take(20)


def test_a_kill_by_the_system_for_memory_is_called_that(store, run, monkeypatch):
    one = run(make_dataset(store, plain_pipeline((8, 8, 8), 2)), 1)
    one.take(1)
    monkeypatch.setattr(worker_pool, "kills_for_memory", lambda: 10**9)
    os.kill(one.loader.worker_pids[0], signal.SIGKILL)
    with pytest.raises(WorkerError, match="was killed by the system for memory"):
        one.take(20)


def test_workers_end_with_their_loader_and_do_not_listen_to_signals_before(dataset, run):
    one = run(dataset, 2)
    one.take(1)
    pids = one.loader.worker_pids
    for pid in pids:
        for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
            os.kill(pid, getattr(signal, name))
    one.take(4)
    one.loader.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)


ORPHAN = """
import os, sys, time
sys.path[:0] = {paths!r}
from loader_runs import Run, make_dataset
from segplan.preprocessing import CaseStore
from pathlib import Path
if __name__ == "__main__":
    one = Run(make_dataset(CaseStore(Path({folder!r}))), 2, start_method={method!r})
    one.take(1)
    print(*one.loader.worker_pids, flush=True)
    {end}
"""


def start_program(tmp_path, store, method, end):
    program = tmp_path / "program.py"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    program.write_text(ORPHAN.format(paths=paths, folder=str(store.folder), method=method, end=end))
    return subprocess.Popen(
        [sys.executable, program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_workers_end_when_the_training_process_is_killed(tmp_path, store):
    process = start_program(tmp_path, store, "fork", "time.sleep(60)")
    pids = [int(pid) for pid in process.stdout.readline().split()]
    process.kill()
    process.wait()
    assert len(pids) == 2
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=15)
    assert not alive


def test_a_program_that_closes_nothing_ends_all_the_same(tmp_path, store):
    process = start_program(tmp_path, store, "fork", "pass")
    assert process.wait(30) == 0
    assert not any(psutil.pid_exists(int(pid)) for pid in process.stdout.read().split())


def private_memory(pids):
    return sum(psutil.Process(pid).memory_full_info().uss for pid in pids)


def open_files(pid):
    return psutil.Process(pid).num_fds()


def test_workers_memory_stays_flat(tmp_path, run):
    store = write_store(tmp_path, [(40, 40, 40)] * 6)
    samples = make_dataset(store, build_pipeline(DEFAULT, (32, 32, 32), (False, True)))
    one = run(samples, 2, batches_per_epoch=1000)
    one.take(60)
    pids = one.loader.worker_pids
    before, files = private_memory(pids), [open_files(pid) for pid in pids]
    for _ in range(34):
        one.take(10)
    assert private_memory(pids) - before < 12 * 2**20  # 1000 samples of 0.3 MB each went by
    assert [open_files(pid) for pid in pids] <= files


def test_a_closed_loader_leaves_no_files_open(dataset, run):
    run(dataset, 1).take(1)  # what opens once and stays open
    before = open_files(os.getpid())
    for _ in range(3):
        one = run(dataset, 2)
        one.take(1)
        one.loader.close()
    gc.collect()
    assert open_files(os.getpid()) <= before


SMALL_SHM = """
import shutil, sys
sys.path[:0] = {paths!r}
import numpy as np
from pathlib import Path
from small_store import LABELS
from segplan.augmentation import plain_pipeline
from segplan.patches import Oversampling, PatchDataset, PatchLoader
from segplan.preprocessing import CaseProperties, CaseStore, PreprocessedCase, foreground_locations
if __name__ == "__main__":
    assert shutil.disk_usage("/dev/shm").total == 64 * 2**20
    store = CaseStore(Path({folder!r}))
    labels = np.zeros((128,) * 3, np.int16)
    labels[60:70, 60:70, 60:70] = 1
    box = ((0, 128),) * 3
    properties = CaseProperties((1.0,) * 3, (128,) * 3, box, (128,) * 3, (128,) * 3, (0, 1, 2), {{}})
    case = PreprocessedCase(np.ones((4, 128, 128, 128), np.float32), labels, properties)
    store.write("case0", case, foreground_locations(labels, LABELS), None, "hash")
    pipeline = plain_pipeline((128, 128, 128), 4)
    dataset = PatchDataset(store, ["case0"], pipeline=pipeline, oversampling=Oversampling(2, 0), seed=0)
    loader = PatchLoader(
        dataset, batch_size=2, share=range(2), batches_per_epoch=6, next_batch=lambda: 0, num_workers=4,
        start_method={method!r},
    )
    batches = [batch["image"].sum().item() for batch in loader]
    assert batches == [2 * 4 * 128.0**3] * 6, batches
    loader.close()
    print("done")
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_dev_shm_of_64_mb_suffices_for_large_batches_of_several_workers(tmp_path, method):
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("mounting another /dev/shm is not permitted here")
    program = tmp_path / "program.py"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    program.write_text(SMALL_SHM.format(paths=paths, folder=str(tmp_path / "store"), method=method))
    command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$0" "$1"', sys.executable, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "done\n", done.stderr


def test_control_groups_limit_what_memory_there_is(tmp_path):
    group = tmp_path / "cgroup" / "job" / "step"
    group.mkdir(parents=True)
    (tmp_path / "membership").write_text("0::/job/step\n")
    (group.parent / "memory.max").write_text("1000\n")
    (group.parent / "memory.current").write_text("900\n")
    (group.parent / "memory.stat").write_text("anon 500\ninactive_file 300\n")
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("900\n")
    (group / "memory.events").write_text("oom 4\noom_kill 3\n")
    where = (tmp_path / "cgroup", tmp_path / "membership")
    assert control_groups.available_memory(*where) == 400
    assert control_groups.total_memory(*where) == 1000
    assert control_groups.kills_for_memory(*where) == 3
    nowhere = (tmp_path / "none", tmp_path / "nothing")
    assert control_groups.available_memory(*nowhere) > 1000
    assert control_groups.kills_for_memory(*nowhere) == 0


def test_old_control_groups_are_read_too(tmp_path):
    group = tmp_path / "cgroup" / "memory" / "job"
    group.mkdir(parents=True)
    (tmp_path / "membership").write_text("5:cpu,cpuacct:/other\n4:memory:/job\n")
    (group / "memory.limit_in_bytes").write_text("1000\n")
    (group / "memory.usage_in_bytes").write_text("900\n")
    (group / "memory.oom_control").write_text("oom_kill_disable 0\noom_kill 2\n")
    where = (tmp_path / "cgroup", tmp_path / "membership")
    assert control_groups.available_memory(*where) == 100
    assert control_groups.kills_for_memory(*where) == 2


class Counted(np.ndarray):
    """An array that counts the voxels that are cut out of it."""

    def __new__(cls, array):
        made = np.asarray(array).view(cls)
        made.read = []
        return made

    def __array_finalize__(self, parent):
        self.read = getattr(parent, "read", None)

    def __getitem__(self, key):
        part = super().__getitem__(key)
        if isinstance(key, tuple) and sum(isinstance(item, slice) for item in key) > 1:
            self.read.append(part.size)
        return part


class OneCase:
    def __init__(self, case):
        self.case = case

    def open(self, identifier):
        return self.case


def test_a_sample_without_warp_reads_its_patch_and_nothing_else():
    image, labels = Counted(np.zeros((2, 40, 40, 40), np.float32)), Counted(np.zeros((40, 40, 40), np.int8))
    case = SimpleNamespace(image=image, labels=labels, locations={"1": np.array([[20, 20, 20]])})
    pipeline = build_pipeline(DEFAULT, (16, 16, 16), (False, False))
    dataset = PatchDataset(OneCase(case), ["a"], pipeline=pipeline, oversampling=Oversampling(2, 1.0), seed=0)
    plain = 0
    for index in range(30):
        image.read.clear()
        labels.read.clear()
        dataset[index]
        if image.read:
            assert (image.read, labels.read[-1:]) == ([2 * 16**3], [16**3])
            plain += 1
    assert plain > 10  # rotation and scaling leave 64 % of the samples alone


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux maps small pages one by one when asked to")
def test_a_warped_sample_touches_only_the_pages_under_it():
    shape, pages = (2, 64, 128, 256), 4096
    memory = mmap.mmap(-1, pages * mmap.PAGESIZE)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    image = np.frombuffer(memory, np.float32).reshape(shape)
    image.flags.writeable = False
    case = SimpleNamespace(image=image, labels=np.zeros(shape[1:], np.int8), locations={"1": np.array([[32, 64, 128]])})
    pipeline = build_pipeline({"spatial": {**DEFAULT["spatial"], "rotation_probability": 1}}, (8, 16, 16), (False,) * 2)
    dataset = PatchDataset(OneCase(case), ["a"], pipeline=pipeline, oversampling=Oversampling(2, 1.0), seed=0)
    warm_up = SimpleNamespace(image=np.zeros(shape, np.float32), labels=case.labels, locations=case.locations)
    PatchDataset(OneCase(warm_up), ["a"], pipeline=pipeline, oversampling=Oversampling(2, 1.0), seed=0)[0]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    dataset[0]
    touched = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert 100 < touched < pages / 4
