"""Sweeps, several nodes, requeueing and lost nodes on a real SLURM; skipped where there is none.

Needs two nodes with a CPU each that see this file system, and the right to set a node's state.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from run_comparison import rows_of
from small_dataset import make_dataset

from segplan.jobs.cluster import Command, Resources, submit, wait
from segplan.training import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PLAN = "Dataset008_Cluster"
SMALL = (
    "data.batch_size=2",
    "data.num_workers=0",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "trainer.accelerator=cpu",
)
TINY = (
    "data.patch_size=[16,16,16]",
    "network.features=[4,8]",
    "network.strides=[[1,1,1],[2,2,2]]",
    "network.kernel_sizes=[[3,3,3],[3,3,3]]",
)
LONG = (f"plan={PLAN}/3d_fullres", *SMALL, *TINY, "trainer.max_epochs=3", "trainer.limit_train_batches=60")
ON_SLURM = ("hydra/launcher=slurm", "hydra.launcher.timeout_min=60", "hydra.launcher.cpus_per_task=1")


def has_slurm() -> bool:
    return (
        shutil.which("sinfo") is not None
        and subprocess.run(["sinfo"], capture_output=True, check=False).returncode == 0
    )


pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.skipif(not has_slurm(), reason="no SLURM here")]


def started(*words: str, cwd: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "segplan.cli", *words]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def succeeds(*words: str, cwd: Path) -> str:
    process = started(*words, cwd=cwd)
    printed, _ = process.communicate(timeout=3000)
    assert process.returncode == 0, printed
    return printed


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    raw = make_dataset(folder / PLAN, cases=6)
    succeeds("plan", f"dataset={raw}", "configurations=[2d,3d_fullres]", "num_workers=0", cwd=folder)
    return folder


def fold_of(folder: Path, run: str, configuration: str = "3d_fullres", fold: int = 0) -> Path:
    return folder / "workspace" / "runs" / PLAN / configuration / run / f"fold_{fold}"


def test_a_sweep_of_two_configurations_and_two_folds_ends_with_its_scores(planned):
    plans = f"plan={PLAN}/2d,{PLAN}/3d_fullres"
    printed = succeeds("train", "-m", plans, "fold=0,1", "run=sweep", *SMALL, *ON_SLURM, cwd=planned)
    assert printed.count("\ndone: ") == 4
    assert f": {PLAN}/2d/sweep/fold_1 → " in printed
    for configuration in ("2d", "3d_fullres"):
        for fold in (0, 1):
            summary = fold_of(planned, "sweep", configuration, fold) / "validation" / "summary.json"
            assert json.loads(summary.read_text())["metric_per_case"]


def test_a_training_on_two_nodes_shares_its_batches(planned):
    words = [
        f"plan={PLAN}/3d_fullres",
        "fold=0",
        "run=nodes",
        *SMALL,
        *TINY,
        "data.batch_size=3",
        "trainer.precision=32",
    ]
    slurm = ["trainer=slurm", "trainer.num_nodes=2", "trainer.devices=1"]
    printed = succeeds("train", *words, *slurm, *ON_SLURM, cwd=planned)
    assert printed.count("\ndone: ") == 1
    assert "hydra.launcher" not in (fold_of(planned, "nodes") / "config.yaml").read_text()
    succeeds("train", *[word for word in words if word != "run=nodes"], "run=alone", cwd=planned)
    two, one = (weights(fold_of(planned, run)) for run in ("nodes", "alone"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=1e-5)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_checkpoint(folder / "checkpoints" / "final.ckpt")["state_dict"]
    return state


def test_a_prediction_in_several_tasks_shares_its_cases(planned):
    succeeds("train", f"plan={PLAN}/3d_fullres", "fold=0", "run=predicting", *SMALL, *TINY, cwd=planned)
    images, output = planned / PLAN / "imagesTr", planned / "predicted"
    words = [f"plan={PLAN}/3d_fullres", "run=predicting", f"input={images}", f"output={output}"]
    command = ["srun", "--nodes=2", "--ntasks=2", sys.executable, "-m", "segplan.cli", "predict", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "trainer.accelerator=cpu", "inference.mirror=false"],
        cwd=planned,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = [json.loads((output / f"predict_{shard}of2.json").read_text())["cases"] for shard in (0, 1)]
    assert [len(cases) for cases in made] == [3, 3]
    assert {name for cases in made for name in cases} == {
        path.name.removesuffix("_0000.nii.gz") for path in images.iterdir()
    }


@pytest.fixture(scope="module")
def whole(planned):
    succeeds("train", *LONG, "run=whole", cwd=planned)
    return fold_of(planned, "whole")


def interrupted(planned: Path, run: str, interrupt: Callable[[str], None]) -> str:
    """Run LONG on the cluster, `interrupt` its job after some steps; what the command printed in the end."""
    process = started("train", *LONG, f"run={run}", "checkpoint.minutes=0.005", *ON_SLURM, cwd=planned)
    assert process.stdout is not None
    line = next(text for text in process.stdout if text.startswith("submitted "))
    job = line.split()[1].rstrip(":")
    last = fold_of(planned, run) / "checkpoints" / "last.ckpt"
    while process.poll() is None and (not last.exists() or load_checkpoint(last)["global_step"] < 20):
        time.sleep(0.05)
    interrupt(job)
    printed, _ = process.communicate(timeout=3000)
    assert process.returncode == 0, (
        printed + (planned / "workspace" / "logs").joinpath(PLAN, "3d_fullres", run, "fold_0.log").read_text()
    )
    return (planned / "workspace" / "logs" / PLAN / "3d_fullres" / run / "fold_0.log").read_text()


def assert_same(whole: Path, parted: Path) -> None:
    left, right = weights(whole), weights(parted)
    assert all(torch.equal(left[key], right[key]) for key in left)
    assert rows_of(parted) == rows_of(whole)


def test_a_job_told_that_its_limit_is_near_saves_is_requeued_and_ends_with_the_same_weights(planned, whole):
    def near_limit(job: str) -> None:  # what --signal=USR1@… sends
        subprocess.run(["scancel", "--signal=USR1", job], check=True)

    log = interrupted(planned, "limit", near_limit)
    assert "stopped by SIGUSR1" in log
    assert_same(whole, fold_of(planned, "limit"))


def test_a_job_whose_node_is_lost_goes_on_on_another(planned, whole):
    def lose_node(job: str) -> None:
        done = subprocess.run(["squeue", "-h", "-j", job, "-o", "%N"], capture_output=True, text=True, check=True)
        node = done.stdout.strip()
        update = ["scontrol", "update", f"nodename={node}"]
        subprocess.run([*update, "state=down", "reason=test"], check=True)
        time.sleep(5)
        subprocess.run([*update, "state=resume"], check=False)  # SLURM may have taken it back by itself

    interrupted(planned, "lost", lose_node)
    assert_same(whole, fold_of(planned, "lost"))


def test_a_job_that_depends_on_one_that_failed_is_cancelled(tmp_path):
    resources = Resources(timeout_min=5)
    first, second, third = (Command(["bash", "-c", f"exit {code}"], tmp_path / f"{code}.log") for code in (0, 3, 1))
    [one] = submit([first], "first", resources)
    [two] = submit([second], "second", resources, after=[one])
    [three] = submit([third], "third", resources, after=[two])
    assert wait({one: first, two: second, three: third}, poll_s=1.0) == {one: 0, two: 3, three: 1}
    assert not third.log.exists()
    shards = [Command(["true"], tmp_path / f"array {number}.log") for number in range(2)]
    jobs = submit(shards, "array", resources)
    assert [job.partition("_")[2] for job in jobs] == ["0", "1"]
    assert set(wait(dict(zip(jobs, shards, strict=True)), poll_s=1.0).values()) == {0}


def submitted(printed: str) -> list[str]:
    """The names of the steps that a chain's command handed to SLURM."""
    return [line.split(": ")[1].split(" → ")[0] for line in printed.splitlines() if line.startswith("submitted ")]


def test_from_a_cascade_to_its_report_every_step_is_a_job_that_waits_for_those_it_needs(tmp_path):
    """The command that submits them is killed; the same one waits for its jobs, and finds all done the next time."""
    name = "Dataset041_Chain"
    raw = make_dataset(tmp_path / name, cases=4, shape=(30, 32, 34))
    budget = ("budget=1x2", "network.features=[4,8,8]", *SMALL[1:2], *SMALL[4:], "inference.mirror=false")
    planning = ("planner.gpu_memory_gb=0.012", "split.k=2", "num_workers=0")
    words = ("auto", str(raw), "configurations=[3d_cascade_fullres]", *budget, *planning, *ON_SLURM)
    process = started(*words, cwd=tmp_path)
    assert process.stdout is not None
    printed = ""
    while "report → " not in printed and (line := process.stdout.readline()):
        printed += line
    process.kill()
    process.wait()
    trainings = [
        f"train {name}/{configuration} fold {fold}"
        for configuration in ("3d_lowres", "3d_cascade_fullres")
        for fold in (0, 1)
    ]
    assert submitted(printed) == ["plan", *trainings, "select", "export model", "report"]
    again = succeeds(*words, cwd=tmp_path)
    assert set(submitted(again)) <= {"plan", "report"}
    assert (tmp_path / "workspace" / "models" / f"{name}.zip").is_file()
    assert (tmp_path / "workspace" / "models" / f"{name}_report.html").is_file()
    for fold in (0, 1):
        summary = (
            tmp_path / "workspace" / "runs" / name / f"3d_cascade_fullres/default/fold_{fold}/validation/summary.json"
        )
        assert json.loads(summary.read_text())["metric_per_case"]


def test_a_fold_that_fails_cancels_what_needs_it_and_the_same_command_submits_that_again(planned):
    """What stands in the way of one fold is taken away before the second call."""
    words = ("auto", PLAN, "configurations=[3d_fullres]", "folds=[0,1]", "run=chain", *SMALL, *TINY, *ON_SLURM)
    broken = planned / "workspace" / "runs" / PLAN / "3d_fullres" / "chain" / "fold_1" / "checkpoints"
    broken.parent.mkdir(parents=True)
    broken.write_text("no folder")
    process = started(*words, cwd=planned)
    output, _ = process.communicate(timeout=3000)
    assert process.returncode == 1, output
    assert f"select of run chain: not begun: train {PLAN}/3d_fullres fold 1 of run chain failed" in output
    broken.unlink()
    again = succeeds(*words, cwd=planned)
    names = [f"train {PLAN}/3d_fullres fold 1", "select", "export model", "report"]
    assert submitted(again) == [f"{name} of run chain" for name in names]
