"""A run that cannot go on says so, and what it saved takes it up again as if nothing had been."""

import contextlib
import os
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from models_support import IGNORED, ROOT, call, one_thread  # noqa: F401

from models import report
from models.autoencoder import Autoencoder

pytestmark = [*IGNORED, pytest.mark.filterwarnings("ignore:Experiment logs directory")]

EPOCHS = 3
FIT = ["fit", "--data.batch_size", 400, "--trainer.max_epochs", EPOCHS]


DRAW = report.draw


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    """They take most of the time of so short a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw", lambda *_: [])
        yield


def fit(parent):
    code, _, err = call(*FIT, "--runs_dir", parent)
    return code, err, parent / "sliced_wae"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    code, err, folder = fit(tmp_path_factory.mktemp("unbroken"))
    assert (code, err) == (0, "")
    return folder


def state(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def go_on(err):
    """Run the command that the message tells."""
    command = err.split("go on with: python -m models ")[1].split(";")[0]
    code, out, err = call(*shlex.split(command))
    assert (code, err) == (0, "")
    return out


def assert_same_run(folder, other):
    assert (folder / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    for name in ("last", "best"):
        ours, theirs = state(folder, name), state(other, name)
        assert ours["epoch"] == theirs["epoch"]
        for key, value in theirs["state_dict"].items():
            assert torch.equal(ours["state_dict"][key], value), key


@pytest.fixture
def during(monkeypatch):
    """``during(epoch, action)``: something happens when this epoch begins."""

    def plan(epoch, action):
        begin = Autoencoder.on_train_epoch_start

        def happen(model):
            begin(model)
            if model.current_epoch == epoch:
                action(model)

        monkeypatch.setattr(Autoencoder, "on_train_epoch_start", happen)

    yield plan
    allow_files_of(resource.RLIM_INFINITY)


def allow_files_of(n_bytes):
    """What a full disk does to a file that grows: a part is written, then OSError."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))


def break_weights(model):
    with torch.no_grad():
        model.decoder[0].weight.fill_(torch.nan)


def fill_disk(model):
    allow_files_of(100_000)  # a checkpoint takes some 600 kB, a log some 1 kB


def fill_disk_for_logs(model):
    log = next(Path(model.trainer.default_root_dir).rglob("metrics.csv"))
    allow_files_of(log.stat().st_size + 10)


def terminate(model):
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("action", "code", "why"),
    [
        (break_weights, 1, "val/loss is nan in epoch 2"),
        (fill_disk, 1, "File too large"),
        (fill_disk_for_logs, 1, "File too large"),
        (terminate, 143, "terminated"),
    ],
)
def test_stopped_run_goes_on_as_if_unbroken(
    action, code, why, during, monkeypatch, unbroken, tmp_path
):
    during(1, action)
    got, err, folder = fit(tmp_path)
    assert got == code
    assert len(err.splitlines()) == 1
    assert err.startswith("stopped: ")
    assert why in err
    assert f"{folder}/checkpoints/last.ckpt is whole and holds 1 epoch;" in err
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
    ]
    assert state(folder)["epoch"] == 0
    monkeypatch.undo()
    allow_files_of(resource.RLIM_INFINITY)
    assert f"1 of {EPOCHS} epochs done" in go_on(err)
    assert_same_run(folder, unbroken)


@pytest.mark.parametrize("action", [break_weights, fill_disk])
def test_run_stopped_in_its_first_epoch_saved_nothing(action, during, tmp_path):
    during(0, action)
    code, err, folder = fit(tmp_path)
    assert code == 1
    assert "no epoch was finished, nothing was saved" in err
    assert "go on" not in err
    assert not [*(folder / "checkpoints").glob("*")]


def test_nan_of_the_last_step_is_found_in_the_weights(monkeypatch, tmp_path):
    """Without a validation after it, only the weights show it."""

    class Broken(torch.optim.Adam):
        def step(self, closure=None):
            loss = super().step(closure)
            if len(self.state) and next(iter(self.state.values()))["step"] == 6:
                self.param_groups[0]["params"][0].data[0, 0] = torch.inf
            return loss

    monkeypatch.setattr(torch.optim, "Adam", Broken)
    code, _, err = call(*FIT, "--runs_dir", tmp_path, "--trainer.check_val_every_n_epoch", 5)
    assert code == 1
    assert "encoder.1.weight is inf in epoch 2" in err
    assert "holds 1 epoch" in err


def test_full_disk_under_the_pictures(unbroken, monkeypatch, tmp_path):
    code, _, folder = fit(tmp_path)
    assert code == 0
    monkeypatch.setattr(report, "draw", DRAW)
    (folder / "samples.png").symlink_to("/dev/full")
    code, _, err = call("fit", "--ckpt_path", folder / "checkpoints" / "last.ckpt")
    assert code == 1
    assert "No space left on device" in err
    assert f"is whole and holds {EPOCHS} epochs" in err
    (folder / "samples.png").unlink()
    go_on(err)
    assert_same_run(folder, unbroken)
    assert (folder / "samples.png").stat().st_size > 1000


def test_ctrl_c(tmp_path):
    options = ["--data.batch_size", "600", "--trainer.max_epochs", "300", "--runs_dir", tmp_path]
    process = subprocess.Popen(
        [sys.executable, "-m", "models", "fit", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with contextlib.closing(process.stdout):
        next(line for line in process.stdout if line.startswith("epoch 30 of 300:"))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(err.splitlines()) == 1
    folder = tmp_path / "sliced_wae"
    done = state(folder)["epoch"] + 1
    assert done >= 29  # the line comes before the checkpoint of its epoch
    assert f"interrupted; {folder}/checkpoints/last.ckpt is whole and holds {done} epochs" in err
    assert "index.html" not in out
    last = folder / "checkpoints" / "last.ckpt"
    assert call("fit", "--ckpt_path", last, "--trainer.max_epochs", done + 1)[0] == 0
    assert state(folder)["epoch"] == done
