import contextlib
import sys
import types

import pytest
import torch

from benchmarks import measure
from benchmarks.case import Provider, Shape
from benchmarks.families import bures, bures_peers, cupy_eigh, gaussian, mmd, moments, sqrtm
from benchmarks.families.bures_reference import STEP, amplification, nearby
from benchmarks.measure import Call, check

FAMILIES = (bures.FAMILY, gaussian.FAMILY, sqrtm.FAMILY, moments.FAMILY)
EVERY = [
    pytest.param(family, shape, id=f"{family.op}/{shape.name}")
    for family in FAMILIES
    for shape in family.shapes["smoke"]
]


def providers(family, shape):
    """All that compute what the family does."""
    return [p for p in family.providers if p.left_out("smoke", shape) is None and not p.expect]


def provider(family, name):
    return next(p for p in family.providers if p.name == name)


def errors(family, inputs, function, mode=None, own_error=(0.0, 0.0)):
    call = Call(function, inputs, mode or family.modes[-1], family.clouds)
    return check(call, family.expect(*inputs), own_error)


# --- references ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "shape"), EVERY)
def test_reference_is_the_definition(family, shape):
    """In float64, where the two have no code in common."""
    inputs = [t.double() for t in family.inputs(shape)]
    found = errors(family, inputs, provider(family, "definition").make())
    assert found.ok
    assert max(found.bound_value, found.bound_grad) < 1e-12


@pytest.mark.parametrize(("family", "shape"), EVERY)
@pytest.mark.parametrize("factor", [1.001, 0.999])
def test_gate_refuses_what_is_off_by_a_thousandth(family, shape, factor):
    """Value and gradient; the conditions, and what peers add, do not hide it."""
    inputs = family.inputs(shape)
    for peer in providers(family, shape):
        function, own = peer.make(), peer.own_error(shape)
        assert not errors(family, inputs, lambda *t, f=function: factor * f(*t), "forward", own).ok

        def steeper(*given, f=function):
            value = f(*given)
            return factor * value + (1 - factor) * value.detach()

        found = errors(family, inputs, steeper, own_error=own)
        assert found.value <= found.bound_value
        assert not found.ok


def test_gate_refuses_a_gradient_that_is_not_symmetric(monkeypatch):
    """Which a cotangent of ones, or a symmetric one, would not tell apart."""
    inputs = sqrtm.inputs(bures.SMOKE[1])
    assert errors(sqrtm.FAMILY, inputs, sqrtm.newton_schulz).ok
    expected = sqrtm.expect(*inputs)
    monkeypatch.setattr(sqrtm, "symmetric", lambda a: a)
    found = check(Call(sqrtm.newton_schulz, inputs, "forward_backward", ("x",)), expected)
    assert found.value <= found.bound_value
    assert not found.ok


def test_cotangent_weighs_the_entries_of_a_matrix_and_nothing_else():
    points = torch.zeros(3, 7, 2)
    assert measure.cotangent(torch.zeros(3), points).tolist() == [1, 1, 1]
    assert measure.cotangent(torch.zeros(()), points[0]).tolist() == 1
    weights = measure.cotangent(torch.zeros(3, 2, 2), points)
    assert weights[0].unique().numel() == 4
    assert (weights == weights[0]).all()


def test_amplification_is_measured():
    at = torch.linspace(1, 2, 5, dtype=torch.float64)[:, None]
    moved = nearby(at)
    move = (moved - at).abs().max().item() / (2 * STEP)
    assert amplification(at, moved) == pytest.approx(max(1, move))
    assert amplification(at - 1.9, moved - 1.9) == pytest.approx(2 / 0.9 * move)
    assert amplification(at, at) == 1


def test_conditions_grow_with_those_of_the_covariances():
    x, y, *means = (t.double() for t in bures.inputs(bures.batch(1, 6, "")))
    scale = torch.logspace(0, -3, 6, dtype=torch.float64)
    thin = scale[:, None] * x * scale
    regular, singular = (bures.expect(t, y, *means) for t in (x, thin))
    assert singular.condition_grad > 100 * regular.condition_grad
    far = bures.expect(x, y, means[0], means[0])
    assert far.condition_value > regular.condition_value


# --- families -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [bures.CPU[0], bures.CPU[2]], ids=lambda s: s.name)
def test_peers_pass_the_gate_at_shapes_that_are_measured(shape):
    inputs = bures.inputs(shape)
    for name in ("otkernels", "torch", "torch.eigh", "pot.paired"):
        peer = provider(bures.FAMILY, name)
        assert errors(bures.FAMILY, inputs, peer.make(), own_error=peer.own_error(shape)).ok


def test_inputs_are_covariances_and_differ():
    x, y = bures.covariances(bures.CPU[2])
    values = torch.linalg.eigvalsh(x)
    assert values.min() > 0.05
    assert torch.equal(x, x.mT)
    # Marchenko and Pastur's edges for 2 D points, which a spectrum comes to from within.
    limit = ((1 + 0.5**0.5) / (1 - 0.5**0.5)) ** 2
    assert 0.75 * limit < (values[:, -1] / values[:, 0]).median() < limit
    assert not torch.allclose(x, y)
    assert not torch.allclose(x[0], x[1])


def left_out(family, shapes, shape):
    return {p.name for p in family.providers if p.left_out(shapes, shape)}


def test_providers_are_left_out_where_they_cannot_or_take_too_long():
    on_cpu = [left_out(bures.FAMILY, "cpu", shape) for shape in bures.CPU]
    assert on_cpu == [{"cupy"}] * 4 + [{"cupy", "definition"}]
    on_cuda = {shape.name: left_out(bures.FAMILY, "cuda", shape) for shape in bures.CUDA}
    assert on_cuda["B64-D128"] == set()
    assert on_cuda["B1024-D32"] == {"pot"}
    assert on_cuda["B1-D2048"] == {"definition"}
    wide = mmd.one(1000, 2048, "")
    singular = {"definition", "torch.cov", "pot", "cupy", "torchmetrics"}
    assert left_out(gaussian.FAMILY, "cpu", wide) == singular
    assert left_out(gaussian.FAMILY, "cuda", wide) == singular
    assert left_out(gaussian.FAMILY, "cuda", mmd.one(10000, 2048, "")) == {"definition"}
    assert left_out(gaussian.FAMILY, "cpu", mmd.one(500, 64, "")) == {"cupy"}
    assert left_out(gaussian.FAMILY, "cpu", mmd.MANY) == {"torch.cov", "cupy", "torchmetrics"}
    assert left_out(moments.FAMILY, "cpu", mmd.MANY) == {"torch.cov"}
    for family in FAMILIES:
        for shape in family.shapes["smoke"]:
            assert left_out(family, "smoke", shape) <= {
                "cupy",
                "torch.cov",
                "pot",
                "torchmetrics",
            }


@pytest.mark.parametrize(
    ("n", "m", "d", "singular"), [(9, 9, 8, False), (9, 8, 8, True), (8, 8, 9, True)]
)
def test_n_points_have_a_regular_covariance_in_less_than_n_dimensions(n, m, d, singular):
    shape = Shape(1, n, d, None, "", m)
    assert gaussian.is_singular(shape) is singular
    covs = [gaussian.covariance(t.double()) for t in gaussian.inputs(shape)]
    ranks = [torch.linalg.matrix_rank(cov, hermitian=True).item() for cov in covs]
    assert (min(ranks) < d) is singular


def test_peers_without_a_value_for_each_problem_do_not_pass():
    """POT gives (1,) for one pair; stacked and squared it would broadcast."""
    shape = bures.SMOKE[1]
    inputs = bures.inputs(shape)
    expected = bures.expect(*inputs)
    for name in ("pot", "pot.paired"):
        call = Call(provider(bures.FAMILY, name).make(), inputs, "forward", ("x", "y"))
        assert call().shape == expected.value.shape
        assert Provider(name, "", lambda: None).left_out("smoke", shape) is None


# --- CuPy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [bures, sqrtm])
@pytest.mark.parametrize("mode", ["forward", "forward_backward", "forward_backward_both"])
def test_gradients_of_cupy_s_eigendecomposition(module, mode, monkeypatch):
    """With torch's in its place, which takes the same arguments."""
    monkeypatch.setattr(bures_peers, "cupy_eigh", lambda: torch.linalg.eigh)
    monkeypatch.setattr(sqrtm, "cupy_eigh", lambda: torch.linalg.eigh)
    if mode in module.FAMILY.modes:
        for shape in bures.SMOKE:
            function = provider(module.FAMILY, "cupy").make()

            def halves(*given, f=function):
                return f(*given) / 2 + f(*given) / 2

            for same in (function, halves):
                assert errors(module.FAMILY, module.inputs(shape), same, mode).ok


def test_cupy_shares_memory_and_stream(monkeypatch):
    entered = []

    @contextlib.contextmanager
    def enter(what):
        entered.append(what)
        yield

    def allocator(*functions):
        assert all(map(callable, functions))
        return types.SimpleNamespace(malloc="torch's memory")

    cuda = types.SimpleNamespace(
        ExternalStream=enter, PythonFunctionAllocator=allocator, using_allocator=enter
    )
    cupy = types.SimpleNamespace(from_dlpack=torch.from_dlpack, linalg=torch.linalg, cuda=cuda)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    current = types.SimpleNamespace(cuda_stream=42)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current)
    a = bures.covariances(bures.SMOKE[1])[0].requires_grad_()
    found = cupy_eigh.cupy_eigh()(a)
    torch.testing.assert_close(found[0], torch.linalg.eigvalsh(a.detach()))
    assert entered == [42, "torch's memory"]


@pytest.mark.parametrize("family", [bures.FAMILY, sqrtm.FAMILY], ids=lambda f: f.op)
def test_cupy_is_missing_without_its_package(family, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError):
        provider(family, "cupy").make()
