import pytest
import torch
from gaussian_oracle import cloud

from otkernels import (
    GaussianWassersteinLoss,
    GaussianWassersteinToNormalLoss,
    gaussian_wasserstein,
    gaussian_wasserstein_to_normal,
)

EVERY = [GaussianWassersteinLoss, GaussianWassersteinToNormalLoss]
close = torch.testing.assert_close


def test_is_the_function_reduced_to_its_mean(device):
    x, y = cloud(4, 20, 3, device=device), cloud(4, 15, 3, device=device)
    for options in ({}, {"correction": 1, "eps": 0.1}, {"diagonal": True, "squared": False}):
        expected = gaussian_wasserstein(x, y, **options)
        loss = GaussianWassersteinLoss(**options)
        close(loss(x, y), expected.mean())
        loss.reduction = "none"
        close(loss(x, y), expected)
        expected = gaussian_wasserstein_to_normal(x, **options)
        close(GaussianWassersteinToNormalLoss(**options)(x), expected.mean())
        close(GaussianWassersteinToNormalLoss(reduction="sum", **options)(x), expected.sum())


def test_weights_and_lengths_are_passed_on(device):
    x, y = cloud(2, 20, 3, device=device), cloud(2, 15, 3, device=device)
    a, b = torch.rand(2, 20, device=device), torch.rand(2, 15, device=device)
    lengths = {
        "x_lengths": torch.tensor([11, 20], device=device),
        "y_lengths": torch.tensor([7, 5], device=device),
    }
    both, one = GaussianWassersteinLoss(), GaussianWassersteinToNormalLoss()
    expected = gaussian_wasserstein(x, y, a=a, b=b, **lengths).mean()
    close(both(x, y, a=a, b=b, **lengths), expected)
    for left_out in ("a", "b", *lengths):
        given = {"a": a, "b": b} | lengths
        del given[left_out]
        assert not torch.isclose(both(x, y, **given), expected)
    lengths = {"x_lengths": lengths["x_lengths"]}
    close(one(x, a=a, **lengths), gaussian_wasserstein_to_normal(x, a=a, **lengths).mean())


@pytest.mark.parametrize("spread", [0.0, 1e-3])
def test_descent_from_a_collapsed_feature(spread, device):
    """At least to the best Gaussian of the rank that the points have; a spread opens the last."""
    x = cloud(64, 4, device=device)
    x[:, 2] = 0.25 + spread * torch.randn(64, device=device)
    x.requires_grad_()
    target = cloud(64, 4, device=device) @ torch.randn(4, 4, device=device)
    loss = GaussianWassersteinLoss()
    optimiser = torch.optim.SGD([x], lr=16)
    for _ in range(100):
        optimiser.zero_grad()
        loss(x, target).backward()
        optimiser.step()
    least = torch.linalg.eigvalsh(torch.cov(target.mT.double(), correction=0))[0].item()
    assert loss(x, target).item() <= (1e-3 if spread else 1 + 1e-3) * least


@pytest.mark.parametrize("cls", EVERY)
def test_repr_shows_what_differs_from_the_defaults(cls):
    assert repr(cls()) == f"{cls.__name__}()"
    shown = repr(cls(correction=1, diagonal=True, reduction="sum"))
    assert shown == f"{cls.__name__}(correction=1, diagonal=True, reduction='sum')"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "max"}, "reduction must be one of 'none', 'mean', 'sum'; got 'max'"),
        ({"impl": "cuda"}, "impl must be one of 'torch', 'cpu', 'triton'; got 'cuda'"),
        ({"correction": -1}, "correction must be an integer >= 0; got -1"),
        ({"eps": -1.0}, "eps must be a number >= 0; got -1.0"),
        ({"diagonal": "yes"}, "diagonal must be True or False; got 'yes'"),
        ({"squared": 1}, "squared must be True or False; got 1"),
    ],
)
@pytest.mark.parametrize("cls", EVERY)
def test_bad_options_are_refused_when_made(cls, options, message):
    with pytest.raises(ValueError, match=f"^{cls.__name__}: {message}$"):
        cls(**options)
