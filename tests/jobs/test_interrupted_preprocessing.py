"""Preprocessing that is killed, shared among machines, or loses a worker ends with the store of an undisturbed run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from small_dataset import make_dataset

from segplan.preprocessing import CaseStore

ROOT = Path(__file__).resolve().parents[2]
CASES = 16


def command(raw: Path, workspace: Path, *words: str) -> list[str]:
    return [sys.executable, str(ROOT / "plan.py"), f"dataset={raw}", f"workspace={workspace}", *words]


def start(words: list[str], **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": f"{ROOT}"}
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, **options
    )


def finish(process: subprocess.Popen) -> str:
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    return printed


def store_of(workspace: Path) -> CaseStore:
    [folder] = (workspace / "preprocessed").glob("*/*")
    return CaseStore(folder)


def content(workspace: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store_of(workspace).folder.iterdir()}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A raw dataset, and a workspace with its plan that has not been preprocessed."""
    folder = tmp_path_factory.mktemp("planned")
    raw = make_dataset(folder / "raw" / "Dataset001_Boxes", CASES, (30, 36, 40), (1.2, 1.0, 1.1))
    words = ["stages=[verify,fingerprint,plan]", "configurations=[3d_fullres]", "num_workers=0"]
    finish(start(command(raw, folder / "w", *words, "planner.target_spacing=[1,0.8,0.9]")))
    return raw, folder / "w"


@pytest.fixture(scope="module")
def undisturbed(planned, tmp_path_factory):
    """The store's files after a run that nothing disturbs."""
    raw, plan = planned
    workspace = tmp_path_factory.mktemp("undisturbed") / "w"
    shutil.copytree(plan, workspace)
    finish(start(preprocess(raw, workspace)))
    files = content(workspace)
    assert len(files) == 5 * CASES
    return files


def preprocess(raw: Path, workspace: Path, *words: str) -> list[str]:
    return command(raw, workspace, "stages=[preprocess]", "configurations=[3d_fullres]", "num_workers=2", *words)


def kill_at_random_moments(raw: Path, workspace: Path, kills: int) -> tuple[int, int]:
    """Kill that many runs with all their workers; returns how many were at work, and how often the store was not full.

    After each kill whatever counts as a case is whole.
    """
    moment = random.Random(0)
    hit = short = 0
    for number in range(kills):
        # Without force a run goes on where the last was killed; with it, there are old cases to replace.
        process = start(preprocess(raw, workspace, f"force={str(number % 2 == 0).lower()}"), start_new_session=True)
        for line in process.stdout:
            if "at once" in line or "done before" in line:
                break
        time.sleep(moment.uniform(0, 0.15))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        hit += process.returncode == -signal.SIGKILL
        stores = [CaseStore(folder) for folder in (workspace / "preprocessed").glob("*/*")]
        short += sum(len(store.identifiers()) for store in stores) < CASES
        assert [problem for store in stores for case in store.described() for problem in store.verify(case)] == []
    return hit, short


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_again_and_again_ends_as_one_that_was_not(planned, undisturbed, tmp_path, kills):
    raw, plan = planned
    workspace = tmp_path / "w"
    shutil.copytree(plan, workspace)
    hit, short = kill_at_random_moments(raw, workspace, kills)
    assert hit >= 1 and short >= 1
    finish(start(preprocess(raw, workspace)))
    assert content(workspace) == undisturbed


def test_three_shards_at_once_make_the_store_of_one_run_and_leave_each_others_cases_alone(
    planned, undisturbed, tmp_path
):
    raw, plan = planned
    workspace = tmp_path / "w"
    shutil.copytree(plan, workspace)
    shards = [start(preprocess(raw, workspace, f"shard={number}", "num_shards=3")) for number in range(3)]
    for shard in shards:
        assert "preprocess" in finish(shard)
    assert content(workspace) == undisturbed
    before = {path: path.stat().st_mtime_ns for path in store_of(workspace).folder.iterdir()}
    finish(start(preprocess(raw, workspace, "shard=1", "num_shards=4", "force=true")))
    changed = {path.name.split(".")[0] for path, time_ns in before.items() if path.stat().st_mtime_ns != time_ns}
    assert changed == {f"case_{number:02d}" for number in range(1, CASES, 4)}
    assert content(workspace) == undisturbed


KILLED_WORKER = """
    import os, signal, sys
    import segplan.jobs.fill_stores as fill_stores
    from segplan.entry import main

    real = fill_stores._store_case

    def store_case(case, **settings):
        if case.identifier == "case_03":
            os.kill(os.getpid(), signal.SIGKILL)
        real(case, **settings)

    fill_stores._store_case = store_case
    sys.exit(main("plan", sys.argv[1:]))
"""


def test_a_worker_that_is_killed_fails_its_case_by_name_and_no_other(planned, undisturbed, tmp_path):
    raw, plan = planned
    workspace = tmp_path / "w"
    shutil.copytree(plan, workspace)
    words = preprocess(raw, workspace)
    process = start([words[0], "-c", textwrap.dedent(KILLED_WORKER), *words[2:]])
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    [line] = [line for line in printed.splitlines() if line.startswith("problem")]
    assert "case_03" in line and "SIGKILL" in line and "memory" in line and "num_workers=1" in line
    assert f"{CASES - 1}/{CASES}" in printed
    assert content(workspace) == {name: data for name, data in undisturbed.items() if not name.startswith("case_03.")}
