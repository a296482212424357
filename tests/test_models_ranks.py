"""Several processes train a system as one process does that has the batches of all."""

import os
import subprocess
import sys
from functools import partial

import models_ranks_cases as cases
import pytest
import torch
from models_cases import read_rows
from models_support import IGNORED, ROOT, call, one_thread  # noqa: F401
from ranks import everywhere

from models import runs
from models.systems.wwae import code_moments

pytestmark = [*IGNORED, pytest.mark.filterwarnings("ignore:StackedWAE. the codes vary")]
PENALISED = sorted(cases.SYSTEMS.keys() - {"WAE gan"})  # an adversary's losses are means


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    """What every case returns in each of two processes."""
    jobs = [(name, partial(cases.fit, name)) for name in cases.SYSTEMS]
    jobs += [(f"parts of {name}", partial(cases.parts, name)) for name in PENALISED]
    jobs += [("moments", cases.moments)]
    jobs += [("dies", partial(cases.dies, tmp_path_factory.mktemp("dies")))]  # nothing comes after
    both = everywhere(2, tuple(jobs))
    assert [results.get("failed") for results in both] == [None, None]
    return both


def gap(states, others):
    """The largest difference of two sets of weights and running moments."""
    assert states.keys() == others.keys()
    return max(float((states[name] - others[name]).abs().max()) for name in others)


@pytest.mark.parametrize("name", cases.SYSTEMS)
def test_two_processes_end_with_the_weights_of_one(on_two, name):
    """Each item and prior point is in the batch of one of them; rounding alone is left."""
    one = cases.fit(name)
    assert max(gap(results[name], one) for results in on_two) < 1e-12


@pytest.mark.parametrize("name", PENALISED)
def test_penalties_of_the_parts_are_another_objective(on_two, name):
    """So the test above sees which of the two is trained."""
    assert gap(on_two[0][f"parts of {name}"], cases.fit(name)) > 1e-3


def test_moments_of_all_posteriors(on_two):
    law = cases.posterior()
    mean, cov = code_moments(law)
    cov.square().sum().backward()
    ours, theirs = (results["moments"] for results in on_two)
    for name, value in (("mean", mean), ("cov", cov)):
        torch.testing.assert_close(ours[name], value.detach())
        torch.testing.assert_close(theirs[name], value.detach())
    # Of the sum of the ranks' losses: DistributedDataParallel divides it by their number.
    torch.testing.assert_close(torch.cat([ours["grad"], theirs["grad"]]) / 2, law.variance.grad)


def test_a_process_that_fails_ends_the_others(on_two):
    (code, out, err), bug = (results["dies"] for results in on_two)
    assert bug == "of rank 1"
    assert (code, err.count("\n")) == (1, 1), err
    assert err.startswith("stopped: another process has ended or does not answer; ")
    assert "last.ckpt is whole and holds 1 epoch" in err
    assert "Look at" not in out


def test_torchrun(tmp_path):
    """One run in one folder, with one page, from which a checkpoint can be loaded."""
    words = ["--config", "models/configs/digits_sliced_wae.yaml", "--data.batch_size", 300]
    words += ["--trainer.max_epochs", 2, "--trainer.devices", 2, "--trainer.accelerator", "cpu"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 2, "--standalone"]
    done = subprocess.run(
        [str(word) for word in (*command, "-m", "models", "fit", *words, "--runs_dir", tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Look at ") == done.stdout.count("Writing to ") == 1
    (folder,) = tmp_path.iterdir()
    assert [row["epochs"] for row in read_rows(folder)] == ["0", "1", "2"]
    assert len([*(folder / "logs" / "csv").iterdir()]) == 1
    assert runs.load(folder / "checkpoints" / "last.ckpt").sample(2).shape == (2, 1, 8, 8)


def test_torchrun_with_another_number_of_devices_is_refused(monkeypatch, tmp_path):
    """Two runs, each a run of its own, would write the same files."""
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "GROUP_RANK": 0, "WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    code, _, err = call("fit", "--runs_dir", tmp_path)
    assert (code, [*tmp_path.iterdir()]) == (2, [])
    assert err.startswith("error: fit: --trainer.devices must be 2 in all")
