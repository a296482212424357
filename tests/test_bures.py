"""Distances and maps between Gaussians of given moments: values and gradients."""

import pytest
import torch
from gaussian_oracle import GRADIENT, VALUE, close_gradient, covariance, means, root, truth
from impls import FAST, IMPLS, QUICK, every, slow
from support import value_and_grads

from otkernels import bures_wasserstein, bures_wasserstein_with_info, gaussian_map

close = torch.testing.assert_close


def problem(*shape, condition=10.0, dtype=torch.float32, device="cpu"):
    """Two Gaussians (*shape)."""
    given = []
    for _ in range(2):
        given.append(means(*shape, dtype=dtype, device=device))
        given.append(covariance(*shape, condition=condition, dtype=dtype, device=device))
    return given


def check(impl, given, gradient=1e-5):
    """Value and gradients, float32-grade, against the formula on the same rounded inputs."""
    value, mean_x, cov_x, mean_y, cov_y, traces = truth(*given)
    results = value_and_grads(lambda *t: bures_wasserstein(*t, impl=impl), *given)
    assert results[0].dtype == torch.float32
    scale = traces + value
    assert ((results[0].double().cpu() - value).abs() <= VALUE * scale).all()
    eps = torch.finfo(given[0].dtype).eps
    for actual, expected in ((results[1], mean_x), (results[3], mean_y)):
        close(actual.double().cpu(), expected, rtol=2 * eps, atol=0)
    for actual, expected in ((results[2], cov_x), (results[4], cov_y)):
        assert actual.dtype == given[0].dtype
        assert torch.equal(actual, actual.mT)
        close_gradient(actual, expected, gradient + eps)


SHAPES = [(1,), (2, 1), (2,), (3,), (3, 2, 5), (2, 7), (33,), (2, 64), (129,)]
TINY = [((1,),), ((5, 2),), ((3,),), ((17,),)]


@pytest.mark.parametrize(("impl", "shape"), every(zip(SHAPES), interpreted=TINY), ids=str)
def test_shapes(impl, shape, device):
    check(impl, problem(*shape, device=device))


@pytest.mark.parametrize(
    ("impl", "condition", "d"),
    every([(1e4, 4), (1e4, 60), (1e6, 4), (1e6, 60)], interpreted=[(1e4, 4), (1e6, 9)]),
)
def test_condition(impl, condition, d, device):
    check(impl, problem(3, d, condition=condition, device=device), GRADIENT[condition])


@pytest.mark.parametrize("impl", QUICK)
def test_float64_is_honoured(impl, device):
    given = problem(2, 6, condition=100.0, dtype=torch.float64, device=device)
    value, *grads, traces = truth(*given)
    results = value_and_grads(lambda *t: bures_wasserstein(*t, impl=impl), *given)
    assert ((results[0].cpu() - value).abs() <= 1e-14 * (traces + value)).all()
    for actual, expected in zip((results[2], results[4]), (grads[1], grads[3]), strict=True):
        close_gradient(actual, expected, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("impl", QUICK)
def test_half_types(impl, dtype, device):
    check(impl, problem(2, 4, dtype=dtype, device=device))


@pytest.mark.parametrize("impl", QUICK)
def test_gradients_of_halves_are_rounded_once(impl, device):
    """I - T is small where I and T are not, here by a factor of 100."""
    given = problem(4, 5, condition=2.0, dtype=torch.float16, device=device)
    given[3] = (given[1].float() * 1.02).half()
    _, _, of_x, _, of_y, _ = truth(*given)
    _, _, grad_x, _, grad_y = value_and_grads(lambda *t: bures_wasserstein(*t, impl=impl), *given)
    eps = torch.finfo(torch.float16).eps
    for actual, expected in ((grad_x, of_x), (grad_y, of_y)):
        assert expected.abs().max() < 0.05
        close(actual.double().cpu(), expected, rtol=eps, atol=1e-6)


@pytest.mark.parametrize("impl", QUICK)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scales_in_one_batch(impl, scale, device):
    given = problem(3, 5, device=device)
    factors = torch.tensor([1.0, scale, 1 / scale], device=device)
    given = [t * factors[(...,) + (None,) * (t.dim() - 1)] for t in given]
    given[0], given[2] = given[0] * 0, given[2] * 0  # so that the value is of the covariances' size
    value, _, cov_x, _, cov_y, traces = truth(*given)
    results = value_and_grads(lambda *t: bures_wasserstein(*t, impl=impl), *given)
    assert ((results[0].double().cpu() - value).abs() <= VALUE * traces).all()
    for actual, expected in ((results[2], cov_x), (results[4], cov_y)):
        close_gradient(actual, expected, 1e-5)


@pytest.mark.parametrize(("impl", "d"), every([(1,), (5,), (70,)], interpreted=[(5,)]))
def test_equal_gaussians(impl, d, device):
    """Where the gradient of other solvers is NaN."""
    mean, cov = means(2, d, device=device), covariance(2, d, device=device)
    given = [t.float() for t in (mean, cov, mean, cov)]
    value, *grads = value_and_grads(lambda *t: bures_wasserstein(*t, impl=impl), *given)
    assert (value.abs() <= VALUE * 2 * torch.einsum("bii->b", given[1])).all()
    for grad in grads:
        assert grad.abs().max() <= 1e-5
    for squared in (True, False):
        again = bures_wasserstein(*given, squared=squared, impl=impl)
        assert again.isfinite().all()


@pytest.mark.parametrize("impl", IMPLS)
def test_equal_eigenvalues(impl, device):
    one = torch.eye(4, device=device).expand(2, 4, 4)
    zero = torch.zeros(2, 4, device=device)
    value, _, grad_x, _, grad_y = value_and_grads(
        lambda *t: bures_wasserstein(*t, impl=impl), zero, 4 * one, zero, one
    )
    close(value, torch.full_like(value, 4.0))
    close(grad_x, one / 2)  # I - T with T = 1/2 from x to y
    close(grad_y, -one)


def singular_truth(cov_x, cov_y):
    """Gradient to a singular cov_x: I - T, T = 0 between two directions that leave its range."""
    half, inverse = root(cov_x, cutoff=1e-9), root(cov_x, -0.5, cutoff=1e-9)
    # x moves to its image; what a direction outside of the range adds to it is known only where
    # it meets the range.
    inside = half @ inverse
    middle = root(half @ cov_y @ half, cutoff=1e-9)
    along = inverse @ middle @ inverse
    across = cov_y @ half @ root(half @ cov_y @ half, -0.5, cutoff=1e-9) @ inverse
    one = torch.eye(cov_x.shape[-1], dtype=torch.float64)
    mixed = (one - inside) @ across @ inside
    return one - (along + mixed + mixed.mT)


@pytest.mark.parametrize(
    ("impl", "d", "rank"),
    every([(4, 2), (6, 1), (8, 7), (40, 20)], interpreted=[(4, 2), (3, 1)]),
)
def test_singular_covariances(impl, d, rank, device):
    """Whose entries are integers, so that they are singular in float32 too."""
    factor = torch.randint(-4, 5, (d, rank)).double()
    cov_x = factor @ factor.mT
    factor = torch.randint(-4, 5, (d, 2 * d)).double()
    cov_y = factor @ factor.mT
    assert torch.linalg.matrix_rank(cov_y) == d
    half = root(cov_x, cutoff=1e-9)
    root_of_middle = root(half @ cov_y @ half, cutoff=1e-9)
    traces = cov_x.trace() + cov_y.trace()
    expected = traces - 2 * root_of_middle.trace()
    zero = torch.zeros(d, dtype=torch.float64)
    given = [t.float().to(device) for t in (zero, cov_x, zero, cov_y)]
    value, _, grad_x, _, grad_y = value_and_grads(
        lambda *t: bures_wasserstein(*t, impl=impl), *given
    )
    assert abs(value.item() - expected) <= VALUE * traces
    close_gradient(grad_x, singular_truth(cov_x, cov_y), 1e-5)
    back = half @ root(half @ cov_y @ half, -0.5, cutoff=1e-9) @ half
    close_gradient(grad_y, torch.eye(d).double() - back, 1e-5)


@pytest.mark.parametrize("impl", QUICK)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("d", "problems"), [(4, 300), (8, 300), (32, 30)])
def test_rank_one_below_the_dimension(impl, dtype, d, problems, device):
    """Rounded products of points: no pivot of theirs is 0, and some are not even small."""
    x = torch.randn(problems, d - 1, d, dtype=torch.float64, device=device)
    y = torch.randn(problems, 3 * d, d, dtype=torch.float64, device=device)
    cov_x, cov_y = ((t.mT @ t / d).to(dtype) for t in (x, y))
    zero = torch.zeros(problems, d, dtype=dtype, device=device)
    results = [
        value_and_grads(lambda *t, i=i: bures_wasserstein(*t, impl=i), zero, cov_x, zero, cov_y)
        for i in (impl, "torch")
    ]
    # The range is known to the rounding of the entries, magnified by the smallest eigenvalue.
    least = torch.linalg.eigvalsh(cov_x.double())[:, 1] / d
    bound = 100 * torch.finfo(dtype).eps / least.clamp(max=1)
    for k in (2, 4):
        actual, expected = (r[k].double() for r in results)
        error = torch.linalg.matrix_norm(actual - expected) / torch.linalg.matrix_norm(expected)
        assert (error <= bound).all(), (error / bound).max()


@pytest.mark.parametrize("impl", IMPLS)
def test_zero_covariances(impl, device):
    """Points without spread: 2 tr S for the other, and no gradient through a map."""
    mean, cov = means(2, 3, device=device).float(), covariance(2, 3, device=device).float()
    zero = torch.zeros_like(cov)
    zero[1] = cov[1]
    value, _, grad_x, _, grad_y = value_and_grads(
        lambda *t: bures_wasserstein(*t, impl=impl), mean, zero, mean, cov
    )
    assert value[0].item() == pytest.approx(cov[0].trace().item(), rel=VALUE)
    for grad in (grad_x, grad_y):
        close(grad[0], torch.eye(3, device=device))
        assert grad[1].abs().max() < 1e-5
    neither = bures_wasserstein(mean, zero * 0, mean, zero * 0, impl=impl)
    assert not neither.any()


@pytest.mark.parametrize("impl", QUICK)
def test_diagonal_is_the_full_one_of_diagonal_matrices(impl, device):
    mean_x, mean_y = means(2, 3, 4, device=device), means(3, 4, device=device)
    var_x, var_y = torch.rand(3, 4, device=device).double(), torch.rand(4, device=device).double()
    var_x[1, 2] = 0
    given = [t.float() for t in (mean_x, var_x, mean_y, var_y)]

    def run(mean_x, var_x, mean_y, var_y, **more):
        return bures_wasserstein(mean_x, var_x, mean_y, var_y, impl=impl, **more)

    def full(mean_x, var_x, mean_y, var_y):
        return run(mean_x, var_x.diag_embed(), mean_y, var_y.diag_embed())

    results = [
        value_and_grads(function, *given) for function in (lambda *t: run(*t, diagonal=True), full)
    ]
    for actual, expected in zip(*results, strict=True):
        close(actual, expected, rtol=1e-5, atol=1e-5)
    roots = given[1].sqrt() - given[3].sqrt()
    by_hand = (given[0] - given[2]).square().sum(-1) + roots.square().sum(-1)
    close(run(*given, diagonal=True), by_hand)
    info = bures_wasserstein_with_info(*given, diagonal=True, impl=impl)
    assert not info.redone.any()
    assert not info.residual.any()


@pytest.mark.parametrize("impl", QUICK)
@pytest.mark.parametrize("diagonal", [False, True])
def test_pairwise_is_every_pair(impl, diagonal, device):
    p, q, d = 3, 2, 4
    mean_x, cov_x, *_ = problem(2, p, d, device=device)
    _, _, mean_y, cov_y = problem(q, d, device=device)
    if diagonal:
        cov_x, cov_y = (t.diagonal(dim1=-2, dim2=-1) for t in (cov_x, cov_y))
    given = mean_x, cov_x, mean_y, cov_y
    options = {"impl": impl, "diagonal": diagonal}
    value, *grads = value_and_grads(
        lambda *t: bures_wasserstein(*t, pairwise=True, **options), *given
    )
    assert value.shape == (2, p, q)
    expected, *expected_grads = value_and_grads(
        lambda mx, cx, my, cy: torch.stack(
            [
                torch.stack(
                    [
                        bures_wasserstein(mx[:, i], cx[:, i], my[j], cy[j], **options)
                        for j in range(q)
                    ],
                    -1,
                )
                for i in range(p)
            ],
            -2,
        ),
        *given,
    )
    close(value, expected, rtol=VALUE, atol=VALUE)
    for actual, wanted in zip(grads, expected_grads, strict=True):
        close(actual, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("impl", QUICK)
def test_leading_axes_broadcast(impl, device):
    mean_x, cov_x, *_ = problem(4, device=device)
    *_, mean_y, cov_y = problem(3, 4, device=device)
    value = bures_wasserstein(mean_x, cov_x, mean_y, cov_y, impl=impl)
    assert value.shape == (3,)
    expected = bures_wasserstein(mean_x, cov_x, mean_y[2], cov_y[2], impl=impl)
    close(value[2], expected, rtol=VALUE, atol=VALUE)
    # Means without a batch, covariances with one, and the other way round.
    value = bures_wasserstein(mean_x, cov_y, mean_x, cov_x, impl=impl)
    assert value.shape == (3,)


@pytest.mark.parametrize("impl", QUICK)
def test_root_and_reductions(impl, device):
    given = problem(2, 3, device=device)
    squares = bures_wasserstein(*given, impl=impl)
    roots = bures_wasserstein(*given, squared=False, impl=impl)
    close(roots, squares.sqrt())
    for reduction in ("mean", "sum"):
        value = bures_wasserstein(*given, squared=False, reduction=reduction, impl=impl)
        close(value, getattr(roots, reduction)())
    value, *grads = value_and_grads(
        lambda *t: bures_wasserstein(*t, squared=False, impl=impl), *given
    )
    _, *of_squares = value_and_grads(lambda *t: bures_wasserstein(*t, impl=impl), *given)
    for actual, square in zip(grads, of_squares, strict=True):
        close(actual, square / (2 * roots[(...,) + (None,) * (square.dim() - 1)]))


@pytest.mark.parametrize("impl", QUICK)
def test_only_the_symmetric_part_of_a_covariance_counts(impl, device):
    given = problem(3, device=device)
    skew = torch.randn(3, 3, device=device)
    bent = [*given]
    bent[1] = given[1] + (skew - skew.mT)
    close(*(bures_wasserstein(*t, impl=impl) for t in (bent, given)), rtol=VALUE, atol=VALUE)


# --- info ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("impl", "d"), every([(3,), (40,)], interpreted=[(3,)]))
def test_info_says_which_problems_were_redone(impl, d, device):
    given = problem(3, d, device=device)
    factor = torch.randint(-3, 4, (d, 1), device=device).float()
    given[1][1] = factor @ factor.mT
    info = bures_wasserstein_with_info(*given, impl=impl, reduction="mean")
    assert info.value.shape == ()
    close(info.value, bures_wasserstein(*given, impl=impl).mean(), rtol=0, atol=0)
    assert info.residual.dtype == torch.float64
    assert (info.residual <= 1e-5).all()
    assert info.redone.tolist() == [False, impl != "torch", False]


@pytest.mark.parametrize("impl", FAST[:1])
def test_residual_follows_the_error_of_the_gradient(impl, device):
    """It is no constant: worse conditioned problems leave more of it, up to the promised bound."""
    residuals = []
    for condition in (1e1, 1e6):
        given = problem(4, 30, condition=condition, device=device)
        residuals.append(bures_wasserstein_with_info(*given, impl=impl).residual.max().item())
    assert 0 < residuals[0] < residuals[1] < GRADIENT[1e6]


# --- maps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("impl", "d"), every([(1,), (5,), (40,)], interpreted=[(2,)]))
def test_map_takes_one_gaussian_to_the_other(impl, d, device):
    given = problem(2, d, condition=100.0, dtype=torch.float64, device=device)
    mean_x, cov_x, mean_y, cov_y = given
    a, b = gaussian_map(*given, impl=impl)
    assert torch.equal(a, a.mT)
    close(a @ cov_x @ a, cov_y, rtol=0, atol=1e-12)
    close((a @ mean_x[..., None])[..., 0] + b, mean_y, rtol=0, atol=1e-12)
    assert (torch.linalg.eigvalsh(a) > 0).all()
    _, _, grad_x, *_ = truth(*given)
    close_gradient(torch.eye(d).double().to(device) - a, grad_x, 1e-12)


@pytest.mark.parametrize("impl", QUICK)
def test_gradient_of_the_map(impl, device):
    given = [t.requires_grad_() for t in problem(3, dtype=torch.float64, device=device)]
    exact = {"rtol": 1e-6, "atol": 1e-8}
    assert torch.autograd.gradcheck(lambda *t: gaussian_map(*t, impl=impl), given, **exact)


@pytest.mark.parametrize("impl", QUICK)
def test_map_of_float32_and_halves(impl, device):
    for dtype in (torch.float32, torch.bfloat16):
        given = problem(2, 4, dtype=dtype, device=device)
        a, b = gaussian_map(*given, impl=impl)
        assert a.dtype == b.dtype == torch.float32
        wide_a, wide_b = gaussian_map(*(t.double() for t in given), impl="torch")
        close(a.double(), wide_a, rtol=1e-5, atol=1e-5)
        close(b.double(), wide_b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("impl", QUICK)
def test_map_from_a_singular_gaussian_is_nan_and_onto_one_is_not(impl, device):
    mean_x, cov_x, mean_y, cov_y = problem(2, 3, device=device)
    cov_x = cov_x.clone()
    cov_x[1] = torch.ones(3, 3, device=device)
    a, b = gaussian_map(mean_x, cov_x, mean_y, cov_y, impl=impl)
    assert a.flatten(1).isnan().all(1).tolist() == [False, True]
    assert b.isnan().all(1).tolist() == [False, True]
    assert a[0].isfinite().all()
    onto, _ = gaussian_map(mean_x[:1], cov_x[:1], mean_y[:1], cov_x[1:], impl=impl)
    close(onto @ cov_x[:1] @ onto, cov_x[1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("impl", [i for i in FAST if slow(i)])
def test_interpreted_map(impl):
    given = problem(2, condition=10.0)
    close(gaussian_map(*given, impl=impl), gaussian_map(*given, impl="torch"), rtol=1e-5, atol=1e-5)
