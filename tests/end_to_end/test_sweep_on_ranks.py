"""A sweep whose trainings have two processes each, and whose plan is edited while it runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from small_dataset import make_dataset

from segplan.errors import ConfigError
from segplan.jobs.prepare import prepare_command
from segplan.jobs.train import main as train_main

ROOT = Path(__file__).resolve().parents[2]
PLAN = "Dataset007_Sweep/3d_fullres"
SETTINGS = (
    f"plan={PLAN}",
    "data.batch_size=2",
    "data.num_workers=0",
    "data.patch_size=[16,16,16]",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "trainer.accelerator=cpu",
    "network.features=[4,8]",
    "network.strides=[[1,1,1],[2,2,2]]",
    "network.kernel_sizes=[[3,3,3],[3,3,3]]",
)


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-m", "segplan.cli", *words]
    return subprocess.run(run, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=1200)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    raw = make_dataset(folder / "Dataset007_Sweep", cases=5)
    done = command("plan", f"dataset={raw}", "configurations=[3d_fullres]", "num_workers=0", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_ranks_of_a_sweeps_trainings_train_and_start_no_sweep_of_their_own(planned):
    done = command("train", "-m", *SETTINGS, "fold=0,1", "trainer.devices=2", cwd=planned)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall("^done: ", done.stdout, flags=re.MULTILINE)) == 2
    for fold in (0, 1):
        folder = planned / "workspace" / "runs" / PLAN / "default" / f"fold_{fold}"
        assert (folder / "validation" / "summary.json").is_file()
        assert len((folder / "metrics.csv").read_text().splitlines()) == 2
    # The first rank of each training says its fold once, validation included; a second sweep would say it again.
    assert len(re.findall(r"^fold \d · ", done.stdout, flags=re.MULTILINE)) == 2


def composed(folder: Path, *words: str):
    from segplan.entry.compose import compose_job

    return compose_job("train", [*SETTINGS, *words], folder / "workspace")


def test_a_plan_edited_after_submission_does_not_change_the_job(planned):
    config = composed(planned, "run=waits")
    *_, path, digest = prepare_command(config)
    plan = planned / "workspace" / "plan" / f"{PLAN}.yaml"
    before = plan.read_text()
    try:
        plan.write_text(re.sub(r"(?m)^(\s*lr:).*$", r"\1 0.5", before) + "\nseed: 77\n")
        assert composed(planned, "run=other").seed == 77
        read = OmegaConf.load(path)
        assert read.seed == config.seed
        assert read.optimizer == config.optimizer
    finally:
        plan.write_text(before)
    assert digest not in prepare_command(composed(planned, "run=waits", "seed=3"))


def test_a_rank_whose_file_was_written_again_stops_and_says_so(planned, capsys):
    *_, path, digest = prepare_command(composed(planned, "run=twice"))
    prepare_command(composed(planned, "run=twice", "trainer.max_epochs=9"))
    assert train_main([path, digest]) == 2
    error = capsys.readouterr().err
    assert "config.yaml: is not the configuration that this job was started with" in error
    assert "Traceback" not in error


def test_jobs_of_a_sweep_that_share_a_folder_are_refused_and_the_first_runs(planned):
    from segplan.entry.sweep_job import SweepJobs

    sweep = SweepJobs("train", planned / "workspace")
    first = sweep.prepare(0, [*SETTINGS, "run=lr", "optimizer.lr=0.1"])
    with pytest.raises(ConfigError, match="also that of another job of the sweep"):
        sweep.prepare(1, [*SETTINGS, "run=lr", "optimizer.lr=0.2"])
    assert OmegaConf.load(first.command.words[3]).optimizer.lr == 0.1
    assert first.name == "Dataset007_Sweep/3d_fullres/lr/fold_0"
    assert sweep.prepare(2, [*SETTINGS, "run=other", "trainer=slurm", "trainer.num_nodes=3"]).nodes == 3


def test_a_job_with_both_a_force_and_a_hash_may_be_started_again(planned):
    *_, path, digest = prepare_command(composed(planned, "run=forced", "force=true"))
    config = OmegaConf.load(path)
    config.force = False  # as the run does itself once it has begun
    OmegaConf.save(config, path)
    from segplan.jobs.prepare import config_hash

    assert config_hash(OmegaConf.load(path)) == digest
