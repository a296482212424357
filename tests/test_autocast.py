"""Mixed precision: a region of autocast changes no bit, half inputs are read as they are."""

import pytest
import torch
from impls import QUICK
from public_calls import CALLS, case_id, cases, tensors

import otkernels as ot

HALVES = [torch.bfloat16, torch.float16]
EVERY = cases(QUICK)


def build(call, impl):
    torch.manual_seed(0)
    return call.build(impl)


def run(call, impl, inputs, dtype=None, *, backward_inside=False):
    """Results and gradients, the call in a region of autocast to ``dtype`` if one is given."""
    function, device = build(call, impl), inputs[0].device.type
    leaves = [t.detach().clone().requires_grad_(k in call.wrt) for k, t in enumerate(inputs)]
    torch.manual_seed(1)
    with torch.autocast(device, dtype, enabled=dtype is not None):
        results = tensors(function(*leaves))
    if not call.wrt:
        return results
    total = sum(t.double().sum() for t in results if t.requires_grad)
    with torch.autocast(device, dtype, enabled=backward_inside):
        grads = torch.autograd.grad(total, [leaves[k] for k in call.wrt])
    return *(t.detach() for t in results), *grads


def same_bits(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def size_of(t):
    return t.nan_to_num().abs().max().item()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("call", "impl"), EVERY, ids=case_id)
def test_a_region_changes_no_bit(call, impl, dtype, device):
    """Also where ``backward`` is called in the region, where torch would lower its products."""
    inputs = call.inputs(6, device=device)
    expected = run(call, impl, inputs)
    for inside in (False, True):
        same_bits(run(call, impl, inputs, dtype, backward_inside=inside), expected)


def test_a_region_entered_for_backward_alone():
    """Autocast is off where the product is taken, and on where its gradient is."""
    call = next(c for c in CALLS if str(c) == "mmd: polynomial")
    x, y = call.inputs(6)
    x.requires_grad_()
    value = call.build("torch")(x, y)
    (expected,) = torch.autograd.grad(value, x, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        (actual,) = torch.autograd.grad(value, x)
    same_bits([actual], [expected])


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("call", "impl"), EVERY, ids=case_id)
def test_half_inputs_are_read_as_they_are(call, impl, dtype, device):
    """The same as their float32 copies: results float32, gradients rounded once."""
    inputs = call.inputs(6, device=device, dtype=dtype)
    if refusal := call.refusal("half", impl):
        with pytest.raises(refusal.error, match=refusal.match):
            run(call, impl, inputs)
        return
    actual = run(call, impl, inputs, dtype)
    expected = run(call, impl, [t.float() for t in inputs])
    n = len(actual) - len(call.wrt)
    for a, b in zip(actual[:n], expected[:n], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * size_of(b), equal_nan=True)
    for k, a, b in zip(call.wrt, actual[n:], expected[n:], strict=True):
        assert a.dtype == inputs[k].dtype
        atol = 0.51 * torch.finfo(dtype).eps * size_of(b)
        torch.testing.assert_close(a.float(), b, rtol=0, atol=atol)


SHRINKING = {  # losses whose gradients shrink with the clouds
    "sliced": lambda x, y, impl: ot.sliced_wasserstein(x, y, n_projections=4, impl=impl),
    "line": lambda x, y, impl: ot.wasserstein_1d(x.mT, y.mT, impl=impl).sum(),
    "mmd": lambda x, y, impl: ot.mmd(x, y, bandwidth=1.0, impl=impl),
    "polynomial": lambda x, y, impl: ot.mmd(x, y, kernel="polynomial", impl=impl),
    "gaussian": lambda x, y, impl: ot.gaussian_wasserstein(x, y, impl=impl),
}


@pytest.mark.parametrize("impl", QUICK)
@pytest.mark.parametrize("loss", SHRINKING)
def test_a_loss_scaled_up_keeps_gradients_below_float16(loss, impl, device):
    """As GradScaler does: a gradient of float16 must not be rounded before it is scaled."""
    x, y = (torch.randn(64, 3, device=device).mul(2.0**-14).half() for _ in range(2))

    def gradient(x, y):
        x = x.clone().requires_grad_()
        torch.manual_seed(1)
        return torch.autograd.grad(2.0**16 * SHRINKING[loss](x, y, impl), x)[0]

    expected = gradient(x.float(), y.float())
    assert expected.abs().max() < 2.0**16 * 2e-5  # the gradient itself is subnormal in float16
    actual = gradient(x, y)
    assert actual.dtype == torch.float16
    atol = torch.finfo(torch.float16).eps * size_of(expected)
    torch.testing.assert_close(actual.float(), expected, rtol=0, atol=atol)
