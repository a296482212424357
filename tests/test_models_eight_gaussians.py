import math

import pytest
import torch

from models.data import DATA, EightGaussians
from models.errors import InputError
from models.modes import mode_figures


def test_points_are_an_even_mixture_of_round_gaussians():
    data = EightGaussians(n_train=40_000)
    points, labels = data.train[:]
    assert points.shape == (40_000, 2)
    assert (labels.bincount() / 40_000 - 1 / 8).abs().max() < 5 * (7 / 64 / 40_000) ** 0.5
    residuals = points - data.modes[labels]
    assert residuals.mean(0).abs().max() < 5 * 0.1 / 200
    assert (residuals.T.cov() - 0.01 * torch.eye(2)).abs().max() < 5 * 0.01 * (2 / 40_000) ** 0.5


def test_modes_lie_evenly_on_the_circle():
    data = EightGaussians(n_train=100, radius=3.0, sd=0.5)
    torch.testing.assert_close(data.modes.norm(dim=1), torch.full((8,), 3.0))
    gaps = (data.modes - data.modes.roll(1, 0)).norm(dim=1)
    torch.testing.assert_close(gaps, torch.full((8,), 6 * math.sin(math.pi / 8)))
    points, labels = data.test[:]
    spread = (points - data.modes[labels]).square().mean().sqrt()
    assert abs(spread - 0.5) < 5 * 0.5 / (2 * 2000) ** 0.5


def test_splits_are_fixed_distinct_and_independent_of_each_other_and_of_the_seed():
    torch.manual_seed(5)
    first, second = EightGaussians(), EightGaussians(n_train=500)
    assert torch.equal(first.test[:][0], second.test[:][0])
    assert torch.equal(first.train[:][0], EightGaussians().train[:][0])
    assert (len(first.train), len(first.test)) == (2000, 1000)
    train, test = first.train[:][0], first.test[:][0]
    assert not (train[:, None] == test).all(2).any()


def test_batches_and_settings():
    data = EightGaussians(batch_size=64, n_train=200)
    shapes = [points.shape for points, _ in data.train_dataloader()]
    assert shapes == [(64, 2)] * 3
    assert EightGaussians(**data.hparams).modes.equal(data.modes)
    assert DATA["EightGaussians"].shape == (2,)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("n_train", 0), ("n_test", 0), ("radius", 0.0), ("sd", -1.0), ("sd", math.inf)],
)
def test_bad_settings(argument, value):
    with pytest.raises(InputError, match=f"EightGaussians: {argument} must .*; got {value}"):
        EightGaussians(**{argument: value})


# --- figures of modes -----------------------------------------------------------------------------


def test_mode_figures_of_the_data_themselves():
    data = EightGaussians(n_test=20_000)
    figures = mode_figures(data.test[:][0], data.modes, data.sd)
    assert figures["modes"] == 8
    inside = 1 - math.exp(-9 / 2)  # of a round Gaussian of the plane
    assert abs(figures["within"] - inside) < 5 * (inside * (1 - inside) / 20_000) ** 0.5
    assert figures["tv"] < 0.01


def test_mode_figures_of_collapse_and_bridges():
    data = EightGaussians()
    one = mode_figures(data.modes[:1].repeat(100, 1), data.modes, data.sd)
    assert one == {"modes": 1, "within": 1.0, "tv": pytest.approx(7 / 8)}
    bridges = mode_figures((data.modes + data.modes.roll(1, 0)) / 2, data.modes, data.sd)
    assert bridges["modes"] == 0
    assert bridges["within"] == 0.0


def test_a_mode_needs_more_than_two_per_cent_within_three_sd():
    data = EightGaussians()
    most = data.modes[:1].repeat(98, 1)
    for distance, n, expected in [(2.9, 2, 1), (2.9, 3, 2), (3.1, 3, 1)]:
        few = data.modes[4:5].repeat(n, 1) + torch.tensor([distance * data.sd, 0.0])
        figures = mode_figures(torch.cat([most[: 100 - n], few]), data.modes, data.sd)
        assert figures["modes"] == expected
