import faulthandler
import functools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest

from segplan.errors import DatasetError, SegplanError, VerificationError, WorkerError
from segplan.preprocessing import available_cpus, run_parallel


def work(number, bad=(), how="kill"):
    if number not in bad:
        return number * number, os.getpid()
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "crash":
        faulthandler.disable()  # pytest's, which would print a page
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "exit":
        os._exit(3)
    if how == "memory":
        raise MemoryError
    if how == "defect":
        raise ZeroDivisionError("by naught")
    if how == "odd error":
        raise VerificationError([], "here")
    if how == "unpicklable":
        return lambda: None
    raise DatasetError("is bad", f"case {number}", "Mend it")


def collect(results):
    return dict(results)


def name(number):
    return f"case_{number:02d}"


@pytest.mark.parametrize("num_workers", [0, 1, 2, 50])
def test_every_item_gets_its_result(num_workers):
    results = collect(run_parallel(work, range(12), num_workers))
    assert {item: outcome[0] for item, outcome in results.items()} == {item: item * item for item in range(12)}
    processes = {outcome[1] for outcome in results.values()}
    assert (os.getpid() in processes) == (num_workers < 2)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_no_items(num_workers):
    assert list(run_parallel(work, [], num_workers)) == []


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("kill", ("SIGKILL", "memory", "num_workers")),
        ("crash", ("SIGSEGV", "leave the case out")),
        ("exit", ("exit code 3",)),
    ],
)
def test_a_worker_that_dies_fails_its_item_alone(how, words):
    bad = (2, 3, 11)
    results = collect(run_parallel(functools.partial(work, bad=bad, how=how), range(12), 2, name))
    assert sorted(results) == list(range(12))
    for item, outcome in results.items():
        if item in bad:
            assert isinstance(outcome, WorkerError) and outcome.where == name(item)
            assert all(word in str(outcome) for word in words)
        else:
            assert outcome[0] == item * item


def test_all_workers_may_die():
    results = collect(run_parallel(functools.partial(work, bad=range(6)), range(6), 3, name))
    assert len(results) == 6 and all(isinstance(outcome, WorkerError) for outcome in results.values())


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("raise", DatasetError, ("case 4", "is bad", "Mend it")),
        ("memory", WorkerError, ("case_04", "memory")),
        ("defect", WorkerError, ("case_04", "ZeroDivisionError", "by naught", "Traceback")),
        ("odd error", SegplanError, ("0 problems",)),
    ],
)
def test_an_error_takes_the_place_of_the_result(num_workers, how, kind, words):
    results = collect(run_parallel(functools.partial(work, bad=(4,), how=how), range(8), num_workers, name))
    assert isinstance(results[4], kind)
    assert all(word in str(results[4]) for word in words)
    assert all(results[item][0] == item * item for item in range(8) if item != 4)


def test_a_result_that_cannot_be_pickled_is_an_error():
    results = collect(run_parallel(functools.partial(work, bad=(1,), how="unpicklable"), range(3), 2, name))
    assert isinstance(results[1], WorkerError) and "pickled" in str(results[1])


def test_it_works_beside_threads_which_a_fork_would_not_survive():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        results = collect(run_parallel(functools.partial(work, bad=(1,)), range(4), 2, name, preload=("json",)))
    finally:
        stop.set()
        thread.join()
    assert isinstance(results[1], WorkerError)
    assert {results[item][0] for item in (0, 2, 3)} == {0, 4, 9}


def test_results_come_as_they_are_done():
    results = run_parallel(time.sleep, [0.6, 0.0, 0.05], 2)
    assert [item for item, _ in results] == [0.0, 0.05, 0.6]


def test_closing_the_iterator_ends_the_workers():
    def children():
        return set(psutil.Process().children(recursive=True))

    collect(run_parallel(time.sleep, [0.0, 0.0], 2))  # a fork server, where one is used, stays
    before = children()
    results = run_parallel(time.sleep, [0.0, 60.0, 60.0], 2)
    next(results)
    assert len(children() - before) == 2
    results.close()
    give_up_at = time.monotonic() + 10
    while children() - before and time.monotonic() < give_up_at:
        time.sleep(0.05)
    assert not children() - before


SCRIPT = """
    import os, signal, sys, threading, time
    from segplan.preprocessing import run_parallel
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    results = run_parallel(time.sleep, [0.0, 60.0, 60.0, 60.0], 3)
    next(results)
    print("started", flush=True)
    for _ in results:
        pass
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_orphans_when_the_parent_is_interrupted_or_killed(sent):
    """Idle workers see the closed pipe at once. One at work on a case would first finish it after a SIGKILL."""
    script = textwrap.dedent(SCRIPT)
    if sent == signal.SIGKILL:
        script = script.replace("60.0", "1.0")
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout.readline() == "started\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) >= 2
    start = time.monotonic()
    os.killpg(parent.pid, sent) if sent == signal.SIGINT else parent.send_signal(sent)
    parent.communicate(timeout=10)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive and time.monotonic() - start < 5
    assert parent.returncode in (-sent, 1, 130)


@pytest.mark.parametrize(
    ("membership", "limits", "expected"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 1),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/a/b", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000"}, 1),
        ("0::/host/path/not/mounted", {"cpu.max": "100000 100000"}, 1),
        ("4:memory:/x\n1:cpu:/", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ("1:cpu,cpuacct:/", {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, None),
        ("1:cpuset:/", {"cpuset/cpu.cfs_quota_us": "100", "cpuset/cpu.cfs_period_us": "100"}, None),
        ("0::/", {"cpu.max": "garbage"}, None),
    ],
)
def test_available_cpus_follow_the_control_groups_quota(tmp_path, monkeypatch, membership, limits, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    (tmp_path / "membership").write_text(membership + "\n")
    for path, content in limits.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content + "\n")
    assert available_cpus(tmp_path, tmp_path / "membership") == (expected or 16)


def test_available_cpus_without_control_groups_follow_affinity(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    assert available_cpus(tmp_path, tmp_path / "none") == 3
