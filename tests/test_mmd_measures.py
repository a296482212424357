"""MMD and energy distance of weighted and of padded clouds, and of points that are no numbers."""

from itertools import cycle

import pytest
import torch
from impls import QUICK, every, slow
from kernel_oracle import KERNELS, clouds, options
from support import value_and_grads

from otkernels import mmd

close = torch.testing.assert_close
# Triton's interpreter is NumPy, which warns of what a GPU does without a word.
numpy_is_silent = pytest.mark.filterwarnings(
    "ignore:invalid value encountered:RuntimeWarning", "ignore:All-NaN slice:RuntimeWarning"
)


# --- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("impl", "kernel"), every(zip(KERNELS)))
def test_weights_are_multiplicities(impl, kernel, device):
    """Of V-statistics: repeated points meet their copies; a weight of 0 removes its point."""
    x, y = clouds(4, 5, 3, dtype=torch.float64, device=device)
    a, b = (torch.tensor(w, device=device) for w in ([2, 0, 3, 1], [1, 1, 0, 4, 2]))
    given = options(kernel) | {"impl": impl}
    repeated = mmd(x.repeat_interleave(a, 0), y.repeat_interleave(b, 0), **given)
    weighed = mmd(x, y, a=10.0 * a, b=b.half() / 16, **given)
    close(weighed, repeated)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("impl", QUICK)
def test_one_sided_and_uniform_weights(impl, unbiased, device):
    x, y = clouds(5, 4, 3, (2,), device=device)
    given = {"bandwidth": 1.0, "unbiased": unbiased, "impl": impl}
    plain = value_and_grads(lambda x, y: mmd(x, y, **given), x, y)
    a, b = torch.full((5,), 0.3, device=device), torch.full((2, 4), 7.0, device=device)
    for weights in ({"a": a}, {"b": b}, {"a": a.half(), "b": b.double()}):
        weighed = value_and_grads(lambda x, y, w=weights: mmd(x, y, **w, **given), x, y)
        for actual, expected in zip(weighed, plain, strict=True):
            close(actual, expected)


@pytest.mark.parametrize(
    ("impl", "name", "wrong"),
    every(
        zip(cycle("ab"), ["negative", "nan", "inf", "zero", "inf", "negative"]),
        interpreted=[("a", "negative")],
    ),
)
def test_wrong_weights_make_their_problem_nan(impl, name, wrong, device):
    x, y = clouds(4, 4, 2, (2,), device=device)
    weights = torch.rand(2, 4, device=device) + 0.1
    weights[1] = 0 if wrong == "zero" else weights[1]
    weights[1, 2] = {"negative": -0.01, "nan": torch.nan, "inf": torch.inf, "zero": 0}[wrong]
    value, *grads = value_and_grads(
        lambda x, y, w: mmd(x, y, impl=impl, bandwidth=1.0, **{name: w}), x, y, weights
    )
    assert value.isnan().tolist() == [False, True]
    for grad in grads:
        assert grad[0].isfinite().all()
        assert grad[1].isnan().all()


@pytest.mark.parametrize("impl", QUICK)
def test_u_statistic_of_all_mass_in_one_point_is_nan(impl, device):
    x, y = clouds(3, 4, 2, (2,), device=device)
    a = torch.tensor([[0.0, 2.0, 0.0], [0.0, 2.0, 1.0]], device=device)
    lengths = torch.tensor([1, 2], device=device)
    for given in ({"a": a}, {"x_lengths": lengths}):
        value, grad_x, grad_y = value_and_grads(
            lambda x, y, given=given: mmd(x, y, bandwidth=1.0, unbiased=True, impl=impl, **given),
            x,
            y,
        )
        assert value.isnan().tolist() == [True, False]
        assert grad_y[0].isnan().all()
        assert grad_x[1].isfinite().all()
        assert grad_y[1].isfinite().all()
        assert mmd(x, y, bandwidth=1.0, impl=impl, **given).isfinite().all()


# --- lengths ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("impl", "weighted", "unbiased", "poison"),
    every(
        [
            (False, True, torch.nan),
            (True, False, torch.inf),
            (True, True, -1e30),
            (False, False, torch.inf),
        ],
        interpreted=[(False, True, torch.nan)],
    ),
)
def test_padding_is_never_read(impl, weighted, unbiased, poison, device):
    """For the median neither, which is that of the points that count."""
    dtype = torch.float64 if unbiased else torch.float32
    x, y = clouds(6, 5, 2, (2,), dtype=dtype, device=device)
    x_lengths, y_lengths = (torch.tensor(t, device=device) for t in ([6, 3], [2, 5]))
    a, b = torch.rand(2, 6, device=device) + 0.1, torch.rand(2, 5, device=device) + 0.1
    for tensors, lengths in (((x, a), x_lengths), ((y, b), y_lengths)):
        for k, length in enumerate(lengths):
            for tensor in tensors:
                tensor[k, length:] = poison
    given = {"unbiased": unbiased, "impl": impl, "kernel": "imq"}
    lengths = {"x_lengths": x_lengths, "y_lengths": y_lengths}
    names = ["a", "b"] if weighted else []

    def cost(x, y, *weights, **more):
        return mmd(x, y, **dict(zip(names, weights, strict=True)), **more, **given)

    value, *grads = value_and_grads(
        lambda *t: cost(*t, **lengths), x, y, *[{"a": a, "b": b}[name] for name in names]
    )
    for k, (n, m) in enumerate(zip(x_lengths, y_lengths, strict=True)):
        cut = [
            t[k, :size] for t, size in zip((x, y, a, b)[: len(grads)], (n, m, n, m), strict=False)
        ]
        alone = value_and_grads(cost, *cut)
        close(value[k], alone[0])
        for grad, size, expected in zip(grads, (n, m, n, m), alone[1:], strict=False):
            close(grad[k, :size], expected)
            assert not grad[k, size:].any()


@pytest.mark.parametrize("impl", QUICK)
def test_padding_of_large_clouds(impl, device):
    """Such as are cut to size and handled one by one on the CPU."""
    x, y = clouds(150, 130, 9, (2,), device=device)
    lengths = torch.tensor([[150, 20], [7, 130]], device=device)

    def cost(x, y, **more):
        return mmd(x, y, impl=impl, **more, **options("laplacian"))

    value, *grads = value_and_grads(
        lambda x, y: cost(x, y, x_lengths=lengths[0], y_lengths=lengths[1]), x, y
    )
    for k, (n, m) in enumerate(lengths.mT):
        alone = value_and_grads(cost, x[k, :n], y[k, :m])
        close(value[k], alone[0])
        for grad, size, expected in zip(grads, (n, m), alone[1:], strict=True):
            close(grad[k, :size], expected)
            assert not grad[k, size:].any()


@pytest.mark.parametrize("impl", QUICK)
def test_lengths_of_one_side_and_of_small_integers(impl, device):
    x, y = clouds(5, 4, 2, (2,), device=device)
    lengths = torch.tensor([3, 5], dtype=torch.uint8, device=device)
    value = mmd(x, y, x_lengths=lengths, bandwidth=1.0, impl=impl)
    close(value[0], mmd(x[0, :3], y[0], bandwidth=1.0, impl=impl))
    close(value[1], mmd(x[1], y[1], bandwidth=1.0, impl=impl))


@pytest.mark.parametrize("impl", QUICK)
def test_lengths_out_of_range_are_nan_where_they_cannot_be_read(impl, device):
    """As under vmap: a transform cannot stop at a value, nor can a graph."""
    x, y = torch.rand(4, 5, 2, device=device), torch.rand(3, 2, device=device)
    lengths = torch.tensor([0, 6, -1, 4], device=device)

    def cost(x, lengths):
        return mmd(x, y, x_lengths=lengths, impl=impl)

    value = torch.func.vmap(cost)(x, lengths)
    assert value.isnan().tolist() == [True, True, True, False]
    close(value[3], mmd(x[3, :4], y, impl=impl))


# --- points that are no numbers -----------------------------------------------------------------


@numpy_is_silent
@pytest.mark.parametrize(("impl", "kernel"), every(zip(KERNELS), interpreted=[("laplacian",)]))
def test_nan_stays_in_its_problem(impl, kernel, device):
    x, y = clouds(4, 5, 9, (2,), device=device)

    def cost(x, y):
        return mmd(x, y, impl=impl, kernel=kernel)  # with the median, if any

    untouched = value_and_grads(cost, x, y)
    for side in (0,) if slow(impl) else (0, 1):
        touched = [x.clone(), y.clone()]
        touched[side][1, 2, 0] = torch.nan
        for actual, expected in zip(value_and_grads(cost, *touched), untouched, strict=True):
            assert actual[1].isnan().all()
            close(actual[0], expected[0], rtol=0, atol=0)


@pytest.mark.parametrize("impl", QUICK)
def test_a_point_without_mass_still_shows_that_it_is_nan(impl, device):
    x, y = clouds(4, 3, 2, (2,), device=device)
    x[1, 2] = torch.nan
    a = torch.tensor([1.0, 1.0, 0.0, 2.0], device=device)
    value = mmd(x, y, a=a, bandwidth=1.0, impl=impl)
    assert value.isnan().tolist() == [False, True]


@numpy_is_silent
@pytest.mark.parametrize(("impl", "kernel"), every(zip(KERNELS), interpreted=[("imq",)]))
def test_infinity_gives_a_non_finite_value(impl, kernel, device):
    for side, bad in ((0, torch.inf), (1, -torch.inf))[: 1 if slow(impl) else 2]:
        given = clouds(4, 5, 9, (2,), device=device)
        given[side][1, 2, 0] = bad
        value, *grads = value_and_grads(
            lambda x, y: mmd(x, y, impl=impl, **options(kernel)), *given
        )
        assert value.isfinite().tolist() == [True, False]
        for grad in grads:
            assert grad[0].isfinite().all()
            assert not grad[1].isfinite().any()


def test_validate_does_not_read_padding():
    x, y = clouds(4, 5, 3, (2,))
    x[1, 3] = torch.nan
    with pytest.raises(ValueError, match="x must be finite everywhere; got nan"):
        mmd(x, y, validate=True)
    lengths = torch.tensor([4, 3])
    assert mmd(x, y, x_lengths=lengths, validate=True).isfinite().all()
