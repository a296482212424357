"""Every public call on a GPU gives the numbers that it gives on the CPU in float64."""

import functools

import pytest
import torch
from gpu_support import (
    DEVICE,
    FOUND,
    INTERPRETED,
    MARKS,
    needs_hardware,
    same_bits,
    shrink,
    sizes,
    takes,
)
from public_call import assert_alike
from public_calls import CALLS, case_id, tensors
from support import assert_close64
from torch.overrides import TorchFunctionMode

import otkernels as ot

pytestmark = MARKS

N = 12  # points of a cloud


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    shrink(monkeypatch)


class HostDraws(TorchFunctionMode):
    """Draws from torch's global stream are the same numbers on each device and in each dtype."""

    DRAWS = (torch.rand, torch.randn, torch.randint)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func not in self.DRAWS:
            return func(*args, **kwargs)
        device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
        real = func is not torch.randint
        drawn = func(*args, device="cpu", dtype=torch.float64 if real else torch.int64, **kwargs)
        return drawn.to(device, dtype or (torch.float32 if real else torch.int64))


def fast_impl(call):
    return "triton" if "triton" in call.impls else None


def results(call, impl, inputs, device, dtype=None):
    """What it returns, and the gradients of the sum, where there are some."""
    torch.manual_seed(1)
    inputs = [t.detach().to(device, dtype) for t in inputs]
    leaves = [t.requires_grad_(k in call.wrt) for k, t in enumerate(inputs)]
    with HostDraws():
        function = call.build(impl)
        if isinstance(function, torch.nn.Module):
            function.to(device)
            if dtype and getattr(function, "reference", None) is not None:
                function.set_reference(function.reference.to(dtype))  # moving keeps its dtype
        values = tensors(function(*leaves))
    if not call.wrt:
        return values
    total = sum(t.double().sum() for t in values if t.requires_grad)
    return *(t.detach() for t in values), *torch.autograd.grad(total, [leaves[k] for k in call.wrt])


@pytest.mark.parametrize("call", CALLS, ids=case_id)
def test_the_numbers_of_the_cpu_in_float64(call):
    inputs = call.inputs(N)
    actual = results(call, fast_impl(call), inputs, DEVICE)
    expected = results(call, "torch" if call.impls[0] else None, inputs, "cpu", torch.float64)
    assert len(actual) == len(expected)
    for out, reference in zip(actual, expected, strict=True):
        if call.name not in FROM_THE_HOST:
            assert out.device.type == DEVICE.type
        assert_alike(out.double().cpu(), reference.double())


# Their sizes alone are those of the input, and they draw for torch's default device.
FROM_THE_HOST = ("sample_projections", "sample_great_circles", "sample_frequencies")

# What docs/features.md excepts: Sobol' points come from the host.
WITHOUT_WAITS = [call for call in CALLS if call.variant != "sobol"]


@needs_hardware
@pytest.mark.parametrize("call", WITHOUT_WAITS, ids=case_id)
def test_no_call_waits_for_the_device(call):
    function, inputs = call.build(fast_impl(call)), [t.to(DEVICE) for t in call.inputs(N)]
    if isinstance(function, torch.nn.Module):
        function.to(DEVICE)

    def step():
        leaves = [t.detach().requires_grad_(k in call.wrt) for k, t in enumerate(inputs)]
        total = sum(t.double().sum() for t in tensors(function(*leaves)))
        if total.requires_grad:
            total.backward()

    with torch.device(DEVICE):
        step()
        step()  # a module may take another way the second time
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def chosen(*names):
    return [call for call in CALLS if str(call) in names]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "call",
    chosen("sliced_wasserstein", "mmd: imq, unbiased", "gaussian_wasserstein", "sqrtm"),
    ids=case_id,
)
def test_a_region_of_autocast_changes_no_bit(call, dtype):
    inputs = call.inputs(N)
    expected = results(call, "triton", inputs, DEVICE)
    with torch.autocast(DEVICE.type, dtype):
        actual = results(call, "triton", inputs, DEVICE)
    same_bits(actual, expected)


@needs_hardware  # the CPU's C++ is compiled in tests/test_compile.py
@pytest.mark.parametrize(
    "call",
    chosen("sliced_wasserstein", "mmd: imq, unbiased", "gaussian_wasserstein", "mean_cov"),
    ids=case_id,
)
def test_inductor(call):
    function, inputs = call.build("triton"), [t.to(DEVICE) for t in call.inputs(N)]
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True)

    def run(function):
        leaves = [t.detach().requires_grad_(k in call.wrt) for k, t in enumerate(inputs)]
        values = tensors(function(*leaves))
        grads = torch.autograd.grad(sum(t.sum() for t in values), [leaves[k] for k in call.wrt])
        return *(t.detach() for t in values), *grads

    for out, expected in zip(run(compiled), run(function), strict=True):
        assert_alike(out, expected)


# --- views --------------------------------------------------------------------------------------


def view_past_2_31(t, axis):
    """The tensor, float16, with a stride along the axis that leads past 2^31 numbers."""
    t = t.half()
    step = sizes(2**31, 100) // (t.shape[axis] - 1) // 8 * 8 + 8
    strides = list(t.stride())
    strides[axis] = step
    memory = torch.zeros(step * (t.shape[axis] - 1) + t.numel(), dtype=t.dtype, device=DEVICE)
    view = memory.as_strided(t.shape, strides).copy_(t)
    assert view.stride(axis) == step
    return view


def clouds(function, **options):
    theta = torch.nn.functional.normalize(torch.randn(8, 20, device=DEVICE), dim=0)
    given = {"projections": theta} if "sliced" in function.__name__ else {}
    return functools.partial(function, impl="triton", **given, **options)


STRIDED = {
    "sliced": lambda x: clouds(ot.sliced_wasserstein)(x, x[..., 1:, :] + 1),
    "to_normal": lambda x: clouds(ot.sliced_wasserstein_to_normal)(x),
    "line": lambda x: ot.wasserstein_1d(x.mT, x.mT + 1, impl="triton"),
    "mmd": lambda x: ot.mmd(x, x + 1, bandwidth=1.0, impl="triton"),
    "gaussian": lambda x: ot.gaussian_wasserstein(x, 2 * x + 1, impl="triton"),
    "mean_cov": lambda x: ot.mean_cov(x, impl="triton")[1],
    "covariances": lambda x: ot.bures_wasserstein(x[..., 0], x, x[..., 0], 2 * x, impl="triton"),
}


def assert_same_numbers(actual, expected):
    """But for roundings: strides choose layouts, and these the order in which a sum is taken."""
    for out, reference in zip(actual, expected, strict=True):
        assert_close64(out, reference.double(), terms=100)


@takes(6)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", STRIDED)
def test_strides_past_2_31(name, axis):
    """The results of the same numbers side by side."""
    x = torch.randn(2, sizes(64, 8), 8, device=DEVICE)
    if name == "covariances":
        x = x @ x.mT / 8 + torch.eye(x.shape[1], device=DEVICE)
    view = view_past_2_31(x, axis)

    def run(x):
        leaf = x.detach().requires_grad_()
        torch.manual_seed(0)
        value = STRIDED[name](leaf)
        return value.detach(), *torch.autograd.grad(value.sum(), leaf)

    assert_same_numbers(run(view), run(view.clone(memory_format=torch.contiguous_format)))


@pytest.mark.parametrize("name", STRIDED)
def test_expanded_problems(name):
    """One problem with a stride of 0: the same result for each."""
    x = torch.randn(sizes(64, 8), 8, device=DEVICE)
    x = x @ x.mT / 8 + torch.eye(len(x), device=DEVICE) if name == "covariances" else x
    torch.manual_seed(0)
    many = STRIDED[name](x.expand(3, *x.shape))
    torch.manual_seed(0)
    one = STRIDED[name](x.repeat(3, 1, 1))
    assert_same_numbers([many], [one])


# --- streams, generators, metrics ---------------------------------------------------------------


@pytest.mark.parametrize(
    "draw", [ot.sample_projections, ot.sample_great_circles, ot.sample_frequencies]
)
def test_generators(draw):
    def drawn(seed):
        generator = torch.Generator(DEVICE).manual_seed(seed)
        return draw(8, 16, generator=generator, device=DEVICE)

    assert drawn(0).device.type == DEVICE.type
    same_bits([drawn(0)], [drawn(0)])
    assert not torch.equal(drawn(0), drawn(1))


def metrics():
    pytest.importorskip("torchmetrics")
    from otkernels.metrics import FrechetDistance, SlicedWasserstein

    return {"frechet": FrechetDistance, "sliced": SlicedWasserstein}


@pytest.mark.parametrize("name", ["frechet", "sliced"])
def test_metrics(name):
    """Directions of a metric are drawn on the host, so they are the same on each device."""
    n = sizes(2000, 20)
    x, y = torch.randn(n, 6), 1.5 * torch.randn(n - 3, 6) + 0.3

    def computed(device):
        metric = metrics()[name](num_features=6).to(device)
        for points, real in ((x, True), (y, False)):
            for part in points.to(device).tensor_split(3):
                metric.update(part, real=real)
        return metric.compute().cpu()

    assert computed(DEVICE).isfinite()
    bound = 100 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(computed(DEVICE), computed("cpu"), rtol=bound, atol=0)


@needs_hardware
def test_two_streams_at_once():
    """Calls that overlap on the device share no memory: the bits of calls one after the other."""
    calls = [call for call in CALLS if "triton" in call.impls and not call.draws and call.wrt]
    given = [(call, call.build("triton")) for call in calls if not call.name[0].isupper()]
    inputs = [[t.to(DEVICE) for t in call.inputs(200)] for call, _ in given]

    def run(k):
        return [t.clone() for t in tensors(given[k][1](*inputs[k]))]

    alone = [run(k) for k in range(len(given))]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]
    found = []
    for _ in range(5):
        for k in range(len(given)):
            for stream in streams:
                with torch.cuda.stream(stream):
                    found.append((k, run(k)))
    torch.cuda.synchronize()
    for k, values in found:
        same_bits(values, alone[k])


@pytest.mark.skipif(
    not FOUND or torch.cuda.device_count() < 2, reason="needs two GPUs"
)  # fmt: skip
@pytest.mark.parametrize("call", CALLS, ids=case_id)
def test_another_device_than_the_current(call):
    inputs = call.inputs(N)
    same_bits(
        [t.cpu() for t in results(call, fast_impl(call), inputs, "cuda:1")],
        [t.cpu() for t in results(call, fast_impl(call), inputs, "cuda:0")],
    )


def test_the_switch_is_not_left_on():
    """With a GPU the tests use it, whatever the environment says."""
    assert INTERPRETED != FOUND
