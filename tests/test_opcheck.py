"""torch's own checks of every raw operator: schema, fake tensors, autograd, AOT dispatch."""

import pytest
import torch
from impls import FAST, slow

import otkernels  # noqa: F401  (registers the operators)

F, T = False, True
# In the interpreter each run of an operator takes a second; how torch traces it is that of "cpu".
SHORT_CHECKS = ("test_schema", "test_faketensor")
FULL_CHECKS = (*SHORT_CHECKS, "test_autograd_registration", "test_aot_dispatch_dynamic")


def cloud(n, d=2, *, transposed=False):
    x = torch.randn(2, n, d)
    return x.mT.contiguous().mT if transposed else x


def masses(n):
    return torch.full((2, n), 1 / n, dtype=torch.float64)


def covariance(d):
    x = torch.randn(2, 2 * d, d)
    return x.mT @ x


def count(*numbers):
    return torch.tensor(numbers)


def line():
    """Rows (*batch, L, N) of L lines, which share masses (*batch, N) and counts (*batch)."""
    u, v, a, b = torch.randn(2, 5), torch.randn(2, 4), masses(5)[0], masses(4)[0]
    yield u, v, a, b, None, None, 1.5, [T, T, T, T]
    yield u, v, None, None, None, None, 2.0, [T, F, F, F]
    yield u.half(), v.half(), None, None, torch.tensor(3), torch.tensor(4), 2.0, [F, F, F, F]


def sliced():
    theta = torch.randn(2, 2, 2)
    yield cloud(5), cloud(4), theta, masses(5), masses(4), None, None, 2.0, [T] * 5
    yield cloud(5, transposed=True), cloud(5), theta, *(None,) * 4, 2.0, [T, F, F, F, F]
    counts = count(3, 5), count(4, 1)
    yield cloud(5).half(), cloud(4).half(), theta, None, None, *counts, 1.0, [F, T, T, F, F]


def to_normal():
    x, theta, target = cloud(5)[0], torch.randn(2, 3), torch.arange(5.0)
    yield x.mT.contiguous().mT, theta, target, torch.tensor(3), [T, T]
    yield x.half(), theta, target, None, [T, F]


def kernel_sums():
    coefficients = torch.tensor([1.5, 1.0, -2.0]).double().expand(2, 3)
    rates = torch.tensor([0.5, 2.0]).expand(2, 2)
    x, y, strided = cloud(5, 9), cloud(4, 9), cloud(5, 9, transposed=True)
    own = masses(5), masses(4)
    yield x, y, *own, coefficients, rates, None, None, "cauchy", [T] * 3, T, [T] * 5
    needs, counts = [F, T, F, F, F], (count(3, 5), count(4, 1))
    yield strided, y, *own, None, rates[:, :1], *counts, "laplacian", [F, T, T], F, needs


def moments():
    yield cloud(5, 3, transposed=True), masses(5), 1, T
    yield cloud(5, 3), None, 0, F


def fidelity():
    rows, s = cloud(2, 3), covariance(3)
    yield rows, s, T, F, 1e-14, F, [T, T]
    yield rows, cloud(2, 3), T, T, 1e-14, F, [T, F]
    yield s, covariance(3), F, F, 1e-14, F, [F, F]
    yield s, None, F, F, 1e-14, F, [T, F]


def square_root():
    yield covariance(2), F, 1e-7
    yield covariance(2), T, 1e-7


def lyapunov():
    yield (covariance(2), torch.randn(2, 2, 2))


def circle_plan():
    u, v = torch.rand(3, 5) - 0.5, torch.rand(3, 4) - 0.5
    weights = [torch.rand(3, n, dtype=torch.float64) for n in (5, 4)]
    yield u, v, *(w / w.sum(-1, keepdim=True) for w in weights), 2.0
    yield u, v, None, None, 2.0


def sobol_directions():
    yield torch.tensor([1, 2]), 5, 8


# Cases by the operator's name without its impl.
CASES = {
    "line": line,
    "sliced": sliced,
    "to_normal": to_normal,
    "kernel_sums": kernel_sums,
    "moments": moments,
    "fidelity": fidelity,
    "square_root": square_root,
    "lyapunov": lyapunov,
    "circle_plan": circle_plan,
    "sobol_directions": sobol_directions,
}


def registered():
    """Names of all operators of the library, from torch's own registry."""
    names = torch._C._dispatch_get_all_op_names()
    return sorted({n.removeprefix("otkernels::") for n in names if n.startswith("otkernels::")})


def stem(name):
    return name.removesuffix("_cpu").removesuffix("_triton")


def on(device, argument):
    return argument.to(device) if isinstance(argument, torch.Tensor) else argument


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("name", registered())
def test_opcheck(name, device):
    impl = name.rsplit("_", 1)[-1]
    if impl in ("cpu", "triton") and impl not in FAST:
        pytest.skip(f"{impl} does not run on {device}")
    host = name in ("sobol_directions", "circle_plan")
    op = getattr(torch.ops.otkernels, name).default
    cases = [tuple(a if host else on(device, a) for a in given) for given in CASES[stem(name)]()]
    if slow(impl):
        torch.library.opcheck(op, cases[0], test_utils=SHORT_CHECKS)
        return
    for case in cases:
        torch.library.opcheck(op, case, test_utils=FULL_CHECKS)


def test_every_operator_has_a_case_and_every_case_an_operator():
    assert {stem(name) for name in registered()} == set(CASES)
