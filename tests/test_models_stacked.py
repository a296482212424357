import math

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from models_support import IGNORED, build, one_thread, trained  # noqa: F401

from models import runs
from models.autoencoder import Autoencoder
from models.data import Digits
from models.errors import InputError
from models.latent_distance import N_DIRECTIONS, prior_distance
from models.systems import StackedWAE
from otkernels import sliced_wasserstein, wae_bandwidths

pytestmark = IGNORED
SMALL = {"latent_dim": 3, "second_width": 16}


def small(**settings):
    """A small StackedWAE from seed 0."""
    return build(StackedWAE, **{"first_epochs": 1, **SMALL, **settings})


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def same_first_level(model, other):
    """Whether encoder and decoder have the same bits."""
    return all(
        torch.equal(value, other.state_dict()[name])
        for name, value in model.state_dict().items()
        if name.startswith(("encoder", "decoder"))
    )


@pytest.fixture(scope="module")
def sequential():
    """Two epochs of the first level, two of the second."""
    return trained(small(first_epochs=2), epochs=4)


# --- the first level ----------------------------------------------------------------------------


def test_first_stage_is_the_plain_autoencoder_and_the_second_leaves_it_alone(sequential):
    plain, _ = trained(build(Autoencoder, latent_dim=3), epochs=2)
    assert same_first_level(sequential[0], plain)
    frozen = (sequential[0].encoder, sequential[0].decoder)
    assert not any(weight.requires_grad for module in frozen for weight in module.parameters())


def test_joint_schedule_with_stop_gradient_trains_the_plain_autoencoder():
    plain, _ = trained(build(Autoencoder, latent_dim=3), epochs=3)
    joint, metrics = trained(small(schedule="joint", first_epochs=2), epochs=3)
    assert same_first_level(joint, plain)
    assert {"train/reconstruction", "train/code_error", "train/penalty"} <= set(metrics)


def test_joint_schedule_without_stop_gradient_moves_the_codes():
    plain, _ = trained(build(Autoencoder, latent_dim=3), epochs=3)
    free = small(schedule="joint", first_epochs=2, stop_gradient=False)
    assert not same_first_level(trained(free, epochs=3)[0], plain)


def test_second_level_sees_centred_codes_of_unit_scale(sequential):
    model, _ = sequential
    codes = model.standard(model.encode(Digits().train[:][0]))
    torch.testing.assert_close(codes.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(codes.square().mean(), torch.ones(()))
    assert codes.square().mean(0).std() > 0.01  # one scale for all coordinates, not one for each


# --- the second level ---------------------------------------------------------------------------


def ladder_mmd(x, y):
    """The unbiased MMD^2 of the WAE by its definition, in float64: pairs within, without i = i."""

    def kernels(a, b):
        squares = (a[:, None] - b).square().sum(-1)
        return sum(s**2 / (s**2 + squares) for s in wae_bandwidths(x.shape[1]))

    def within(a):
        n = len(a)
        return (kernels(a, a).sum() - kernels(a, a).trace()) / (n * (n - 1))

    return within(x) + within(y) - 2 * kernels(x, y).mean()


def sliced(x, y, source):
    return sliced_wasserstein(x, y, n_projections=50, generator=source)


@pytest.mark.parametrize("penalty", ["mmd", "sliced"])
def test_second_losses_are_the_brace_of_the_objective(penalty):
    model = small(penalty=penalty, weight=3.0, match_weight=0.5, second_dim=2).double()
    codes = torch.randn(40, 3, generator=generator(1), dtype=torch.float64).requires_grad_()
    terms = model.second_losses(codes, generator())

    source = generator()
    points = model.prior.sample(40, source).double()
    encoded = model.second_encoder(codes)
    error = (model.second_decoder(encoded) - codes).square().sum() / 40
    generated = model.second_decoder(points)
    if penalty == "mmd":
        distances = ladder_mmd(encoded, points), ladder_mmd(codes, generated)
    else:
        distances = sliced(encoded, points, source), sliced(codes, generated, source)
    expected = error + 3 * distances[0] + 0.5 * distances[1]
    torch.testing.assert_close(terms["code_error"], error)
    torch.testing.assert_close(terms["penalty"], distances[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(terms["match"], distances[1], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-9, atol=0)
    slopes = (torch.autograd.grad(loss, codes)[0] for loss in (terms["loss"], expected))
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-12)


def test_weight_zero_has_no_penalty():
    terms = small(weight=0.0).second_losses(torch.randn(10, 3), generator())
    assert set(terms) == {"loss", "code_error"}
    assert torch.equal(terms["loss"], terms["code_error"])


def joint_gradients(stop_gradient):
    """Gradients to the encoder of the joint loss and of its three parts, on one batch."""
    model = small(schedule="joint", first_weight=0.7, stop_gradient=stop_gradient)
    model.first_epochs = 0  # so that an untrained model is in its second stage
    model.centre.fill_(0.1)
    model.scale.fill_(2.0)
    items = Digits().train[:50][0]
    weights = list(model.encoder.parameters())
    total = torch.autograd.grad(model.losses(items, generator())["loss"], weights)
    codes = model.encode(items)
    first = (model.decoder(codes) - items).square().sum((1, 2, 3)).mean()
    brace = model.second_losses((codes - 0.1) / 2, generator())["loss"]
    first, brace = (
        torch.autograd.grad(part, weights, retain_graph=True) for part in (first, brace)
    )
    return zip(total, first, brace, strict=True)


def test_stop_gradient_keeps_the_second_level_from_the_encoder():
    for total, first, brace in joint_gradients(stop_gradient=True):
        torch.testing.assert_close(total, first)
        assert brace.abs().sum() > 0


def test_joint_loss_adds_the_second_level_to_the_first():
    for total, first, brace in joint_gradients(stop_gradient=False):
        torch.testing.assert_close(total, first + 0.7 * brace, rtol=1e-4, atol=1e-6)


def test_samples_go_through_both_decoders(sequential):
    model, _ = sequential
    points = model.prior.sample(5, generator(0))
    codes = model.centre + model.scale * model.second_decoder(points)
    torch.testing.assert_close(model.transport(points), codes)
    torch.testing.assert_close(model.sample(5, generator(0)), model.decoder(codes))


def test_second_codes_are_those_of_standard_codes(sequential):
    model, _ = sequential
    codes = torch.randn(5, 3, generator=generator())
    standard = (codes - model.centre) / model.scale
    torch.testing.assert_close(model.encode_second(codes), model.second_encoder(standard))


def test_second_dim_may_differ():
    model = small(second_dim=2, prior="uniform")
    assert model.sample(4, generator()).shape == (4, 1, 8, 8)
    assert model.encode_second(torch.zeros(4, 3)).shape == (4, 2)
    assert model.encode(torch.zeros(4, 1, 8, 8)).shape == (4, 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_second_losses_in_other_dtypes(dtype):
    model = small(match_weight=1.0).to(dtype)
    model.second_losses(torch.randn(8, 3).to(dtype), generator())["loss"].backward()
    gradient = model.second_encoder[0].weight.grad
    assert gradient.dtype == dtype
    assert gradient.abs().sum() > 0


# --- validation ---------------------------------------------------------------------------------


def test_metrics_say_what_they_are_said_to_be(sequential):
    model, metrics = sequential
    with torch.no_grad():
        items = Digits().test[:][0]
        codes = (model.encode(items) - model.centre) / model.scale
        second = model.second_encoder(codes)
        both = model.decoder(model.centre + model.scale * model.second_decoder(second))
        source = generator(0)
        model.second_losses(codes, source)  # draws first
        generated = model.second_decoder(model.prior.sample_independent(540, source))
        distance = sliced_wasserstein(
            codes, generated, n_projections=N_DIRECTIONS, generator=source
        )
        error = (model(items) - items).square()
    torch.testing.assert_close(metrics["val/mse_per_pixel"], error.mean())
    torch.testing.assert_close(metrics["val/reconstruction"], error.sum() / 540)
    torch.testing.assert_close(metrics["val/mse_per_pixel_both"], (both - items).square().mean())
    torch.testing.assert_close(metrics["val/prior_distance"], prior_distance(second, model.prior))
    spread = codes.var(0, correction=0).mean().sqrt()
    torch.testing.assert_close(metrics["val/code_spread"], spread)
    torch.testing.assert_close(metrics["val/generated_distance"], distance)


def test_validation_loss_is_the_joint_objective(sequential):
    model, metrics = sequential
    with torch.no_grad():
        codes = model.standard(model.encode(Digits().test[:][0]))
        brace = model.second_losses(codes, generator(0))["loss"]
    torch.testing.assert_close(metrics["val/loss"], metrics["val/reconstruction"] + brace)


@pytest.mark.parametrize(("penalty", "weight"), [("mmd", 10.0), ("sliced", 3.0)])
def test_penalty_pulls_the_second_codes_to_the_prior(penalty, weight):
    clusters = torch.randn(200, 3, generator=generator()) / 4
    clusters[::2] += 1.5
    distances = []
    for strength in (0.0, weight):
        model = small(penalty=penalty, weight=strength)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for step in range(150):
            optimizer.zero_grad()
            model.second_losses(clusters, generator(step))["loss"].backward()
            optimizer.step()
        distances.append(prior_distance(model.second_encoder(clusters), model.prior))
    assert distances[1] < distances[0] / 4


def test_codes_that_leave_their_units_are_reported():
    # One epoch is too short: the codes go on to grow.
    model = small(schedule="joint", first_epochs=1, lr=3e-3)
    with pytest.warns(UserWarning, match="StackedWAE: the codes vary .* times as much as when"):
        _, metrics = trained(model, epochs=4)
    assert metrics["val/code_spread"] > 2


# --- runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["sequential", "joint"])
@pytest.mark.parametrize("resume_at", [1, 2, 3])
def test_resumed_training_equals_uninterrupted_training(schedule, resume_at, tmp_path):
    settings = {"schedule": schedule, "first_epochs": 2, "match_weight": 0.5}
    short = {"trainer": {"limit_train_batches": 2, "num_sanity_val_steps": 0}}
    keep = [ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1) for _ in range(2)]
    whole, _ = trained(small(**settings), 4, callbacks=keep[:1], **short)
    resumed = small(**settings)
    torch.nn.init.zeros_(resumed.second_encoder[0].weight)
    resume = {"ckpt_path": tmp_path / f"epoch={resume_at - 1}.ckpt"}
    trained(resumed, 4, callbacks=keep[1:], **short, **resume)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_checkpoint_is_loaded_as_it_was(tmp_path):
    keep = ModelCheckpoint(tmp_path, "last")
    model, _ = trained(small(second_dim=2), epochs=2, callbacks=[keep])
    loaded = runs.load(tmp_path / "last.ckpt")
    assert torch.equal(loaded.sample(3, generator()), model.sample(3, generator()))


BAD = {
    "schedule": ({"schedule": "both"}, "schedule must be one of 'sequential', 'joint'"),
    "penalty": ({"penalty": "gan"}, "penalty must be one of 'mmd', 'sliced'; got 'gan'"),
    "second_dim": ({"second_dim": 0}, "second_dim must be at least 1; got 0"),
    "second_width": ({"second_width": 0}, "second_width must be at least 1; got 0"),
    "weight": ({"weight": -1.0}, "weight must be finite and >= 0"),
    "match_weight": ({"match_weight": math.inf}, "match_weight must be finite and >= 0"),
    "first_weight": ({"first_weight": 0.0}, "first_weight must be finite and > 0"),
    "encoder": ({"random_encoder": True}, "random_encoder must be false"),
    "joint": ({"schedule": "joint", "first_epochs": 0}, "first_epochs must be at least 1 where"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    settings, message = BAD[case]
    with pytest.raises(InputError, match="^[A-Za-z]+: ") as error:
        small(**settings)
    assert message in str(error.value)


def test_unbiased_mmd_of_one_item_is_refused():
    with pytest.raises(InputError, match="the batch must hold 2 items or more; got 1"):
        small().second_losses(torch.zeros(1, 3), generator())


def test_run_that_ends_before_its_second_stage_is_refused():
    with pytest.raises(InputError, match="must leave epochs to the second stage, of 2 in"):
        trained(small(first_epochs=2), epochs=2)
