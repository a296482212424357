"""Distances of the Gaussians fitted to samples: values and gradients, weights, lengths, ranks."""

import pytest
import torch
from gaussian_oracle import VALUE, cloud, moments, root, truth
from impls import IMPLS, QUICK, every, slow
from support import value_and_grads

from otkernels import (
    bures_wasserstein,
    gaussian_wasserstein,
    gaussian_wasserstein_to_normal,
)

close = torch.testing.assert_close


def normal_moments(d):
    return torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)


def sample_gradient(x, grad_mean, grad_cov, masses=None, correction=0):
    """Gradient to the points of what has the given gradients to their mean and covariance."""
    n = x.shape[-2]
    mean, _ = moments(x, masses)
    masses = torch.full((n,), 1 / n).double() if masses is None else masses.double().cpu()
    masses = (masses / masses.sum(-1, keepdim=True))[..., None]
    count = (masses > 0).sum(-2, keepdim=True)
    gap = x.double().cpu() - mean[..., None, :]
    factor = count / (count - correction)
    return masses * (grad_mean[..., None, :] + 2 * factor * gap @ grad_cov)


def near(actual, expected, bound=1e-5):
    """Within a part of the largest gradient, which that of equal means would be without."""
    error = (actual.double().cpu() - expected).abs().max()
    assert error <= bound * expected.abs().max(), (error / expected.abs().max()).item()


def check(impl, x, y, masses=(None, None), correction=0, eps=0.0, **options):
    fits = [moments(t, m, correction) for t, m in zip((x, y), masses, strict=True)]
    ridge = eps * torch.eye(x.shape[-1], dtype=torch.float64)
    given = [part for mean, cov in fits for part in (mean, cov + ridge)]
    value, *grads, traces = truth(*given)
    more = {"correction": correction, "eps": eps, "impl": impl} | options
    actual, *of_points = value_and_grads(lambda x, y: gaussian_wasserstein(x, y, **more), x, y)
    assert ((actual.double().cpu() - value).abs() <= VALUE * (traces + value)).all()
    eps_in = torch.finfo(x.dtype).eps
    for k, points in enumerate((x, y)):
        expected = sample_gradient(points, *grads[2 * k : 2 * k + 2], masses[k], correction)
        near(of_points[k], expected, 1e-5 + eps_in)


# (n, m, d, batch)
SHAPES = [
    (2, 3, 1, ()),
    (9, 12, 4, (2,)),
    (40, 30, 16, (2, 1)),
    (200, 131, 33, ()),
    (300, 200, 65, ()),
]


@pytest.mark.parametrize(
    ("impl", "shape"), every(zip(SHAPES), interpreted=[((7, 5, 2, (2,)),)]), ids=str
)
@pytest.mark.parametrize("correction", [0, 1])
def test_shapes(impl, shape, correction, device):
    n, m, d, batch = shape
    if slow(impl) and correction:
        pytest.skip("the interpreter takes seconds")
    check(
        impl,
        cloud(*batch, n, d, device=device),
        cloud(*batch, m, d, device=device) + 1,
        correction=correction,
    )


@pytest.mark.parametrize("impl", QUICK)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(impl, dtype, device):
    check(impl, *(cloud(n, 5, dtype=dtype, device=device) for n in (30, 20)))


@pytest.mark.parametrize("impl", QUICK)
def test_weights(impl, device):
    x, y = cloud(2, 30, 4, device=device), cloud(25, 4, device=device)
    a = torch.rand(2, 30, device=device)
    b = torch.rand(25, device=device).half()
    a[:, 3] = 0
    for correction in (0, 1):
        check(impl, x, y.expand(2, 25, 4), (a, b.expand(2, 25)), correction, a=a, b=b)


@pytest.mark.parametrize("impl", QUICK)
def test_gradient_to_weights(impl, device):
    x, y = (cloud(n, 3, dtype=torch.float64, device=device) for n in (6, 7))
    a, b = (torch.rand(n, device=device, dtype=torch.float64) + 0.1 for n in (6, 7))
    given = [t.requires_grad_() for t in (x, y, a, b)]
    for options in ({}, {"correction": 1, "eps": 0.1}, {"diagonal": True}):

        def cost(x, y, a, b, options=options):
            return gaussian_wasserstein(x, y, a=a, b=b, impl=impl, **options)

        assert torch.autograd.gradcheck(cost, given)
        if impl == "torch":
            assert torch.autograd.gradgradcheck(cost, given)
        assert torch.autograd.gradcheck(
            lambda x, a, o=options: gaussian_wasserstein_to_normal(x, a=a, impl=impl, **o),
            (given[0], given[2]),
        )


@pytest.mark.parametrize("impl", QUICK)
def test_gradient_to_a_weight_of_0_of_few_points(impl, device):
    """A point within the plane of the others takes mass from them at a finite rate."""
    x, y = (cloud(n, 5, dtype=torch.float64, device=device) for n in (4, 9))
    x[3] = (x[0] + x[1] + x[2]) / 3 + (x[0] - x[1]) / 2

    def cost(a):
        return gaussian_wasserstein(x, y, a=a, impl=impl)

    a = torch.tensor([1.0, 2.0, 1.5, 0.0], dtype=torch.float64, device=device)
    value, grad = value_and_grads(cost, a)
    step = 1e-6
    moved = a + step * torch.tensor([0, 0, 0, 1.0], device=device)
    assert grad.isfinite().all()
    assert grad[3].item() == pytest.approx(((cost(moved) - value) / step).item(), rel=1e-3)


@pytest.mark.parametrize("impl", QUICK)
@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize(("n", "m", "d"), [(4, 5, 9), (4, 20, 9), (20, 4, 9), (9, 9, 9), (1, 3, 2)])
def test_ranks_below_the_dimension(impl, n, m, d, correction, device):
    """Without a ridge, against the nuclear norm of the products of the centred points."""
    if n <= correction:
        pytest.skip("no covariance")
    x, y = cloud(n, d, device=device), cloud(m, d, device=device)

    def by_points(x, y):
        gaps = [t - t.mean(-2, keepdim=True) for t in (x, y)]
        rows = [g / (len(g) - correction) ** 0.5 for g in gaps]
        root_ = torch.linalg.svdvals(rows[0] @ rows[1].mT).sum()
        mean = (x.mean(-2) - y.mean(-2)).square().sum()
        return mean + sum(r.square().sum() for r in rows) - 2 * root_

    def gradient(x, y):
        gaps = [t - t.mean(-2, keepdim=True) for t in (x, y)]
        rows = [g / (len(g) - correction) ** 0.5 for g in gaps]
        product = rows[0] @ rows[1].mT
        left, values, right = torch.linalg.svd(product, full_matrices=False)
        kept = values > 1e-10 * values[:1]
        polar = (left * kept) @ right
        shift = 2 * (x.mean(-2) - y.mean(-2))
        grads = 2 * (rows[0] - polar @ rows[1]), 2 * (rows[1] - polar.mT @ rows[0])
        # A gradient to rows, as one to points: their mean is taken away.
        return [
            (g - g.mean(-2, keepdim=True)) / (k - correction) ** 0.5 + sign * shift / k
            for g, k, sign in zip(grads, (n, m), (1, -1), strict=True)
        ]

    wide = x.double().cpu(), y.double().cpu()
    value, *grads = value_and_grads(
        lambda x, y: gaussian_wasserstein(x, y, correction=correction, impl=impl), x, y
    )
    expected = by_points(*wide)
    assert abs(value.item() - expected) <= VALUE * (expected + 18 * d)
    for actual, wanted in zip(grads, gradient(*wide), strict=True):
        near(actual, wanted)


@pytest.mark.parametrize("impl", IMPLS)
def test_few_points_are_interpreted_too(impl, device):
    """Rows against rows, rows against a covariance and against the normal, on all impls."""
    x, y, z = (cloud(n, 4, device=device) for n in (2, 3, 6))
    for pair in ((x, y), (x, z), (z, x)):
        results = [
            value_and_grads(lambda u, v, i=i: gaussian_wasserstein(u, v, impl=i), *pair)
            for i in (impl, "torch")
        ]
        for actual, expected in zip(*results, strict=True):
            close(actual, expected, rtol=1e-4, atol=1e-4)
    results = [
        value_and_grads(lambda u, i=i: gaussian_wasserstein_to_normal(u, impl=i), x)
        for i in (impl, "torch")
    ]
    for actual, expected in zip(*results, strict=True):
        close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kind", ["constant", "repeated"])
def test_degenerate_features(impl, kind, device):
    """Gradients are finite and, by finite differences of the definition, exact where they exist."""
    x, y = (cloud(n, 3, dtype=torch.float64, device=device) for n in (7, 8))
    x[:, 1] = 1.5 if kind == "constant" else x[:, 0]
    value, grad, _ = value_and_grads(lambda x, y: gaussian_wasserstein(x, y, impl=impl), x, y)
    assert grad.isfinite().all()
    # What moves points within the directions that they have, and as a whole, has a derivative.
    moves = torch.randn_like(x)
    moves[:, 1] = 0.5 if kind == "constant" else moves[:, 0]
    # A smaller spread is lost in the rounding of the covariance, a larger one is a second order.
    step = 2e-5
    sides = [gaussian_wasserstein(x + s * moves, y, impl="torch") for s in (step, -step)]
    slope = (sides[0] - sides[1]) / (2 * step)
    assert (grad * moves).sum().item() == pytest.approx(slope.item(), rel=1e-6)
    # A move out of them changes the value by the mixed block, up to a kink of even order.
    out = torch.zeros_like(x)
    out[:, 1] = torch.randn(len(x))
    sides = [gaussian_wasserstein(x + s * out, y, impl="torch") for s in (step, -step)]
    slope = (sides[0] - sides[1]) / (2 * step)
    assert (grad * out).sum().item() == pytest.approx(slope.item(), rel=1e-3)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("n", "d"), [(30, 4), (3, 5)])
def test_distance_of_a_cloud_to_itself(impl, n, d, device):
    """Also far from the origin, where its coordinates have few digits left."""
    for offset in (0, 1000):
        x = cloud(n, d, device=device) + offset
        value, *grads = value_and_grads(
            lambda x, y: gaussian_wasserstein(x, y, impl=impl), x, x.clone()
        )
        trace = moments(x)[1].trace()
        assert abs(value) <= 1e-6 * trace
        for grad in grads:
            assert grad.abs().max() <= 1e-5
        assert gaussian_wasserstein(x, x, squared=False, impl=impl).isfinite()


@pytest.mark.parametrize("impl", QUICK)
def test_offsets_cost_no_accuracy(impl, device):
    x, y = cloud(50, 4, device=device), cloud(40, 4, device=device)
    check(impl, x + 4096, y + 4096)
    check(impl, x - 4096, y + 4096)


@pytest.mark.parametrize("impl", QUICK)
def test_eps_is_added_to_both(impl, device):
    x, y = cloud(20, 3, device=device), cloud(15, 3, device=device)
    check(impl, x, y, eps=0.5)
    few = cloud(2, 3, device=device)
    mean, cov = moments(few)
    value = gaussian_wasserstein(few, y, eps=0.5, impl=impl)
    ridge = torch.eye(3).double() / 2
    of_y = moments(y)
    expected, *_ = truth(mean, cov + ridge, of_y[0], of_y[1] + ridge)
    close(value.double().cpu(), expected, rtol=1e-5, atol=1e-5)
    diagonal = gaussian_wasserstein(x, y, eps=0.5, diagonal=True, impl=impl)
    stds = [(moments(t)[1].diagonal() + 0.5).sqrt() for t in (x, y)]
    gap = moments(x)[0] - moments(y)[0]
    close(diagonal.double().cpu(), gap.square().sum() + (stds[0] - stds[1]).square().sum(),
          rtol=1e-6, atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("impl", QUICK)
def test_diagonal_is_blind_to_correlation(impl, device):
    x, y = cloud(2, 20, 3, device=device), cloud(15, 3, device=device)
    value, *grads = value_and_grads(
        lambda x, y: gaussian_wasserstein(x, y, diagonal=True, correction=1, impl=impl), x, y
    )
    leaves = [t.double().cpu().requires_grad_() for t in (x, y)]
    gap = leaves[0].mean(-2) - leaves[1].mean(-2)
    stds = leaves[0].std(-2), leaves[1].std(-2)
    expected = gap.square().sum(-1) + (stds[0] - stds[1]).square().sum(-1)
    close(value.double().cpu(), expected.detach(), rtol=1e-6, atol=1e-6)
    expected.sum().backward()
    for actual, leaf in zip(grads, leaves, strict=True):
        near(actual, leaf.grad, 1e-6)


@pytest.mark.parametrize(
    ("impl", "shape"), every(zip([(20, 1), (2, 30, 5), (100, 40), (3, 7)]), interpreted=[((5, 2),)])
)
def test_to_normal(impl, shape, device):
    x = cloud(*shape, device=device)
    for correction in (0, 1):
        mean, cov = moments(x, correction=correction)
        values = torch.linalg.eigvalsh(cov).clamp(min=0)
        expected = mean.square().sum(-1) + (values.sqrt() - 1).square().sum(-1)
        value, grad = value_and_grads(
            lambda x, c=correction: gaussian_wasserstein_to_normal(x, correction=c, impl=impl), x
        )
        size = values.sum(-1) + shape[-1] + expected
        assert ((value.double().cpu() - expected).abs() <= VALUE * size).all()
        inverse = root(cov, -0.5, cutoff=1e-12)
        by_cov = torch.eye(shape[-1]).double() - inverse
        near(grad, sample_gradient(x, 2 * mean, by_cov, correction=correction))


@pytest.mark.parametrize("impl", QUICK)
def test_to_normal_is_the_distance_to_its_moments(impl, device):
    x = cloud(2, 20, 4, device=device)
    mean, cov = (t.float().to(device) for t in moments(x))
    zero, one = (t.float().to(device) for t in normal_moments(4))
    close(
        gaussian_wasserstein_to_normal(x, impl=impl),
        bures_wasserstein(mean, cov, zero, one, impl=impl),
        rtol=1e-5,
        atol=1e-5,
    )
    values = gaussian_wasserstein_to_normal(x, squared=False, impl=impl)
    total = gaussian_wasserstein_to_normal(x, squared=False, reduction="sum", impl=impl)
    close(total, values.sum())
    diagonal = gaussian_wasserstein_to_normal(x, diagonal=True, eps=0.25, impl=impl)
    stds = (moments(x)[1].diagonal(dim1=-2, dim2=-1) + 0.25).sqrt()
    expected = moments(x)[0].square().sum(-1) + (stds - 1).square().sum(-1)
    close(diagonal.double().cpu(), expected, rtol=1e-6, atol=1e-6)


# --- lengths and bad values ---------------------------------------------------------------------


@pytest.mark.parametrize("impl", QUICK)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -1e30])
@pytest.mark.parametrize("d", [2, 8])
def test_padding_is_never_read(impl, poison, d, device):
    x, y = cloud(2, 6, d, device=device), cloud(2, 7, d, device=device)
    x_lengths, y_lengths = (torch.tensor(t, device=device) for t in ([6, 4], [3, 7]))
    x[1, 4:], y[0, 3:] = poison, poison

    def cost(x, y, **more):
        return gaussian_wasserstein(x, y, correction=1, impl=impl, **more)

    value, *grads = value_and_grads(
        lambda x, y: cost(x, y, x_lengths=x_lengths, y_lengths=y_lengths), x, y
    )
    for k, sizes in enumerate(zip(x_lengths, y_lengths, strict=True)):
        cut = [t[k, :size] for t, size in zip((x, y), sizes, strict=True)]
        alone = value_and_grads(cost, *cut)
        close(value[k], alone[0], rtol=1e-5, atol=1e-5)
        for grad, size, expected in zip(grads, sizes, alone[1:], strict=True):
            close(grad[k, :size], expected, rtol=1e-4, atol=1e-4)
            assert not grad[k, size:].any()
    normal = gaussian_wasserstein_to_normal(x, x_lengths=x_lengths, impl=impl)
    close(normal[1], gaussian_wasserstein_to_normal(x[1, :4], impl=impl), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("d", [2, 6])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_no_number_stays_in_its_problem(impl, d, bad, device):
    x, y = cloud(2, 4, d, device=device), cloud(2, 5, d, device=device)

    def cost(x, y):
        return gaussian_wasserstein(x, y, impl=impl)

    untouched = value_and_grads(cost, x, y)
    x[1, 2, 0] = bad
    for actual, expected in zip(value_and_grads(cost, x, y), untouched, strict=True):
        assert not actual[1].isfinite().any()
        close(actual[0], expected[0], rtol=0, atol=0)
    value, grad = value_and_grads(lambda x: gaussian_wasserstein_to_normal(x, impl=impl), x)
    assert value.isfinite().tolist() == [True, False]
    assert not grad[1].isfinite().any()


@pytest.mark.parametrize("impl", QUICK)
@pytest.mark.parametrize("wrong", [-1.0, torch.nan, 0.0])
def test_wrong_weights_make_their_problem_nan(impl, wrong, device):
    x, y = cloud(2, 4, 2, device=device), cloud(5, 2, device=device)
    a = torch.rand(2, 4, device=device) + 0.1
    a[1] = wrong
    value, *grads = value_and_grads(lambda x, a: gaussian_wasserstein(x, y, a=a, impl=impl), x, a)
    assert value.isnan().tolist() == [False, True]
    for grad in grads:
        assert grad[0].isfinite().all()
        assert grad[1].isnan().all()


@pytest.mark.parametrize("impl", QUICK)
@pytest.mark.parametrize("options", [{}, {"diagonal": True}, {"eps": 1.0}])
def test_no_more_points_than_the_correction_are_nan(impl, options, device):
    """Where it cannot be read from the shapes."""
    x, y = cloud(3, 4, 2, device=device), cloud(5, 2, device=device)
    a = torch.ones(3, 4, device=device)
    a[1, 1:] = 0
    lengths = torch.tensor([2, 4, 1], device=device)
    for given, expected in (({"a": a}, [1]), ({"x_lengths": lengths}, [2])):
        value = gaussian_wasserstein(x, y, correction=1, impl=impl, **given, **options)
        assert value.isnan().nonzero().flatten().tolist() == expected
        few = gaussian_wasserstein_to_normal(x, correction=1, impl=impl, **given, **options)
        assert few.isnan().nonzero().flatten().tolist() == expected


# --- hard cases ---------------------------------------------------------------------------------


def by_singular_values(x, y, correction=0):
    """Value and gradient to x, float64, from the singular values of the centred points' product.

    Directions in which both extend by rounding only have no part.
    """
    rows = [t.double().cpu() - t.double().cpu().mean(-2, keepdim=True) for t in (x, y)]
    rows = [r / (r.shape[-2] - correction) ** 0.5 for r in rows]
    left, values, right = torch.linalg.svd(rows[0] @ rows[1].mT, full_matrices=False)
    kept = values > 1e-10 * values[..., :1]
    polar = (left * kept[..., None, :]) @ right
    shift = x.double().cpu().mean(-2, keepdim=True) - y.double().cpu().mean(-2, keepdim=True)
    value = shift.square().sum((-2, -1)) - 2 * values.sum(-1)
    value = value + sum(r.square().sum((-2, -1)) for r in rows)
    grad = 2 * (rows[0] - polar @ rows[1])
    n = x.shape[-2]
    grad = (grad - grad.mean(-2, keepdim=True)) / (n - correction) ** 0.5 + 2 * shift / n
    return value, grad


@pytest.mark.parametrize("impl", QUICK)
@pytest.mark.parametrize(("d", "problems"), [(4, 200), (8, 200), (32, 20)])
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_about_as_many_points_as_features(impl, d, problems, extra, device):
    """N = D has rank D - 1, which pivots of a factor do not always show."""
    x = torch.randn(problems, d + extra, d, device=device)
    y = 1.5 * torch.randn(problems, 3 * d, d, device=device)
    value, expected = by_singular_values(x, y)
    actual, grad, _ = value_and_grads(lambda x, y: gaussian_wasserstein(x, y, impl=impl), x, y)
    close(actual.double().cpu(), value, rtol=1e-5, atol=1e-5)
    sizes = expected.abs().amax((-2, -1))
    errors = (grad.double().cpu() - expected).abs().amax((-2, -1)) / sizes
    assert errors.max() <= 1e-4, errors.max()


@pytest.mark.parametrize("impl", QUICK)
@pytest.mark.parametrize("spread", [1e-3, 1e-4, 1e-5, 1e-6])
def test_nearly_collapsed_direction(impl, spread, device):
    """In a rotated basis. A covariance in float64 knows the square of the spread to its eps."""
    d = 8
    scales = torch.ones(d, dtype=torch.float64)
    scales[3] = spread
    turn = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q
    x = ((torch.randn(20, 100, d, dtype=torch.float64) * scales) @ turn).float().to(device)
    y = torch.randn(20, 100, d, device=device)
    _, expected = by_singular_values(x, y)
    _, grad, _ = value_and_grads(lambda x, y: gaussian_wasserstein(x, y, impl=impl), x, y)
    errors = (grad.double().cpu() - expected).abs().amax((-2, -1))
    bound = 1e-4 + 4 * torch.finfo(torch.float64).eps / spread**2
    assert (errors / expected.abs().amax((-2, -1))).max() <= bound
