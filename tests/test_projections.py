import math

import pytest
import torch

from otkernels import sample_projections


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("d", "n"), [(1, 7), (2, 1), (5, 300)])
def test_columns_are_unit_vectors(d, n, dtype, device):
    theta = sample_projections(d, n, device=device, dtype=dtype)
    assert theta.shape == (d, n)
    assert theta.dtype == dtype
    ones = torch.ones(n, dtype=dtype, device=device)
    torch.testing.assert_close(theta.norm(dim=0), ones)


def test_uniform_on_the_sphere():
    """First two moments and, in the plane, the angle."""
    n = 20000
    theta = sample_projections(4, n, dtype=torch.float64)
    assert theta.mean(1).norm() < 4 / math.sqrt(n)
    assert ((theta @ theta.T) / n - torch.eye(4) / 4).abs().max() < 4 * 0.25 / math.sqrt(n)
    plane = sample_projections(2, n, dtype=torch.float64)
    angle = torch.atan2(plane[1], plane[0]) / (2 * math.pi) + 0.5
    steps = torch.arange(1, n + 1) / n
    kolmogorov = (angle.sort().values - steps).abs().max() * math.sqrt(n)
    assert kolmogorov < 1.63  # exceeded with probability 0.01


def test_one_dimension_has_two_directions():
    theta = sample_projections(1, 1000)
    assert set(theta.unique().tolist()) == {-1.0, 1.0}
    assert abs(theta.mean()) < 0.15


def test_a_zero_draw_still_gives_a_direction(monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda *size, **_: torch.zeros(*size))
    theta = sample_projections(4, 3)
    torch.testing.assert_close(theta.norm(dim=0), torch.ones(3))


def test_follows_the_global_seed_and_a_generator(device):
    def draw(generator=None):
        return sample_projections(3, 4, generator=generator, device=device)

    torch.manual_seed(5)
    first = draw()
    torch.manual_seed(5)
    assert torch.equal(first, draw())
    assert not torch.equal(first, draw())
    one, two = (draw(torch.Generator(device).manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 3), {}, r"sample_projections: d must be an integer >= 1; got 0"),
        ((3, 2.0), {}, r"n must be an integer >= 1; got 2.0"),
        ((3, True), {}, r"n must be an integer >= 1; got True"),
        ((3, 2), {"method": "sobol"}, r"method must be one of 'gaussian'; got 'sobol'"),
        ((3, 2), {"dtype": torch.float16}, r"dtype must be float32 or float64; got torch.float16"),
        ((3, 2), {"device": "meta", "generator": torch.Generator()},
         r"generator must be on device meta; got cpu"),
    ],
)  # fmt: skip
def test_error_messages(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        sample_projections(*arguments, **options)
