"""What holds of the training of every system: mixed precision, several processes."""

import os
import subprocess
import sys

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from models_cases import CASES, SWITCH, assert_equal, few_digits, in_stages, model, read_rows, run
from models_support import IGNORED, ROOT, one_thread  # noqa: F401

pytestmark = [
    *IGNORED,
    pytest.mark.filterwarnings("ignore:StackedWAE. the codes vary"),  # so few steps
]


class Losses(Callback):
    """Mean loss of every epoch, and the types that the decoder computes in."""

    def __init__(self):
        self.means, self.dtypes = [], set()

    def on_train_epoch_start(self, trainer, module):
        module.decoder[0].register_forward_hook(lambda *a: self.dtypes.add(a[2].dtype))

    def on_train_epoch_end(self, trainer, module):
        self.means.append(float(module.epoch_means()["loss"]))


@pytest.mark.parametrize("case", CASES)
def test_bf16_mixed_trains_as_single_precision_does(case):
    """In both stages: within a few roundings of bf16, 2^-8 each."""
    mixed, single = Losses(), Losses()
    system, _ = run(case, callbacks=[mixed], trainer={"precision": "bf16-mixed"})
    run(case, callbacks=[single])
    assert mixed.dtypes - single.dtypes == {torch.bfloat16}
    # An optimal matching is sensitive: single precision itself, with the encoder of LatentOT moved
    # by 2^-9 of its weights before the second stage, ends up to 2.5 % away (five draws).
    rel = 0.05 if case == "LatentOT" else 0.01
    assert mixed.means[:SWITCH] == pytest.approx(single.means[:SWITCH], rel=0.01)
    assert mixed.means[SWITCH:] == pytest.approx(single.means[SWITCH:], rel=rel)
    assert mixed.means[1] < mixed.means[0]
    for name, parameter in system.named_parameters():
        assert parameter.dtype == torch.float32, name
        assert parameter.isfinite().all(), name


@pytest.mark.parametrize("case", [case for case in CASES if not in_stages(case)])
def test_every_parameter_has_a_gradient(case):
    """Or ``ddp`` would stop; a system in two stages needs ``find_unused_parameters``."""
    system, items = model(case), few_digits().test[:][0]
    system.losses(items, torch.Generator().manual_seed(0))["loss"].backward()
    assert [name for name, p in system.named_parameters() if p.grad is None] == []


def test_two_processes(tmp_path):
    options = {
        "--model": "StackedWAE",
        "--model.first_epochs": 1,
        "--data.batch_size": 300,
        "--trainer.max_epochs": 2,
        "--trainer.accelerator": "cpu",
        "--trainer.devices": 2,
        "--trainer.strategy": "ddp_find_unused_parameters_true",
        "--trainer.callbacks": "models_support.Witness",
        "--runs_dir": tmp_path,
    }
    words = [str(word) for option in options.items() for word in option]
    done = subprocess.run(
        [sys.executable, "-m", "models", "fit", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Look at ") == done.stdout.count("Writing to ") == 1
    (folder,) = tmp_path.iterdir()
    assert [row["epochs"] for row in read_rows(folder)] == ["0", "1", "2"]
    ours, theirs = (torch.load(folder / f"rank{k}.pt", weights_only=True) for k in (0, 1))
    assert_equal(ours["state"], theirs["state"])
    assert not torch.equal(ours["untrained"], ours["state"]["decoder.4.weight"])
    assert not torch.equal(ours["draw"], theirs["draw"])
    # Each process sees half of the 1257 items, in full batches of 300; none sees another's.
    assert ours["sampler"] == theirs["sampler"] == "DistributedSamplerWrapper"
    assert len(ours["items"]) == len(theirs["items"]) == 600
    assert not {*map(tuple, ours["items"].tolist())} & {*map(tuple, theirs["items"].tolist())}
