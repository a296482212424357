"""Latent OT in two stages: training, resuming, step sizes, precision."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from models_cases import few_digits
from models_support import IGNORED, build, one_thread, trained  # noqa: F401

from models import runs
from models.autoencoder import Autoencoder
from models.data import Digits, EightGaussians
from models.systems import LatentOT

pytestmark = IGNORED
MODES = ["full", "batch"]
TINY = {"width": 16, "depth": 2, "max_codes": 200}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def plane(**settings):
    """A LatentOT of points of the plane, which has no first stage."""
    settings = {"first_epochs": 0, "latent_dim": 2, "shape": (2,), **settings}
    return build(LatentOT, network="identity", **settings)


def weights(model, names=("encoder", "decoder")):
    state = model.state_dict()
    return {k: v.clone() for k, v in state.items() if k.startswith(names)}


def same(x, y):
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


@pytest.mark.parametrize("mode", MODES)
def test_autoencoder_is_the_plain_one_and_never_touched(mode):
    short = {"check_val_every_n_epoch": 10}
    model, _ = trained(build(LatentOT, mode=mode, first_epochs=1, **TINY), 3, trainer=short)
    plain, _ = trained(build(Autoencoder), 1, trainer=short)
    assert same(weights(model), weights(plain))
    moved = weights(model, "potential")
    assert not same(moved, weights(build(LatentOT, mode=mode, **TINY), "potential"))
    images = Digits().test[:][0]
    assert torch.equal(model(images), plain(images))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("done", [1, 2])
def test_resumed_training_equals_uninterrupted_training(mode, done, tmp_path):
    data, settings = EightGaussians(n_train=300, n_test=100), {**TINY, "mode": mode}
    keep = [ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1) for _ in range(2)]
    whole, first = trained(plane(**settings), 3, keep[:1], data)
    resumed = plane(seed=1, **settings)
    L.seed_everything(0, verbose=False)
    path = tmp_path / f"epoch={done - 1}.ckpt"
    resumed, second = trained(resumed, 3, keep[1:], data, ckpt_path=path)
    assert same(weights(whole, ("",)), weights(resumed, ("",)))
    assert first == second
    loaded = runs.load(tmp_path / "epoch=2.ckpt")
    assert same(weights(whole, ("",)), weights(loaded, ("",)))
    points = randn(10, 2).float()
    assert torch.equal(loaded.transport(points), whole.eval().transport(points))


def test_second_stage_begins_once_and_finds_the_first_at_rest():
    class Counted(LatentOT):
        begun = 0

        def begin_second_stage(self, codes):
            self.begun += 1
            super().begin_second_stage(codes)

    class Modes(L.Callback):
        seen = []

        def on_train_batch_start(self, trainer, module, batch, index):
            if index == 0:
                self.seen.append((module.encoder.training, module.decoder.training))

    model, _ = trained(build(Counted, first_epochs=1, **TINY), 4, [Modes()], few_digits())
    assert model.begun == 1
    assert Modes.seen == [(True, True), *3 * [(False, False)]]


@pytest.mark.parametrize("mode", MODES)
def test_there_is_one_loss_that_falls_and_a_seed_repeats_it(mode):
    class Losses(L.Callback):
        """On fixed noise and test codes, before training and after each epoch."""

        def on_validation_end(self, trainer, module):
            self.seen = [*getattr(self, "seen", []), float(trainer.callback_metrics["val/loss"])]
            self.optimizers = len(trainer.optimizers)

    twice = [Losses(), Losses()]
    for callback in twice:
        data = EightGaussians(n_train=300, n_test=100)
        trained(plane(mode=mode, width=32), 4, [callback], data)
    losses = twice[0].seen
    assert losses == twice[1].seen
    assert twice[0].optimizers == 1
    assert losses[-1] < 0.7 * losses[0]
    assert sum(losses[3:]) < sum(losses[:2])


def test_step_sizes_of_autoencoder_and_potential():
    model = build(LatentOT, lr=1e-3, potential_lr=7e-3, **TINY)
    first, second = model.parameter_groups()
    assert second["lr"] == 7e-3
    assert "lr" not in first
    given = {id(x) for group in (first, second) for x in group["params"]}
    assert given == {id(x) for x in model.parameters()}


def test_mixed_precision_leaves_potential_and_map_in_single():
    settings = {"precision": "bf16-mixed", "check_val_every_n_epoch": 10}
    model, metrics = trained(build(LatentOT, first_epochs=1, **TINY), 2, trainer=settings)
    assert all(value.isfinite() for value in metrics.values())
    with torch.autocast("cpu", torch.bfloat16):
        value, slope = model._value_and_slope(randn(5, 8).float())
    assert value.dtype == slope.dtype == torch.float32
