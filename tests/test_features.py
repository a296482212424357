"""docs/features.md says what the public calls do, and what they refuse by name."""

from pathlib import Path

import pytest
import torch
from impls import QUICK
from public_call import CAPABILITIES, assert_alike
from public_calls import CALLS, NOT_CALLS, case_id, cases, tensors
from torch import func

import otkernels as ot
from otkernels import projections

FEATURES = Path(__file__).parents[1] / "docs" / "features.md"
EVERY = cases(QUICK)
# torch's own, in jvp
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


def results(call, impl):
    """The call as a function of tensors, with one seed for what is drawn."""
    torch.manual_seed(0)
    function = call.build(impl)

    def run(*given):
        torch.manual_seed(1)
        return tensors(function(*given))

    return run


def does(call, impl, capability, action):
    """The action runs, or raises what the table says."""
    if refusal := call.refusal(capability, impl):
        with pytest.raises(refusal.error, match=refusal.match):
            action()
    else:
        action()


# --- what no other test asks of every call --------------------------------------------------------


@pytest.mark.parametrize(("call", "impl"), [c for c in EVERY if c[0].draws], ids=case_id)
def test_vmap_of_calls_that_draw(call, impl):
    """With one draw for all problems it is a loop over them; each may have its own."""
    run, given = results(call, impl), call.inputs(6, 2)
    found = func.vmap(run, randomness="same")(*given)
    loop = [run(*problem) for problem in zip(*given, strict=True)]
    for out, *each in zip(found, *loop, strict=True):
        assert_alike(out, torch.stack(each))
    own = func.vmap(run, randomness="different")(*given)
    assert all(out.isfinite().all() for out in own)
    assert any(not torch.equal(out[0], out[1]) for out in own)


@pytest.mark.parametrize(
    ("call", "impl"), [c for c in EVERY if c[0].draws and c[0].wrt], ids=case_id
)
def test_forward_mode_of_calls_that_draw(call, impl):
    run, given = results(call, impl), call.inputs(6)

    def total(*given):
        return sum(t.double().sum() for t in run(*given))

    leaves = [t.requires_grad_() for t in given]
    grads = torch.autograd.grad(total(*leaves), leaves)
    points = tuple(t.detach() for t in given)
    directions = tuple(torch.randn_like(t) for t in points)

    def forward():
        _, tangent = func.jvp(total, points, directions)
        expected = sum((g * d).double().sum() for g, d in zip(grads, directions, strict=True))
        assert_alike(tangent, expected.to(tangent))

    does(call, impl, "jvp", forward)


@pytest.mark.parametrize(("call", "impl"), [c for c in EVERY if c[0].wrt], ids=case_id)
def test_second_derivatives(call, impl):
    run = results(call, impl)
    leaves = [t.requires_grad_(k in call.wrt) for k, t in enumerate(call.inputs(6))]
    wanted = [leaves[k] for k in call.wrt]
    total = sum(t.square().sum() for t in run(*leaves) if t.requires_grad)
    grads = torch.autograd.grad(total, wanted, create_graph=True)

    def twice():
        for g in torch.autograd.grad(sum(g.square().sum() for g in grads), wanted):
            assert g.isfinite().all()

    does(call, impl, "second", twice)


# torch's, of speed: a mapped axis may come last
@pytest.mark.filterwarnings("ignore:.*searchsorted.*non-contiguous:UserWarning")
@pytest.mark.parametrize("loss", [ot.wasserstein_1d, ot.wasserstein_circle])
def test_weights_have_every_derivative(loss):
    """Their term of the loss is left out where none is asked for, in either mode and in vmap."""
    u, v = torch.randn(2, 6, dtype=torch.float64)
    a, direction = torch.rand(2, 2, 6, dtype=torch.float64).add(0.1)

    def cost(a):
        return loss(u, v, a=a, impl="torch")

    leaf = a.clone().requires_grad_()
    (expected,) = torch.autograd.grad(cost(leaf[0]) + cost(leaf[1]), leaf)
    assert (expected != 0).all()
    found = func.grad(lambda a: func.vmap(cost)(a).sum())(a)
    torch.testing.assert_close(found, expected)
    _, tangent = func.jvp(cost, (a[0],), (direction[0],))
    torch.testing.assert_close(tangent, (expected[0] * direction[0]).sum())


def test_sobol_points_are_refused_in_a_cuda_graph(monkeypatch):
    class OnGPU:
        is_cuda = True

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(NotImplementedError, match="sample_projections.*CUDA graph.*drawn before"):
        projections._sobol(OnGPU(), 3, 4)


# --- the table ------------------------------------------------------------------------------------


def test_the_table_has_every_public_name():
    assert {c.name for c in CALLS} | set(NOT_CALLS) == set(ot.__all__)
    assert not {c.name for c in CALLS} & set(NOT_CALLS)
    assert len({str(c) for c in CALLS}) == len(CALLS)
    assert all(set(c.refusals) <= set(CAPABILITIES) for c in CALLS)


def listed(calls):
    return ", ".join(f"`{name}`" for name in dict.fromkeys(str(c) for c in calls))


def cell(capability, impl):
    """What docs/features.md says of a capability of all calls with an impl."""
    calls = [c for c in CALLS if impl in c.impls and c.applies(capability)]
    able = [c for c in calls if c.refusal(capability, impl) is None]
    refusals = {}
    for c in calls:
        if c not in able:
            refusals.setdefault(c.refusal(capability, impl), []).append(c)
    if not refusals:
        return "yes"
    errors = {no: f'`{no.error.__name__}`, "{no.match}"' for no in refusals}
    if len(able) > len(calls) / 2:
        return "yes; no for " + "; ".join(
            f"{listed(of)}: {errors[no]}" for no, of in refusals.items()
        )
    text = "no: " + "; ".join(errors.values())
    return f"{text}; yes for {listed(able)}" if able else text


def table():
    head = '| | `"torch"` | `"cpu"` | `"triton"` | without `impl=` |\n|---|---|---|---|---|'
    titles = {
        "compile": "`torch.compile(fullgraph=True)`",
        "export": "`torch.export`, values",
        "vmap": "`torch.func.vmap`",
        "grad": "`torch.func.grad`",
        "jvp": "forward mode",
        "autocast": "autocast",
        "second": "second derivatives",
        "half": "float16, bfloat16",
    }
    rows = (
        f"| {titles[c]} | "
        + " | ".join(cell(c, i) for i in ("torch", "cpu", "triton", None))
        + " |"
        for c in CAPABILITIES
    )
    return "\n".join([head, *rows])


def test_the_page_has_the_table():
    assert table() in FEATURES.read_text(), f"docs/features.md must hold\n{table()}"
