"""A seed repeats the training of every system bit for bit, also where it was interrupted."""

from functools import cache, wraps

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from models_cases import (
    CASES,
    EPOCHS,
    SWITCH,
    TWO_STAGES,
    assert_equal,
    few_digits,
    in_stages,
    model,
    read_rows,
    run,
)
from models_support import IGNORED, call, one_thread, trained  # noqa: F401
from torch import nn

from models import report, runs

pytestmark = [
    *IGNORED,
    pytest.mark.filterwarnings("ignore:StackedWAE. the codes vary"),  # so few steps
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """``whole(case)``: the model and metrics of an unbroken run, and its checkpoints."""

    @cache
    def get(case):
        folder = tmp_path_factory.mktemp("checkpoints")
        keep = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
        return *run(case, callbacks=[keep]), folder

    return get


@pytest.mark.parametrize("case", CASES)
def test_same_seed_same_numbers_other_seed_other_numbers(case, whole):
    first, metrics, _ = whole(case)
    torch.rand(7)  # where the global stream stands does not matter
    second, again = run(case)
    assert {k: float(v) for k, v in again.items()} == {k: float(v) for k, v in metrics.items()}
    assert_equal(second.state_dict(), first.state_dict())
    other, differing = run(case, seed=1)
    assert float(differing["val/loss"]) != float(metrics["val/loss"])
    assert not torch.equal(other.encoder[1].weight, first.encoder[1].weight)


@pytest.mark.parametrize(
    ("case", "done"),
    # A system in two stages is broken in the first, where they meet, and in the second.
    [(case, done) for case in CASES for done in ((1, 2, 3) if in_stages(case) else (2,))],
)
def test_resumed_training_equals_uninterrupted_training(case, done, whole, tmp_path):
    unbroken, metrics, folder = whole(case)
    resumed = model(case, lr=0.5)  # the step size, as everything, has to come from the checkpoint
    nn.init.zeros_(resumed.encoder[1].weight)
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    path = folder / f"epoch={done - 1}.ckpt"
    _, again = trained(resumed, EPOCHS, [keep], few_digits(), ckpt_path=path)
    # Lightning keeps the terms of the first stage, which the resumed run may never have seen.
    assert all(key in again for key in metrics if key.startswith("val/") or key == "train/loss")
    assert {k: float(v) for k, v in again.items()} == {k: float(metrics[k]) for k in again}
    assert_equal(resumed.state_dict(), unbroken.state_dict())


@pytest.mark.parametrize("system", ["SlicedWAE", *TWO_STAGES])
def test_resuming_on_the_command_line(system, monkeypatch, tmp_path):
    monkeypatch.setattr(report, "draw", lambda *_: [])
    fit = ["fit", "--model", f"models.systems.{system}", "--data.batch_size", 400]
    if system in TWO_STAGES:
        fit += ["--model.first_epochs", SWITCH]
    planned = ["--trainer.max_epochs", EPOCHS, "--seed_everything", 5]
    assert call(*fit, *planned, "--runs_dir", tmp_path / "whole")[0] == 0
    stop = StopAfter(SWITCH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(L.Trainer, "fit", stop(L.Trainer.fit))
        assert call(*fit, *planned, "--runs_dir", tmp_path / "broken")[0] == 0
    folders = [tmp_path / name / system.lower() for name in ("whole", "broken")]
    assert read_rows(folders[1])[-1]["epochs"] == str(SWITCH)
    code, out, err = call("fit", "--ckpt_path", folders[1] / "checkpoints" / "last.ckpt")
    assert (code, err) == (0, "")
    assert f"{SWITCH} of {EPOCHS} epochs done" in out
    assert read_rows(folders[1]) == read_rows(folders[0])
    states = [
        runs.read_checkpoint(folder / "checkpoints" / "last.ckpt", "--ckpt") for folder in folders
    ]
    assert states[0]["epoch"] == states[1]["epoch"] == EPOCHS - 1
    assert_equal(states[1]["state_dict"], states[0]["state_dict"])


class StopAfter(Callback):
    """Ends a run early that was planned for longer."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs

    def __call__(self, fit):
        @wraps(fit)
        def fit_and_stop(trainer, **kwargs):
            trainer.callbacks.insert(0, self)
            fit(trainer, **kwargs)

        return fit_and_stop
