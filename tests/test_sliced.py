import itertools
import math

import numpy as np
import pytest
import torch
from support import assert_close64, problem, value_and_grads

import otkernels
from otkernels import sample_projections, sliced_wasserstein, wasserstein_1d
from otkernels.cpu import match as cpu_match
from otkernels.cpu import sliced as cpu

FAST = ["cpu", "triton"] if not torch.cuda.is_available() else ["triton"]
IMPLS = ["torch", *FAST]
ORDERS = [1, 2, 3, 1.5]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def directions(impl):
    """Triton's interpreter takes a tenth of a second for a row of 32; the others take thousands."""
    return 1 if impl == "triton" and not torch.cuda.is_available() else 3


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


# --- truth: the definition against closed forms, float64 ----------------------------------------


@pytest.mark.parametrize("p", ORDERS)
def test_line_is_the_cheapest_permutation(p):
    u, v = normal(5), normal(5)
    plans = [(u - v[list(s)]).abs().pow(p).mean() for s in itertools.permutations(range(5))]
    torch.testing.assert_close(wasserstein_1d(u, v, p=p, impl="torch"), min(plans))


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize(("n", "m"), [(2, 3), (3, 7), (4, 6), (1, 5), (5, 1)])
def test_unequal_sizes_are_those_of_repeated_points(n, m, p):
    u, v = normal(2, n), normal(2, m)
    repeated = wasserstein_1d(
        u.repeat_interleave(m, -1), v.repeat_interleave(n, -1), p=p, impl="torch"
    )
    torch.testing.assert_close(wasserstein_1d(u, v, p=p), repeated)


def test_weights_are_multiplicities():
    u, v = normal(3), normal(4)
    a, b = torch.tensor([2.0, 0.0, 3.0]), torch.tensor([1.0, 2.0, 1.0, 1.0])
    repeated = wasserstein_1d(
        u.repeat_interleave(a.int()), v.repeat_interleave(b.int()), impl="torch"
    )
    torch.testing.assert_close(wasserstein_1d(u, v, a=10 * a, b=b), repeated)


def test_one_sided_weights_and_uniform_weights():
    x, y, theta = normal(2, 5, 3), normal(2, 5, 3), normal(3, 4)
    plain = sliced_wasserstein(x, y, projections=theta)
    ones = torch.ones(5, dtype=torch.float64)
    for weights in ({"a": ones}, {"b": ones}, {"a": ones.expand(2, 5), "b": 3 * ones}):
        weighted = sliced_wasserstein(x, y, projections=theta, **weights)
        torch.testing.assert_close(weighted, plain)


@pytest.mark.parametrize("impl", IMPLS)
def test_translation(impl, device):
    x, theta = normal(6, 3).to(device), normal(3, 5).to(device)
    shift = normal(3).to(device)
    expected = (shift @ theta).square().mean()
    actual = sliced_wasserstein(x, x + shift, projections=theta, impl=impl)
    torch.testing.assert_close(actual, expected)


def test_one_feature_is_the_line():
    x, y = normal(2, 9, 1), normal(2, 7, 1)
    actual = sliced_wasserstein(x, y, p=3, n_projections=5)
    torch.testing.assert_close(actual, wasserstein_1d(x[..., 0], y[..., 0], p=3))


def test_laws():
    x, y, z, theta = normal(8, 3), normal(8, 3), normal(8, 3), normal(3, 6)

    def distance(x, y, p):
        return sliced_wasserstein(x, y, p=p, projections=theta, root=True)

    for p in ORDERS:
        assert distance(x, x[torch.randperm(8)], p) < 1e-12
        torch.testing.assert_close(distance(x, y, p), distance(y, x, p))
        torch.testing.assert_close(distance(-2 * x, -2 * y, p), 2 * distance(x, y, p))
        assert distance(x, z, p) <= distance(x, y, p) + distance(y, z, p)
    assert distance(x, y, 1) < distance(x, y, 1.5) < distance(x, y, 2) < distance(x, y, 3)


def test_gaussian_closed_form():
    generator = torch.Generator().manual_seed(1)
    n, scale, shift = 20000, torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.3, -0.2, 0.1])
    x = torch.randn(n, 3, generator=generator)
    y = torch.randn(n, 3, generator=generator) * scale + shift
    theta = sample_projections(3, 500, generator=generator)
    deviation = (theta * scale[:, None]).norm(dim=0)
    per_direction = (shift @ theta).square() + (deviation - 1).square()
    # The mean over the same directions, up to the sampling of x and y.
    actual = sliced_wasserstein(x, y, projections=theta)
    assert abs(actual / per_direction.mean() - 1) < 3 * math.sqrt(8 / n)


def test_variance_over_directions_falls_as_one_over_their_number():
    x, y = normal(50, 6), normal(50, 6) * 2
    spread = {
        n: torch.stack([sliced_wasserstein(x, y, n_projections=n) for _ in range(400)]).var()
        for n in (4, 64)
    }
    slope = math.log(spread[64] / spread[4]) / math.log(16)
    assert abs(slope + 1) < 0.15


@pytest.mark.parametrize("p", ORDERS)
def test_gradient_of_weights(p):
    u, v, a, b = normal(2, 5), normal(2, 4), torch.rand(2, 5).double(), torch.rand(4).double()
    inputs = [t.requires_grad_() for t in (u, v, a, b)]
    assert torch.autograd.gradcheck(lambda u, v, a, b: wasserstein_1d(u, v, p=p, a=a, b=b), inputs)


@pytest.mark.parametrize("p", [2, 3])
def test_second_derivative_of_the_definition(p):
    x, y, theta = (normal(*s).requires_grad_() for s in ((4, 2), (4, 2), (2, 3)))

    def cost(x, y, theta):
        return sliced_wasserstein(x, y, p=p, projections=theta, impl="torch")

    assert torch.autograd.gradcheck(cost, (x, y, theta))
    assert torch.autograd.gradgradcheck(cost, (x, y, theta))


# --- match: every implementation against float64 on the same rounded inputs ---------------------

# (n, d, directions, batch): one point; one feature; a prime; a power of two and its neighbours;
# batch axes 0, 1 and 2; more directions than one tile of a product.
SHAPES = [
    (1, 1, 1, ()),
    (1, 3, 2, (2,)),
    (17, 1, 3, ()),
    (31, 2, 2, ()),
    (32, 3, 1, (3,)),
    (33, 4, 1, (2, 2)),
    (6, 20, 17, ()),
]


def check(impl, n, d, n_directions, batch, dtype, p, device):
    x, y, theta = problem(n, d, n_directions, batch=batch, dtype=dtype, device=device)
    weight = torch.rand(batch, device=device) + 0.5

    def cost(impl, theta):
        return lambda x, y: sliced_wasserstein(x, y, p=p, projections=theta, impl=impl)

    value, *grads = value_and_grads(cost(impl, theta), x, y, weight=weight)
    expected, *expected_grads = value_and_grads(
        cost("torch", theta.double()), x.double(), y.double(), weight=weight
    )
    assert value.dtype == otkernels._ops.accumulation_dtype(dtype)
    assert_close64(value, expected, terms=n * n_directions)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert grad.dtype == dtype
        assert_close64(grad, expected_grad, terms=n_directions + 3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("impl", IMPLS)
def test_shapes(impl, shape, device):
    check(impl, *shape, torch.float32, 2, device)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("impl", IMPLS)
def test_dtypes_and_orders(impl, dtype, p, device):
    check(impl, 13, 3, directions(impl), (2,), dtype, p, device)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_scaled_loss_saves_small_half_gradients(impl, device):
    """As torch.amp.GradScaler does: the gradient itself, 2^-25, rounds to 0 in float16."""
    u = torch.zeros(4, dtype=torch.float16, device=device)
    v = u + 2.0**-24
    _, grad, _ = value_and_grads(lambda u, v: 2.0**16 * wasserstein_1d(u, v, impl=impl), u, v)
    torch.testing.assert_close(grad, torch.full_like(u, -(2.0**-9)), rtol=0, atol=0)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("impl", IMPLS)
def test_line(impl, dtype, p, device):
    u, v, _ = problem(19, 1, 1, batch=(2, 1), dtype=dtype, device=device)
    u, v = u[..., 0], v[..., 0]
    value, *grads = value_and_grads(lambda u, v: wasserstein_1d(u, v, p=p, impl=impl), u, v)
    expected, *expected_grads = value_and_grads(
        lambda u, v: wasserstein_1d(u, v, p=p, impl="torch"), u.double(), v.double()
    )
    assert_close64(value, expected, terms=19)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert_close64(grad, expected_grad, terms=4)


@pytest.mark.parametrize("impl", IMPLS)
def test_directions_of_each_problem(impl, device):
    x, y, _ = problem(5, 3, 1, batch=(2, 1), device=device)
    theta = torch.stack([problem(5, 3, 2, device=device)[2] for _ in range(2)]).view(2, 1, 3, 2)
    actual = sliced_wasserstein(x, y, projections=theta, impl=impl)
    for i, j in itertools.product(range(2), range(1)):
        alone = sliced_wasserstein(x[i, j], y[i, j], projections=theta[i, j], impl=impl)
        torch.testing.assert_close(actual[i, j], alone)


@pytest.mark.parametrize("impl", IMPLS)
def test_broadcast_and_expanded_and_strided_inputs(impl, device):
    x, y, theta = problem(11, 4, 3, batch=(2,), device=device)
    expected, grad_x, grad_y = value_and_grads(
        lambda x, y: sliced_wasserstein(x, y[:1], projections=theta, impl=impl), x, y
    )
    assert not grad_y[1:].any()
    strided = torch.empty(4, 11, 2, device=device).movedim(-1, 0).movedim(1, 2)
    strided.copy_(x)
    assert not strided.is_contiguous()
    wide = torch.empty(4, 6, device=device)[:, ::2]
    wide.copy_(theta)
    one = y[0].mT.contiguous().mT
    value, grad_strided, grad_one = value_and_grads(
        lambda x, y: sliced_wasserstein(x, y.expand(2, -1, -1), projections=wide, impl=impl),
        strided,
        one,
    )
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(grad_strided, grad_x, rtol=0, atol=0)
    torch.testing.assert_close(grad_one, grad_y[0])


@pytest.mark.parametrize("impl", IMPLS)
def test_reads_nothing_around_its_inputs(impl, device):
    given = problem(7, 3, 3, device=device)
    inside = []
    for tensor in given:
        wide = tensor.new_full([s + 2 for s in tensor.shape], torch.nan)
        wide[1:-1, 1:-1] = tensor
        inside.append(wide[1:-1, 1:-1])

    def cost(x, y, theta):
        return sliced_wasserstein(x, y, projections=theta, impl=impl)

    torch.testing.assert_close(cost(*inside), cost(*given), rtol=0, atol=0)


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("needs", [(True, False), (False, True)], ids=["x", "y"])
def test_one_sided_gradient(impl, needs, device):
    x, y, theta = problem(21, 3, directions(impl), batch=(2,), device=device)
    both = value_and_grads(
        lambda x, y: sliced_wasserstein(x, y, projections=theta, impl=impl), x, y
    )
    leaves = [t.requires_grad_(need) for t, need in zip((x, y), needs, strict=True)]
    value = sliced_wasserstein(x, y, projections=theta, impl=impl)
    value.sum().backward()
    torch.testing.assert_close(value.detach(), both[0], rtol=0, atol=0)
    for leaf, need, expected in zip(leaves, needs, both[1:], strict=True):
        if need:
            torch.testing.assert_close(leaf.grad, expected, rtol=0, atol=0)
        else:
            assert leaf.grad is None
    with torch.no_grad():
        alone = sliced_wasserstein(x, y, projections=theta, impl=impl)
    assert not alone.requires_grad
    torch.testing.assert_close(alone, both[0], rtol=0, atol=0)


def test_cpu_result_does_not_depend_on_blocks_chunks_or_threads(monkeypatch):
    x, y, theta = problem(37, 3, 24, batch=(2,))

    def run():
        return value_and_grads(
            lambda x, y: sliced_wasserstein(x, y, projections=theta, impl="cpu"), x, y
        )

    expected = run()
    threads = torch.get_num_threads()
    try:
        for block, chunk, parallel, count in ((37, 37, 0, 2), (80, 400, 0, 3), (1, 1, 0, 1)):
            monkeypatch.setattr(cpu_match, "BLOCK", block)
            monkeypatch.setattr(cpu, "CHUNK", chunk)
            monkeypatch.setattr(cpu_match, "PARALLEL", parallel)
            torch.set_num_threads(count)
            for actual, reference in zip(run(), expected, strict=True):
                assert_close64(actual, reference.double(), terms=24)
    finally:
        torch.set_num_threads(threads)


def test_cpu_never_starts_more_threads_than_torch_may(monkeypatch):
    started = []
    pool = cpu_match.ThreadPoolExecutor
    monkeypatch.setattr(cpu_match, "PARALLEL", 0)
    monkeypatch.setattr(cpu_match, "BLOCK", 8)
    monkeypatch.setattr(
        cpu_match, "ThreadPoolExecutor", lambda count: started.append(count) or pool(count)
    )
    threads = torch.get_num_threads()
    try:
        for allowed in (1, 2):
            torch.set_num_threads(allowed)
            sliced_wasserstein(torch.rand(8, 2), torch.rand(8, 2), impl="cpu")
    finally:
        torch.set_num_threads(threads)
    assert started == [2]


@pytest.mark.parametrize("n", [4099, 2**15, 2**15 + 1, 100003])
def test_cpu_long_rows(n):
    """Rows up to more than a block, of distinct integers: exact order, exact gaps."""
    u, v = (torch.randperm(n).float().expand(2, n).clone() for _ in range(2))
    v[1] *= 2
    value, grad_u, grad_v = value_and_grads(lambda u, v: wasserstein_1d(u, v, impl="cpu"), u, v)
    gap = torch.stack([torch.zeros(n), -torch.arange(n).float()]).double()
    assert_close64(value, gap.square().mean(-1), terms=n)
    assert_close64(grad_u, (2 / n) * gap.gather(1, u.long()), terms=4)
    assert_close64(grad_v, (-2 / n) * gap.gather(1, (v / torch.tensor([[1], [2]])).long()), terms=4)


@pytest.mark.parametrize("p", [1, 2, 1.5])
def test_triton_result_does_not_depend_on_the_path(monkeypatch, p, device):
    from otkernels.kernels import match as kernels
    from otkernels.kernels import sliced as chunks

    x, y, theta = problem(45, 3, 3, device=device)

    def run(grad):
        if grad:
            return value_and_grads(
                lambda x, y: sliced_wasserstein(x, y, p=p, projections=theta, impl="triton"), x, y
            )
        return (sliced_wasserstein(x, y, p=p, projections=theta, impl="triton"),)

    launched = []
    for name in ("_match_kernel", "_merge_match_kernel", "_rank_match_kernel"):
        kernel = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, _Recorder(name, kernel, launched))
    expected = run(True)
    # Fused with chunks of directions; two runs of 32, several blocks of ranks; the library's sort.
    cases = {
        "_match_kernel": {"CHUNK_BYTES": 1, "DIRECTIONS": 2},
        "_merge_match_kernel": {"FUSED": 32, "MERGED": 64, "RANKS": 16},
        "_rank_match_kernel": {"FUSED": 32, "MERGED": 32, "RANKS": 16},
    }
    for name, limits in cases.items():
        with monkeypatch.context() as patch:
            for limit, value in limits.items():
                patch.setattr(kernels if hasattr(kernels, limit) else chunks, limit, value)
            launched.clear()
            for grad in (True, False):
                for actual, reference in zip(run(grad), expected, strict=False):
                    assert_close64(actual, reference.double(), terms=45 * 3)
            assert set(launched) == {name}


class _Recorder:
    """A Triton kernel that notes its name at each launch."""

    def __init__(self, name, kernel, launched):
        self.name, self.kernel, self.launched = name, kernel, launched

    def __getitem__(self, grid):
        self.launched.append(self.name)
        return self.kernel[grid]


def test_triton_merges_ties_and_nan(monkeypatch, device):
    from otkernels.kernels import match as kernels

    monkeypatch.setattr(kernels, "FUSED", 32)
    monkeypatch.setattr(kernels, "MERGED", 64)
    # Runs that interleave, with ties; one run wholly before the other, either way round; all but
    # one of the first behind the second, which takes the search its last step.
    up = torch.arange(1.0, 65.0, device=device)
    one = torch.cat([up[:1] / 2, up[33:], up[:32]])
    u = torch.stack([torch.randint(0, 3, (64,), device=device).float(), up, up.flip(0), one])
    v = torch.randint(0, 3, (4, 64), device=device).float()
    value, grad_u, _ = value_and_grads(lambda u, v: wasserstein_1d(u, v, impl="triton"), u, v)
    torch.testing.assert_close(value, wasserstein_1d(u, v, impl="torch"))
    gap = u.sort().values - v.sort().values
    torch.testing.assert_close(grad_u.sort().values, (2 * gap / 64).sort().values)
    u[0, 59] = torch.nan
    value = wasserstein_1d(u, v, impl="triton")
    assert value[0].isnan()
    assert value[1].isfinite()


# --- gradient -----------------------------------------------------------------------------------


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("impl", IMPLS)
def test_gradcheck(impl, p, device):
    n_directions = directions(impl)
    x, y, theta = problem(3, 2, n_directions, batch=(2,), dtype=torch.float64, device=device)
    assert torch.autograd.gradcheck(
        lambda x, y: sliced_wasserstein(x, y, p=p, projections=theta, impl=impl),
        (x.requires_grad_(), y.requires_grad_()),
        fast_mode=impl == "triton",
    )


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("impl", IMPLS)
def test_coincident_clouds(impl, p, device):
    x, _, theta = problem(6, 2, directions(impl), device=device)
    x[1] = x[0]
    for root in (False, True):
        value, grad_x, grad_y = value_and_grads(
            lambda x, y, root=root: sliced_wasserstein(
                x, y, p=p, projections=theta, root=root, impl=impl
            ),
            x,
            x,
        )
        assert value == 0
        assert not grad_x.any()
        assert not grad_y.any()


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("impl", IMPLS)
def test_sub_gradient_at_ties(impl, p, device):
    """Tied points share the multiset of slopes of their ranks, whichever point gets which."""
    u = torch.tensor([1.0, 1.0, 1.0, 5.0], device=device)
    v = torch.tensor([0.0, 1.0, 3.0, 5.0], device=device)
    _, grad, _ = value_and_grads(lambda u, v: wasserstein_1d(u, v, p=p, impl=impl), u, v)
    slopes = {1: [1.0, 0.0, -1.0], 2: [2.0, 0.0, -4.0]}[p]
    assert sorted(grad[:3].tolist()) == sorted(s / 4 for s in slopes)
    assert grad[3] == 0


@pytest.mark.parametrize("impl", FAST)
def test_second_derivative_is_refused(impl, device):
    x, y, theta = problem(4, 2, directions(impl), device=device)
    x.requires_grad_()
    value = sliced_wasserstein(x, y, projections=theta, impl=impl)
    (grad,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(NotImplementedError, match="impl='torch'"):
        (grad.square().sum() + x.sum()).backward()


@pytest.mark.parametrize("impl", IMPLS)
def test_root_and_reductions(impl, device):
    x, y, theta = problem(5, 2, directions(impl), batch=(2, 1), device=device)

    def run(**options):
        return sliced_wasserstein(x, y, p=3, projections=theta, impl=impl, **options)

    power = run()
    torch.testing.assert_close(run(root=True), power ** (1 / 3))
    torch.testing.assert_close(run(reduction="mean"), power.mean())
    torch.testing.assert_close(run(root=True, reduction="sum"), (power ** (1 / 3)).sum())


# --- contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", IMPLS)
def test_compile_full_graph(impl, device):
    x, y, theta = problem(4, 2, directions(impl), batch=(2,), device=device)

    def cost(x, y):
        return sliced_wasserstein(x, y, projections=theta, root=True, impl=impl)

    torch._dynamo.reset()
    compiled = torch.compile(cost, fullgraph=True, backend="aot_eager", dynamic=True)
    for actual, expected in zip(
        value_and_grads(compiled, x, y), value_and_grads(cost, x, y), strict=True
    ):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_value_may_be_changed_in_place(impl, device):
    x, y, theta = problem(5, 2, directions(impl), batch=(2,), device=device)
    _, expected, _ = value_and_grads(
        lambda x, y: sliced_wasserstein(x, y, projections=theta, impl=impl) / 2, x, y
    )
    x.requires_grad_()
    total = sliced_wasserstein(x, y, projections=theta, impl=impl)
    total /= 2
    y.zero_()  # a constant of the loss
    total.sum().backward(retain_graph=True)
    total.sum().backward()
    torch.testing.assert_close(x.grad, 2 * expected)


@pytest.mark.parametrize("impl", FAST)
def test_second_derivatives_to_anything_are_refused(impl, device):
    u, v, _ = problem(4, 1, 1, device=device)
    u, v = u[:, 0], v[:, 0].requires_grad_()
    scale = torch.ones((), device=device, requires_grad=True)
    value = scale * wasserstein_1d(u, v, impl=impl)
    (grad,) = torch.autograd.grad(value, v, create_graph=True)
    for variable in (v, scale):
        with pytest.raises(NotImplementedError, match="first derivatives only"):
            torch.autograd.grad(grad.sum(), variable, retain_graph=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, in jvp
@pytest.mark.parametrize("impl", FAST)
def test_forward_mode_is_refused(impl, device):
    """A raw operator has no tangent to give, and none would read as a derivative of 0."""
    x, y, theta = problem(4, 2, 1, device=device)

    def cost(x, impl=impl):
        return sliced_wasserstein(x, y, projections=theta, impl=impl)

    with pytest.raises(NotImplementedError, match="Use impl='torch'"):
        torch.func.jvp(cost, (x,), (torch.ones_like(x),))
    _, tangent = torch.func.jvp(lambda x: cost(x, "torch"), (x,), (torch.ones_like(x),))
    _, grad = value_and_grads(cost, x)
    torch.testing.assert_close(tangent, grad.sum())


def test_compile_draws_directions_and_the_line():
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, y: (sliced_wasserstein(x, y), wasserstein_1d(x[:, 0], y[:, 0])),
        fullgraph=True,
        backend="aot_eager",
    )
    value, line = compiled(torch.rand(6, 2), torch.rand(6, 2))
    assert value.isfinite()
    assert line.isfinite()


@pytest.mark.parametrize("impl", IMPLS)
def test_vmap_and_functional_grad(impl, device):
    x, y, theta = problem(6, 2, directions(impl), batch=(2,), device=device)

    def cost(x, y):
        return sliced_wasserstein(x, y, projections=theta, impl=impl)

    torch.testing.assert_close(torch.func.vmap(cost)(x, y), cost(x, y))
    shared = torch.func.vmap(cost, in_dims=(1, None))(x.movedim(0, 1), y[0])
    torch.testing.assert_close(shared, cost(x, y[:1]))
    _, expected, _ = value_and_grads(cost, x, y)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(cost))(x, y), expected)
    x, y = x.expand(2, 2, 6, 2), y.expand(2, 2, 6, 2)
    torch.testing.assert_close(torch.func.vmap(cost)(x, y), cost(x, y))


@pytest.mark.parametrize("impl", IMPLS)
def test_empty_batch(impl, device):
    x = torch.rand(0, 5, 2, device=device, requires_grad=True)
    value = sliced_wasserstein(x, torch.rand(5, 2, device=device), impl=impl)
    assert value.shape == (0,)
    value.sum().backward()
    assert x.grad.shape == x.shape
    u = torch.rand(0, 5, device=device)
    assert wasserstein_1d(u, u, impl=impl).shape == (0,)


@pytest.mark.parametrize("p", [1, 2, 2.5])
@pytest.mark.parametrize("impl", IMPLS)
def test_nan_stays_in_its_problem(impl, p, device):
    # Long enough for NumPy's vectorised sort, which rewrites NaN; short for the interpreter.
    n = 6 if impl == "triton" else 300
    x, y = torch.randn(2, n, 2, device=device), torch.randn(2, n, 2, device=device)
    theta = torch.randn(2, 1, device=device)

    def cost(x, y):
        return sliced_wasserstein(x, y, p=p, projections=theta, impl=impl)

    untouched = value_and_grads(cost, x, y)
    for value in (torch.nan, -torch.nan):
        for side in (0, 1):
            clouds = [x.clone(), y.clone()]
            clouds[side][1, 2, 0] = value
            for actual, expected in zip(value_and_grads(cost, *clouds), untouched, strict=True):
                assert actual[1].isnan().all()
                torch.testing.assert_close(actual[0], expected[0], rtol=0, atol=0)


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_of_the_largest_payload_is_not_taken_for_padding(impl, device):
    bits = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32, device=device)
    u = torch.rand(4, 20, device=device)
    u[0, [0, 19]], u[2, 7] = bits.view(torch.float32), bits[0].view(torch.float32)
    value, grad, _ = value_and_grads(
        lambda u, v: wasserstein_1d(u, v, impl=impl), u, torch.rand_like(u)
    )
    assert value.isnan().tolist() == [True, False, True, False]
    assert grad[[0, 2]].isnan().all()
    assert grad[[1, 3]].isfinite().all()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("impl", IMPLS)
def test_infinity_gives_a_non_finite_value(impl, sign, device):
    u, v = torch.randn(2, 2, 20, device=device)
    u[0, 3] = sign * torch.inf
    for other, expected in ((0.0, torch.inf), (sign * torch.inf, torch.nan)):
        v[0, 5] = other
        for need in (True, False):
            leaf = u.clone().requires_grad_(need)
            value = wasserstein_1d(leaf, v, impl=impl)
            torch.testing.assert_close(value[0].item(), expected, equal_nan=True)
            assert value[1].isfinite()
            if need and impl != "torch":
                value.sum().backward()
                assert leaf.grad[0].isnan().all()
                assert leaf.grad[1].isfinite().all()


@pytest.mark.parametrize("p", [3, 1.5, 2.25])
@pytest.mark.parametrize("impl", IMPLS)
def test_powers_of_large_and_small_gaps(impl, p, device):
    u = torch.tensor([[0.0], [0.0]], device=device)
    v = torch.tensor([[1e6], [1e-6]], device=device)
    value, grad, _ = value_and_grads(lambda u, v: wasserstein_1d(u, v, p=p, impl=impl), u, v)
    gap = v[:, 0].double()
    for out, reference in ((value, gap**p), (-grad[:, 0], p * gap ** (p - 1))):
        torch.testing.assert_close(
            out.double() / reference, torch.ones_like(gap), rtol=2e-6, atol=0
        )


def test_numpy_warnings_and_errors_stay_inside():
    with np.errstate(all="raise"):
        assert wasserstein_1d(torch.full((4,), 1e30), torch.zeros(4), impl="cpu") == torch.inf
        assert wasserstein_1d(torch.full((4,), 1e-30), torch.zeros(4), impl="cpu") == 0


@pytest.mark.parametrize("impl", IMPLS)
def test_zeros_and_denormals_keep_their_points_apart(impl, device):
    """Also where the processor flushes denormal numbers to zero."""
    u = torch.tensor([0.0, -0.0, 1e-40, -1e-40, 0.0, 3.0], device=device)
    v = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.0], device=device)
    for flush in (False, True):
        torch.set_flush_denormal(flush)
        try:
            _, grad, _ = value_and_grads(lambda u, v: wasserstein_1d(u, v, impl=impl), u, v)
        finally:
            torch.set_flush_denormal(False)
        assert grad[:5].sort().values.tolist() == pytest.approx([-4 / 3, -1, -2 / 3, -1 / 3, 0])


@pytest.mark.parametrize("impl", IMPLS)
def test_same_bits_on_two_runs(impl, device):
    x, y = torch.randn(2, 31, 5, device=device), torch.randn(2, 31, 5, device=device)

    def run():
        generator = torch.Generator(device).manual_seed(3)
        return value_and_grads(
            lambda x, y: sliced_wasserstein(x, y, n_projections=2, generator=generator, impl=impl),
            x,
            y,
        )

    for first, second in zip(run(), run(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("impl", IMPLS)
def test_large_offset_costs_only_the_rounding_of_the_projections(impl, device):
    x, y, theta = problem(16, 3, 4, device=device)
    near = sliced_wasserstein(x.double(), y.double(), projections=theta.double(), impl="torch")
    far = sliced_wasserstein(x + 1000, y + 1000, projections=theta, impl=impl)
    gap = 2 * near.sqrt().item()
    bound = gap * 2 * 3 * 1000 * 3**0.5 * torch.finfo(torch.float32).eps
    assert abs(far.item() - near.item()) <= bound


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_lower_the_arithmetic(impl, dtype, device):
    x, y, theta = problem(9, 3, 4, device=device)
    expected = sliced_wasserstein(x, y, projections=theta, impl=impl)
    with torch.autocast(device.type, dtype=dtype):
        actual = sliced_wasserstein(x, y, projections=theta, impl=impl)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_default_impl_covers_every_call(device):
    x, y = torch.rand(4, 2, device=device), torch.rand(4, 2, device=device)
    theta = torch.rand(2, 3, device=device, requires_grad=True)
    sliced_wasserstein(x, y, projections=theta).backward()
    assert theta.grad.isfinite().all()
    assert sliced_wasserstein(x, y[:3], a=torch.rand(4, device=device)).isfinite()


def test_works_on_meta_tensors():
    assert sliced_wasserstein(torch.rand(2, 5, 3, device="meta"), torch.rand(4, 3, device="meta")
                              ).shape == (2,)  # fmt: skip


# --- errors -------------------------------------------------------------------------------------

X, Y = torch.rand(4, 3), torch.rand(4, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X.int(), Y), {}, TypeError, r"sliced_wasserstein: x must be float16, .*; got torch.int"),
        (([1.0], Y), {}, TypeError, r"x must be a torch.Tensor; got list"),
        ((X[0], Y), {}, ValueError, r"x must have shape \(\.\.\., N, D\); got \(3,\)"),
        ((X, Y.double()), {}, ValueError, r"y must have x's dtype torch.float32; got torch.float"),
        ((X, Y.to("meta")), {}, ValueError, r"y must be on x's device cpu; got meta"),
        ((X, Y[:, :2]), {}, ValueError, r"y must have x's 3 features; got \(4, 2\)"),
        ((X[:0], Y), {}, ValueError, r"x must have at least one point and feature; got \(0, 3\)"),
        ((X.expand(2, 4, 3), Y.expand(3, 4, 3)), {}, ValueError,
         r"y must have leading axes that broadcast with x's \(2,\); got \(3,\)"),
        ((X, Y), {"p": 0.5}, ValueError, r"p must be a finite number >= 1; got 0.5"),
        ((X, Y), {"p": math.nan}, ValueError, r"p must be a finite number >= 1; got nan"),
        ((X, Y), {"n_projections": 0}, ValueError, r"n_projections must be an integer >= 1; got 0"),
        ((X, Y), {"projections": torch.rand(2, 5)}, ValueError,
         r"projections must have shape \(3, L\) or \(\.\.\., 3, L\); got \(2, 5\)"),
        ((X, Y), {"projections": torch.rand(3, 0)}, ValueError, r"projections must have shape"),
        ((X, Y), {"projections": torch.ones(3, 2).int()}, TypeError, r"projections must be float"),
        ((X, Y), {"reduction": "avg"}, ValueError,
         r"reduction must be one of 'none', 'mean', 'sum'; got 'avg'"),
        ((X, Y), {"impl": "gpu"}, ValueError,
         r"impl must be one of 'torch', 'cpu', 'triton'; got 'gpu'"),
        ((X, Y), {"a": torch.rand(3)}, ValueError, r"a must have shape \(\.\.\., 4\),"),
        ((X, Y), {"b": torch.ones(4).int()}, TypeError, r"b must be float16"),
    ],
)  # fmt: skip
def test_error_messages(arguments, options, error, message):
    with pytest.raises(error, match=message):
        sliced_wasserstein(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((torch.tensor(1.0), X[0]), {}, ValueError, r"wasserstein_1d: u must have shape"),
        ((X[:, :0], Y), {}, ValueError, r"u must have at least one point; got \(4, 0\)"),
        ((X, Y[:3]), {}, ValueError, r"v must have leading axes that broadcast with u's \(4,\)"),
        ((X, Y), {"a": torch.rand(2, 3)}, ValueError,
         r"a must have leading axes that broadcast with u's and v's \(4,\); got \(2,\)"),
        ((X, Y), {"p": "2"}, ValueError, r"p must be a finite number >= 1; got '2'"),
    ],
)  # fmt: skip
def test_line_error_messages(arguments, options, error, message):
    with pytest.raises(error, match=message):
        wasserstein_1d(*arguments, **options)


def test_triton_on_the_cpu_is_refused_outside_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"impl must be 'torch' or 'cpu' on cpu .*; got 'triton'"):
        sliced_wasserstein(X, Y, impl="triton")
