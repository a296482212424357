import math

import lightning as L
import pytest
import torch
from models_support import IGNORED, build, one_thread, trained  # noqa: F401

from models import checkpoints, runs
from models.autoencoder import Autoencoder
from models.data import Digits
from models.posterior import Posterior
from models.priors import Prior
from models.systems import SlicedWAE

pytestmark = IGNORED


def sliced(**settings):
    """A small one from seed 0."""
    return build(SlicedWAE, **{"prior": "uniform", "latent_dim": 2, **settings})


def test_digits_split():
    data = Digits()
    (train, train_labels), (test, test_labels) = data.train[:], data.test[:]
    assert train.shape == (1257, 1, 8, 8)
    assert test.shape == (540, 1, 8, 8)
    assert train.min() == test.min() == 0
    assert train.max() == test.max() == 1
    per_class = torch.stack([train_labels.bincount(), test_labels.bincount()]).double()
    share = per_class[1] / per_class.sum(0)
    assert (share - 540 / 1797).abs().max() < 0.005  # stratified: half an image of a class of 174
    assert torch.equal(Digits().test[:][0], test)


def test_every_epoch_has_an_order_of_its_own():
    sampler, orders = Digits().train_dataloader().sampler, []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        torch.manual_seed(seed)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert all(sorted(order) == list(range(1257)) for order in orders)
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3


def test_weight_zero_is_the_plain_autoencoder_bit_for_bit():
    model, _ = trained(sliced(weight=0.0), epochs=2)

    plain = sliced(weight=0.0)
    encoder, decoder = plain.encoder, plain.decoder
    parameters = [*plain.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, betas=(0.5, 0.999), fused=True)
    loader = Digits().train_dataloader()
    steps = 2 * len(loader)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [math.ceil(0.6 * steps)], gamma=0.2)
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for images, _ in loader:
            loss = (decoder(encoder(images)) - images).square().sum((1, 2, 3)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, plain.get_parameter(name)), name


def test_terms_are_means_over_the_steps_of_an_epoch():
    class Losses(L.Callback):
        seen = []

        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            self.seen.append(outputs["loss"])

    _, metrics = trained(sliced(), epochs=2, callbacks=[Losses()])
    expected = torch.stack(Losses.seen).unflatten(0, (2, -1)).mean(1)[1]
    torch.testing.assert_close(metrics["train/loss"], expected)


def test_penalty_changes_no_batch_and_no_global_draw():
    class Recorder(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            self.seen = [*getattr(self, "seen", []), batch[1]]

    ends = []
    for weight in (0.0, 10.0):
        recorder = Recorder()
        trained(sliced(weight=weight), epochs=2, callbacks=[recorder])
        ends.append((torch.cat(recorder.seen), torch.get_rng_state()))
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])


def test_penalty_pulls_the_codes_to_the_prior():
    distance = {}
    for weight in (0.0, 10.0):
        _, metrics = trained(sliced(weight=weight), epochs=4)
        distance[weight] = metrics["val/prior_distance"]
    assert distance[10.0] < distance[0.0] / 20


def test_objective_does_not_depend_on_batch_size():
    model = sliced()
    images = Digits().test[:20][0]
    codes, points = model.encoder(images), Prior("uniform", 2).sample(20)
    once = model.penalty(codes, points, torch.Generator().manual_seed(3))
    twice = model.penalty(codes.repeat(2, 1), points.repeat(2, 1), torch.Generator().manual_seed(3))
    torch.testing.assert_close(twice, once)
    errors = (model.decoder(codes) - images).square().sum((1, 2, 3))
    one, two = (model.evaluate(Posterior(codes.repeat(k, 1)), errors.repeat(k)) for k in (1, 2))
    torch.testing.assert_close(one["reconstruction"], two["reconstruction"])
    torch.testing.assert_close(one["mse_per_pixel"] * 64, one["reconstruction"])


def test_base_class_has_no_penalty_of_its_own():
    with pytest.raises(NotImplementedError):
        Autoencoder().penalty(torch.zeros(2, 2), torch.zeros(2, 2), None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_training_step_in_other_dtypes(dtype):
    model = sliced(latent_dim=3).to(dtype)
    codes = torch.zeros(4, 3, dtype=dtype, requires_grad=True)
    points = model.prior.sample(4, torch.Generator().manual_seed(0)).to(dtype)
    model.penalty(codes, points, torch.Generator().manual_seed(0)).backward()
    assert codes.grad.dtype == dtype
    assert codes.grad.abs().sum() > 0


def test_last_checkpoint_is_of_the_last_epoch_and_best_of_the_best(tmp_path):
    class Worse(SlicedWAE):
        def evaluate(self, posterior, errors):
            return {**super().evaluate(posterior, errors), "loss": float(self.current_epoch)}

    trained(Worse(), epochs=3, callbacks=checkpoints.keepers(tmp_path))
    saved = {
        path.name: torch.load(path, weights_only=True)["epoch"]
        for path in (tmp_path / runs.CHECKPOINTS).iterdir()
    }
    assert saved == {"best.ckpt": 0, "last.ckpt": 2}


def test_prior_distance_does_not_reuse_the_noise_of_random_codes():
    """A posterior that is the prior itself lies at the floor, not at 0."""
    model = build(Autoencoder, random_encoder=True)
    posterior = Posterior(torch.zeros(540, 8), torch.ones(540, 8))
    metrics = model.evaluate(posterior, torch.zeros(540))
    assert metrics["prior_distance"] > metrics["prior_floor"] / 2


def test_batches_that_make_one_step_draw_points_of_their_own():
    class Recorder(SlicedWAE):
        seen = ()

        def penalty(self, codes, points, generator):
            self.seen = (*self.seen, float(points.sum()))
            return super().penalty(codes, points, generator)

    model = build(Recorder)
    trained(model, epochs=1, trainer={"accumulate_grad_batches": 4, "limit_val_batches": 0})
    assert len(set(model.seen)) == len(model.seen) == 12


def test_gradients_are_clipped_under_mixed_precision():
    options = {"precision": "bf16-mixed", "gradient_clip_val": 1.0}
    model, metrics = trained(sliced(), epochs=1, trainer=options)
    assert metrics["val/loss"].isfinite()
    assert all(p.dtype == torch.float32 for p in model.parameters())
