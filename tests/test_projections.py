import math
import types

import pytest
import torch
from torch.quasirandom import SobolEngine

from otkernels import projections, sample_projections

METHODS = projections.METHODS
REPEATS = 1000


def draws(d, n, method, repeats=REPEATS, seed=0):
    """Independent draws (repeats, d, n) in float64."""
    generator = torch.Generator().manual_seed(seed)
    options = {"method": method, "generator": generator, "dtype": torch.float64}
    return torch.stack([sample_projections(d, n, **options) for _ in range(repeats)])


def z_scores(samples, expected):
    """Deviation of the mean over the first axis, in standard errors; exact ones count as 0."""
    error = (samples - expected).mean(0)
    spread = samples.std(0) / len(samples) ** 0.5
    return torch.where(error.abs() < 1e-14, 0, error / spread).abs()


def exponential_mean(a):
    """The mean of exp(a . theta) over the sphere of R^2, R^3 or R^4."""
    size = a.norm()
    if len(a) == 2:
        return torch.special.i0(size)
    return size.sinh() / size if len(a) == 3 else 2 * torch.special.i1(size) / size


# --- the law ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("d", "n"), [(1, 7), (2, 1), (3, 8), (5, 300), (70, 20)])
def test_columns_are_unit_vectors(d, n, dtype, method, device):
    theta = sample_projections(d, n, method=method, device=device, dtype=dtype)
    assert theta.shape == (d, n)
    assert theta.dtype == dtype
    assert theta.device.type == device.type
    assert theta.is_contiguous()
    ones = torch.ones(n, dtype=dtype, device=device)
    torch.testing.assert_close(theta.norm(dim=0), ones)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("d", "n"), [(1, 4), (2, 3), (3, 4), (5, 7)])
def test_each_column_is_uniform(d, n, method):
    """Moments of every single column, those of a block that was cut included."""
    theta = draws(d, n, method)
    second = torch.einsum("rin,rjn->rijn", theta, theta)
    assert z_scores(theta, 0).max() < 4.5
    assert z_scores(second, torch.eye(d).double().unsqueeze(-1) / d).max() < 4.5
    assert z_scores(theta**4, 3 / (d * (d + 2))).max() < 4.5


@pytest.mark.parametrize("method", METHODS)
def test_angles_in_the_plane_are_uniform(method):
    """Kolmogorov's test of the last of three columns, in all eight halves of the turn's digits."""
    plane = draws(2, 3, method)[..., -1]
    angle = torch.atan2(plane[:, 1], plane[:, 0]) / (2 * math.pi) + 0.5
    for scale in (1, 2, 4, 8):
        part = (angle * scale).frac().sort().values
        steps = torch.arange(1, REPEATS + 1) / REPEATS
        assert (part - steps).abs().max() * math.sqrt(REPEATS) < 1.95  # probability 0.001


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("d", [2, 3, 4])
def test_a_mean_over_directions_is_unbiased(d, method):
    """exp(a . theta) is neither even nor odd nor a polynomial, and its mean is known."""
    a = torch.tensor([1.5, -1.0, 0.5, 0.3])[:d].double()
    means = (a @ draws(d, 5, method, seed=1)).exp().mean(-1)
    assert z_scores(means, exponential_mean(a)) < 3.5


@pytest.mark.parametrize("method", METHODS)
def test_one_dimension_has_two_directions(method):
    theta = sample_projections(1, 1000, method=method)
    assert set(theta.unique().tolist()) == {-1.0, 1.0}
    assert abs(theta.mean()) < 0.15


def test_a_zero_draw_still_gives_a_direction(monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda *size, **_: torch.zeros(*size))
    theta = sample_projections(4, 3)
    torch.testing.assert_close(theta.norm(dim=0), torch.ones(3))


# --- orthogonal blocks --------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "n"), [(4, 3), (4, 4), (3, 11)])
def test_blocks_are_orthogonal(d, n):
    theta = sample_projections(d, n, method="orthogonal", dtype=torch.float64)
    gram = theta.T @ theta
    block = torch.arange(n) // d
    same = block[:, None] == block
    torch.testing.assert_close(gram[same], torch.eye(n).double()[same], rtol=0, atol=1e-14)
    assert (gram[~same].abs() > 1e-6).all()


def test_blocks_are_haar_distributed():
    """A block has trace 0 and squared trace 1 in the mean and determinant 1 half of the time."""
    blocks = draws(3, 3, "orthogonal")
    trace = blocks.diagonal(dim1=1, dim2=2).sum(-1)
    for samples, mean in ((trace, 0), (trace**2, 1), (torch.linalg.det(blocks), 0)):
        assert z_scores(samples, mean) < 3.5


def test_a_block_integrates_quadratic_forms_exactly():
    form = torch.randn(6, 6, dtype=torch.float64)
    theta = sample_projections(6, 12, method="orthogonal", dtype=torch.float64)
    mean = torch.einsum("il,ij,jl->l", theta, form, theta).mean()
    torch.testing.assert_close(mean, form.trace() / 6)


# --- Sobol' points ------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 3])
def test_sobol_has_one_direction_in_each_stratum(d):
    """Of n = 2^k: one in each of n zones of equal area of the half sphere, half of either sign."""
    n = 256
    theta = sample_projections(d, n, method="sobol", dtype=torch.float64)
    theta, positive = theta * theta[-1].sign(), theta[-1] > 0
    zone = theta[-1] if d == 3 else torch.atan2(theta[1], theta[0]) / math.pi
    assert torch.equal((zone * n).floor().sort().values, torch.arange(n).double())
    assert positive.sum() == n // 2


@pytest.mark.parametrize(
    ("method", "d", "steepest", "flattest"),
    [("gaussian", 3, -0.6, -0.4), ("orthogonal", 4, -0.6, -0.4),
     ("sobol", 2, -1.9, -1.35), ("sobol", 3, -1.4, -1.1), ("sobol", 4, -1.1, -0.8)],
)  # fmt: skip
def test_rate_of_the_error(method, d, steepest, flattest):
    """Slope of the root mean square error against n, for a function that is even, as costs are."""
    a = torch.linspace(0.5, 1.5, d).double()
    sizes = (16, 1024)
    errors = [(a @ draws(d, n, method, 200)).cosh().mean(-1) - exponential_mean(a) for n in sizes]
    rms = [e.square().mean().sqrt() for e in errors]
    slope = math.log(rms[1] / rms[0]) / math.log(sizes[1] / sizes[0])
    assert steepest < slope < flattest
    for e in errors:
        assert z_scores(e, 0) < 3.5


@pytest.mark.parametrize("end", [0, 1])
def test_sobol_is_finite_in_the_outermost_cells(end, monkeypatch):
    """Every random digit 0, or every one the highest there is."""
    corner = torch.full((4, 5), end * (1 - 2.0**-30), dtype=torch.float64)
    monkeypatch.setattr(SobolEngine, "draw", lambda *_, **__: corner)
    monkeypatch.setattr(
        torch, "randint", lambda high, size, **_: torch.full(size, end * (high - 1))
    )
    theta = projections._sobol(torch.tensor([1, 2]), 5, 4)
    expected = torch.full((5, 4), (2 * end - 1) / 5**0.5, dtype=torch.float64)
    torch.testing.assert_close(theta, expected)


def test_sobol_rounds_one_draw_to_either_dtype():
    narrow, wide = (
        sample_projections(6, 9, method="sobol", generator=torch.Generator(), dtype=dtype)
        for dtype in (torch.float32, torch.float64)
    )
    assert torch.equal(narrow, wide.float())


# --- contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_follows_the_global_seed_and_a_generator(method, device):
    def draw(generator=None):
        return sample_projections(4, 6, method=method, generator=generator, device=device)

    torch.manual_seed(5)
    first = draw()
    torch.manual_seed(5)
    assert torch.equal(first, draw())
    assert not torch.equal(first, draw())
    state = torch.get_rng_state()
    one, two = (draw(torch.Generator(device).manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("method", METHODS)
def test_compiles_to_one_graph(method, device):
    def project(x, n):
        return x @ sample_projections(x.shape[-1], n, method=method, device=device)

    compiled = torch.compile(project, fullgraph=True, backend="aot_eager", dynamic=False)
    for rows, d, n in ((2, 3, 8), (4, 5, 7)):
        x = torch.rand(rows, d, device=device)
        torch.manual_seed(3)
        expected = project(x, n)
        torch.manual_seed(3)
        assert torch.equal(compiled(x, n), expected)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 3), {}, r"sample_projections: d must be an integer >= 1; got 0"),
        ((3, 2.0), {}, r"n must be an integer >= 1; got 2.0"),
        ((3, True), {}, r"n must be an integer >= 1; got True"),
        ((3, 2), {"method": "halton"},
         r"method must be one of 'gaussian', 'orthogonal', 'sobol'; got 'halton'"),
        ((21202, 2), {"method": "sobol"},
         r"d must be at most 21201 with method='sobol'; got 21202"),
        ((2, 2**30 + 1), {"method": "sobol"}, r"n must be at most 1073741824 .*; got 1073741825"),
        ((3, 2), {"dtype": torch.float16}, r"dtype must be float32 or float64; got torch.float16"),
        ((3, 2), {"device": "meta", "generator": torch.Generator()},
         r"generator must be on device meta; got cpu"),
        ((3, 2), {"device": "cpu", "generator": types.SimpleNamespace(device="cuda:1")},
         r"generator must be on device cpu; got cuda:1"),
    ],
)  # fmt: skip
def test_error_messages(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        sample_projections(*arguments, **options)
