"""What the terms of the objectives owe to the number of items in a batch."""

import pytest
import torch
from models_cases import few_digits, model
from models_support import IGNORED, one_thread  # noqa: F401

from models.posterior import Posterior
from otkernels import mmd

pytestmark = IGNORED


class Repeated:
    """A prior that draws the points of a batch, k times."""

    def __init__(self, prior, k):
        self.prior, self.k = prior, k

    def __getattr__(self, name):
        return getattr(self.prior, name)

    def sample(self, n, generator):
        return self.prior.sample(n // self.k, generator).repeat(self.k, 1)


def terms(case, k, **settings):
    """The terms of the objective on a batch of 60 items that is given k times."""
    system = model(case, **settings)
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
        ("StackedWAE", {"penalty": "sliced", "first_epochs": 0}),  # the second stage
    ],
)
def test_terms_do_not_depend_on_the_batch_size(case, settings):
    once, twice = (terms(case, k, **settings) for k in (1, 2))
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
