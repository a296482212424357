"""A run that cannot go on says so, and what it saved takes it up again as if nothing had been."""

import os
import resource
import runpy
import shlex
import signal
import sys
from pathlib import Path

import pytest
import torch
from models_support import IGNORED, call, one_thread  # noqa: F401

from models import pictures, report, runs
from models.autoencoder import Autoencoder
from models.systems import SlicedWAE

pytestmark = [*IGNORED, pytest.mark.filterwarnings("ignore:Experiment logs directory")]

EPOCHS = 3
FIT = ["fit", "--data.batch_size", 400, "--trainer.max_epochs", EPOCHS]


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    """They take most of the time of so short a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw", lambda *_: [])
        yield


@pytest.fixture(autouse=True)
def hear_ctrl_c():
    """Deaf is a process in the background of a shell and one that Lightning saw interrupted."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


def interrupt(model):
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("action", "code", "why"),
    [
        (break_weights, 1, "val/loss is nan in epoch 2"),
        (fill_disk, 1, "File too large"),
        (fill_disk_for_logs, 1, "File too large"),
        (terminate, 143, "terminated"),
        (interrupt, 130, "interrupted"),
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


def test_contents_are_on_the_disk_before_they_have_the_name(monkeypatch, tmp_path):
    path, seen = tmp_path / "a", []
    path.write_bytes(b"old")
    note = lambda fd: seen.append((os.fstat(fd).st_size, path.read_bytes()))  # noqa: E731
    monkeypatch.setattr(os, "fsync", note)
    runs.write_whole(path, b"newer")
    assert seen == [(5, b"old")]
    assert path.read_bytes() == b"newer"
    assert list(tmp_path.iterdir()) == [path]


def test_logs_lose_half_rows_and_nothing_else(tmp_path):
    logs = {"0": b"a,b\n1,2\n", "1": b"a,b\n1,2\n3,", "2": b"a,b\n1", "3": b"a,b\n"}
    paths = {name: tmp_path / "logs" / "csv" / name / "metrics.csv" for name in logs}
    for name, path in paths.items():
        path.parent.mkdir(parents=True)
        path.write_bytes(logs[name])
    runs.mend_logs(tmp_path)
    left = {name: path.read_bytes() for name, path in paths.items() if path.exists()}
    assert left == {"0": logs["0"], "1": b"a,b\n1,2\n"}


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


def test_nan_of_a_term_is_named(monkeypatch, tmp_path):
    """Before the weights that it has spoiled."""

    def penalty(model, codes, points, generator):
        return codes.sum() * (torch.nan if model.current_epoch == 1 else 0)

    monkeypatch.setattr(SlicedWAE, "penalty", penalty)
    code, _, err = call(*FIT, "--runs_dir", tmp_path, "--trainer.check_val_every_n_epoch", 5)
    assert code == 1
    assert "train/loss is nan in epoch 2" in err


def draw_samples(folder, model, data, rows):
    """One picture for all."""
    pictures.save(pictures.samples(model.sample(4), "prior"), folder / "samples.png")
    return ["samples"]


def test_full_disk_under_the_pictures(unbroken, monkeypatch, tmp_path):
    code, _, folder = fit(tmp_path)
    assert code == 0
    monkeypatch.setattr(report, "draw", draw_samples)
    (folder / "samples.png").symlink_to("/dev/full")
    code, _, err = call("fit", "--ckpt_path", folder / "checkpoints" / "last.ckpt")
    assert code == 1
    assert "No space left on device" in err
    assert f"is whole and holds {EPOCHS} epochs" in err
    (folder / "samples.png").unlink()
    go_on(err)
    assert_same_run(folder, unbroken)
    assert (folder / "samples.png").stat().st_size > 1000


@pytest.mark.parametrize("command", ["validate", "test"])
def test_ctrl_c_during_an_evaluation(command, monkeypatch, unbroken):
    monkeypatch.setattr(Autoencoder, "posterior", lambda *_: interrupt(None))
    code, _, err = call(command, "--ckpt_path", unbroken / "checkpoints" / "last.ckpt")
    assert (code, err) == (130, "stopped: interrupted\n")


def test_exit_code_is_that_of_the_process(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["models", "train"])
    monkeypatch.delitem(sys.modules, "models.__main__")
    with pytest.raises(SystemExit) as end:
        runpy.run_module("models", run_name="__main__")
    assert end.value.code == 2
