"""torch.compile and torch.export of every public function and module."""

import io
from pathlib import Path

import pytest
import torch
from impls import FAST, IMPLS
from public_calls import CALLS, CAPABILITIES, NOT_CALLS, D, case_id, cases, tensors
from torch._dynamo.testing import CompileCounterWithBackend

import otkernels as ot

FEATURES = Path(__file__).parents[1] / "docs" / "features.md"

# One call of each way through the code runs always, with the fastest impl; all of them, compiled
# by AOTAutograd with every impl, in `make gate`.
QUICK_CALLS = [
    c
    for c in CALLS
    if str(c)
    in (
        "sliced_wasserstein: weights",
        "sliced_wasserstein_to_normal",
        "SlicedWassersteinLoss: epoch",
        "mmd: weights",
        "median_bandwidth",
        "mmd_blocks",
        "gaussian_wasserstein_to_normal",
        "mean_cov",
        "sqrtm",
        "wasserstein_circle",
        "sample_great_circles",
        "sample_frequencies",
        "sample_projections: sobol",
        "wae_bandwidths",
    )
]
# N of training: full batches, then last ones.
SIZES = (10, 10, 7, 9)


def run(function, call, inputs):
    """Results and gradients, with one seed for what is drawn."""
    leaves = [t.detach().clone().requires_grad_(k in call.wrt) for k, t in enumerate(inputs)]
    torch.manual_seed(1)
    results = tensors(function(*leaves))
    total = sum(t.double().sum() for t in results if t.requires_grad)
    wanted = [leaves[k] for k in call.wrt]
    grads = torch.autograd.grad(total, wanted) if wanted else ()
    return *(t.detach() for t in results), *grads


def close(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


def twins(call, impl):
    """Two builds of the call with the same state."""
    for _ in range(2):
        torch.manual_seed(0)
        yield call.build(impl)


def frames_of_sizes(call, impl, backend, device):
    """How many graphs were compiled after each of SIZES; results are those of eager calls."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    eager, function = twins(call, impl)
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    frames = []
    for n in SIZES:
        inputs = call.inputs(n, device=device)
        close(run(compiled, call, inputs), run(eager, call, inputs))
        frames.append(counter.frame_count)
    return frames


def expected_frames(call):
    """One graph for the first size, one more for all others."""
    if call.name == "mmd_test":  # its tiles are unrolled: one graph for every size
        return [1, 1, 2, 3]
    if call.name == "MaxSlicedWassersteinLoss":  # one more, as the second call has a warm start
        return [1, 2, 3, 3]
    return [1, 1, 2, 2]


@pytest.mark.parametrize(("call", "impl"), cases(FAST[:1], QUICK_CALLS), ids=case_id)
def test_a_changing_batch_compiles_twice(call, impl, device):
    assert frames_of_sizes(call, impl, "eager", device) == expected_frames(call)


@pytest.mark.slow
@pytest.mark.parametrize(("call", "impl"), cases(IMPLS), ids=case_id)
def test_every_call_compiles_with_static_and_dynamic_sizes(call, impl, device):
    assert frames_of_sizes(call, impl, "aot_eager", device) == expected_frames(call)


@pytest.mark.slow
@pytest.mark.parametrize(("call", "impl"), cases(FAST[:1]), ids=case_id)
def test_every_call_compiles_with_inductor(call, impl, device):
    """Inductor draws other numbers than eager torch from the same seed, unless told not to."""
    torch._dynamo.reset()
    eager, function = twins(call, impl)
    inputs = call.inputs(6, device=device)
    with torch._inductor.config.patch(fallback_random=True):
        compiled = torch.compile(function, fullgraph=True, dynamic=True)
        close(run(compiled, call, inputs), run(eager, call, inputs))


# --- export ---------------------------------------------------------------------------------------


class Model(torch.nn.Module):
    """An encoder with a loss on its codes, for which a prior is drawn outside."""

    def __init__(self, loss, n_inputs):
        super().__init__()
        self.encoder, self.loss, self.n_inputs = torch.nn.Linear(5, D), loss, n_inputs

    def forward(self, images, prior):
        codes = self.encoder(images)
        return self.loss(codes, prior) if self.n_inputs == 2 else self.loss(codes)


MODULES = [c for c in CALLS if isinstance(getattr(ot, c.name), type)]
EXPORTED = ["SlicedWassersteinLoss: fixed", "MMDLoss", "GaussianWassersteinToNormalLoss"]


def exported_is_equal(call, device, dynamic):
    """A program that was exported, saved and loaded gives the loss of the module."""
    torch.manual_seed(0)
    model = Model(call.build(FAST[0]), len(call.wrt)).to(device)
    n = torch.export.Dim("n", min=4, max=1000)
    shapes = {"images": {0: n}, "prior": {0: n}} if dynamic else None
    given = torch.randn(8, 5, device=device), torch.randn(8, D, device=device)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(model, given, dynamic_shapes=shapes), buffer)
    buffer.seek(0)
    program = torch.export.load(buffer).module()
    for size in (8, 6, 11) if dynamic else (8,):
        images = torch.randn(size, 5, device=device)
        prior = torch.randn(size, D, device=device)
        values = []
        for function in (program, model):
            torch.manual_seed(1)
            values.append(function(images, prior))
        close(values[:1], values[1:])


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("call", [c for c in MODULES if str(c) in EXPORTED], ids=case_id)
def test_a_module_with_a_loss_can_be_exported(call, dynamic, device):
    exported_is_equal(call, device, dynamic)


@pytest.mark.slow
@pytest.mark.parametrize("call", MODULES, ids=case_id)
def test_every_module_can_be_exported(call, device):
    exported_is_equal(call, device, dynamic=True)


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
        "export": "`torch.export`",
        "vmap": "`torch.func.vmap`",
        "grad": "`torch.func.grad`",
        "jvp": "forward mode",
        "autocast": "autocast",
        "second": "second derivatives",
        "graph": "CUDA graphs",
        "threads": "Python threads",
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
