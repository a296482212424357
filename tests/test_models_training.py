"""What holds of the training of every system: seeds, resuming, precision, processes, batch size."""

import csv
import os
import subprocess
import sys
from functools import cache, wraps

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from models_support import IGNORED, ROOT, build, call, one_thread, trained  # noqa: F401
from torch import nn

from models import report, runs
from models.data import Digits, Items
from models.data.items import Tensors
from models.posterior import Posterior
from models.systems import SYSTEMS
from models.two_stages import TwoStages
from otkernels import mmd

pytestmark = [
    *IGNORED,
    pytest.mark.filterwarnings("ignore:StackedWAE. the codes vary"),  # so few steps
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]

EPOCHS, SWITCH = 4, 2
VARIANTS = {
    "WAE gan": ("WAE", {"form": "gan", "pretrain_steps": 3}),
    "WWAE momentum": ("WWAE", {"momentum": 0.5, "moments": "sampled"}),
    "StackedWAE joint": ("StackedWAE", {"schedule": "joint", "penalty": "sliced"}),
}
CASES = sorted([*SYSTEMS, *(name for name, (system, _) in VARIANTS.items() if system in SYSTEMS)])


def model(case, seed=0, **settings):
    system, variant = VARIANTS.get(case, (case, {}))
    cls = SYSTEMS[system]
    switch = {"first_epochs": SWITCH} if issubclass(cls, TwoStages) else {}
    return build(cls, seed, **switch, **variant, **settings)


@cache
def few_digits():
    (train, train_labels), (test, test_labels) = (part[:] for part in _digits())
    few = Tensors(train[:240], train_labels[:240]), Tensors(test[:60], test_labels[:60])
    return Items(*few, batch_size=60)


@cache
def _digits():
    data = Digits()
    return data.train, data.test


def run(case, seed=0, callbacks=(), **options):
    return trained(model(case, seed), EPOCHS, callbacks, few_digits(), **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """``whole(case)``: the model and metrics of an unbroken run, and its checkpoints."""

    @cache
    def get(case):
        folder = tmp_path_factory.mktemp("checkpoints")
        keep = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
        return *run(case, callbacks=[keep]), folder

    return get


def assert_equal(states, others):
    for name, value in states.items():
        assert torch.equal(value, others[name]), name


# --- seeds --------------------------------------------------------------------------------------


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


# --- resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "done"),
    # A system in two stages is broken in the first, where they meet, and in the second.
    [
        (case, done)
        for case in CASES
        for done in ((1, 2, 3) if issubclass(type(model(case)), TwoStages) else (2,))
    ],
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


TWO_STAGES = [name for name, cls in SYSTEMS.items() if issubclass(cls, TwoStages)]


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


def read_rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


# --- precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_bf16_mixed_trains(case):
    class Losses(Callback):
        means, dtypes = [], set()

        def on_train_epoch_start(self, trainer, module):
            module.decoder[0].register_forward_hook(lambda *a: self.dtypes.add(a[2].dtype))

        def on_train_epoch_end(self, trainer, module):
            self.means = [*self.means, float(module.epoch_means()["loss"])]

    losses = Losses()
    system, _ = run(case, callbacks=[losses], trainer={"precision": "bf16-mixed"})
    assert torch.bfloat16 in losses.dtypes
    assert losses.means[1] < losses.means[0]
    assert all(torch.tensor(losses.means).isfinite())
    for name, parameter in system.named_parameters():
        assert parameter.dtype == torch.float32, name
        assert parameter.isfinite().all(), name


# --- batch size ---------------------------------------------------------------------------------


class Repeated:
    """A prior that draws the points of a batch, k times."""

    def __init__(self, prior, k):
        self.prior, self.k = prior, k

    def __getattr__(self, name):
        return getattr(self.prior, name)

    def sample(self, n, generator):
        return self.prior.sample(n // self.k, generator).repeat(self.k, 1)


def terms(case, k, stage=1, **settings):
    """The terms of the objective on a batch of 60 items that is given k times."""
    system = model(case, **settings)
    if stage == 2:
        system.first_epochs = 0
        system.trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    system.prior = Repeated(system.prior, k)
    items = few_digits().test[:][0].repeat(k, 1, 1, 1)
    return system.losses(items, torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("Autoencoder", {}),
        ("SlicedWAE", {}),
        ("WAE gan", {}),
        ("StackedWAE joint", {}),
    ],
)
@pytest.mark.parametrize("stage", [1, 2])
def test_terms_do_not_depend_on_the_batch_size(case, settings, stage):
    if stage == 2 and not issubclass(type(model(case)), TwoStages):
        pytest.skip("one stage")
    once, twice = (terms(case, k, stage, **settings) for k in (1, 2))
    assert once.keys() == twice.keys()
    for name in once:
        torch.testing.assert_close(twice[name], once[name])


def test_an_unbiased_mmd_has_the_same_mean_for_any_batch_size():
    """It leaves out pairs of a point with itself, so a batch given twice is not the same to it.

    With M the unbiased and V the biased statistic of n points, that of the doubled points is
    M + n (V - M) / (2 n - 1); only the mean over batches is that of any other batch size.
    """
    once, twice = (terms("WAE", k)["penalty"] for k in (1, 2))
    system = model("WAE")
    items = few_digits().test[:][0]
    points = system.prior.sample(60, torch.Generator().manual_seed(3))
    biased = mmd(
        system.encode(items), points, kernel="imq", bandwidth=system.bandwidths, unbiased=False
    )
    torch.testing.assert_close(twice, once + 60 / 119 * (biased - once))


def test_covariances_over_n_minus_1_shrink_by_a_known_factor():
    """A batch given twice has covariance c C with c = 2 (n - 1) / (2 n - 1), C that of one."""
    system = model("WWAE", random_encoder=False)
    codes = system.encode(few_digits().test[:][0])
    shrunk = codes.mean(0) + (2 * 59 / 119) ** 0.5 * (codes - codes.mean(0))
    once, twice = (
        system.penalties(Posterior(x), x, None, None)["penalty"]
        for x in (shrunk, codes.repeat(2, 1))
    )
    torch.testing.assert_close(twice, once)


def test_divergence_of_single_codes_does_not_depend_on_the_batch_size():
    system = model("VAE")
    once, twice = (
        system.penalties(system.posterior(few_digits().test[:][0].repeat(k, 1, 1, 1)), *[None] * 3)
        for k in (1, 2)
    )
    torch.testing.assert_close(twice["penalty"], once["penalty"])


# --- processes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "strategy"),
    [("SlicedWAE", "ddp"), ("StackedWAE", "ddp_find_unused_parameters_true")],
)
def test_two_processes(system, strategy, tmp_path):
    options = {
        "--model": system,
        "--data.batch_size": 300,
        "--trainer.max_epochs": 2,
        "--trainer.accelerator": "cpu",
        "--trainer.devices": 2,
        "--trainer.strategy": strategy,
        "--trainer.callbacks": "models_support.Witness",
        "--runs_dir": tmp_path,
    }
    if system in TWO_STAGES:
        options["--model.first_epochs"] = 1
    words = [str(word) for option in options.items() for word in option]
    done = subprocess.run(
        [sys.executable, "-m", "models", "fit", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
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
