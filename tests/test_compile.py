"""torch.compile and torch.export of every public function and module."""

import io

import pytest
import torch
from impls import FAST, IMPLS
from public_call import assert_alike
from public_calls import CALLS, case_id, cases, tensors
from public_inputs import D
from torch._dynamo.testing import CompileCounterWithBackend

import otkernels as ot

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
        assert_alike(a, b)


def twins(call, impl):
    """Two builds of the call with the same state."""
    for _ in range(2):
        torch.manual_seed(0)
        yield call.build(impl)


def further_graphs(call, impl, backend, device):
    """Graphs compiled after each of SIZES, less those of the first; results are those of eager."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    eager, function = twins(call, impl)
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    frames = []
    for n in SIZES:
        inputs = call.inputs(n, device=device)
        close(run(compiled, call, inputs), run(eager, call, inputs))
        frames.append(counter.frame_count)
    return [count - frames[0] for count in frames]


def expected_graphs(call, impl):
    """One more for all sizes but the first."""
    circle = call.name in ("wasserstein_circle", "sliced_wasserstein_sphere")
    if call.name == "mmd_test" or (circle and impl == "torch"):  # loops as long as N says, unrolled
        return [0, 0, 1, 2]
    if call.name == "MaxSlicedWassersteinLoss":  # one more, as the second call has a warm start
        return [0, 1, 2, 2]
    return [0, 0, 1, 1]


@pytest.mark.parametrize(("call", "impl"), cases(FAST[:1], QUICK_CALLS), ids=case_id)
def test_a_changing_batch_compiles_twice(call, impl, device):
    assert further_graphs(call, impl, "eager", device) == expected_graphs(call, impl)


@pytest.mark.slow
@pytest.mark.parametrize(("call", "impl"), cases(IMPLS), ids=case_id)
def test_every_call_compiles_with_static_and_dynamic_sizes(call, impl, device):
    assert further_graphs(call, impl, "aot_eager", device) == expected_graphs(call, impl)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own
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
EXPORTED = ["SlicedWassersteinLoss: fixed", "GaussianWassersteinToNormalLoss"]


def exported_is_equal(call, device, dynamic):
    """A program that was exported, saved and loaded gives the loss of the module, no gradient."""
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
    with pytest.raises(NotImplementedError, match="an exported program has values and no grad"):
        values[0].backward()


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("call", [c for c in MODULES if str(c) in EXPORTED], ids=case_id)
def test_a_module_with_a_loss_can_be_exported(call, dynamic, device):
    exported_is_equal(call, device, dynamic)


@pytest.mark.slow
@pytest.mark.parametrize("call", MODULES, ids=case_id)
def test_every_module_can_be_exported(call, device):
    if refusal := call.refusal("export", FAST[0]):
        with pytest.raises(refusal.error, match=refusal.match):
            exported_is_equal(call, device, dynamic=True)
    else:
        exported_is_equal(call, device, dynamic=True)


def test_an_exported_program_of_torch_has_gradients():
    """Those of the module: there are no operators of ours in it."""
    model = Model(ot.GaussianWassersteinLoss(impl="torch"), 2)
    given = torch.randn(8, 5), torch.randn(8, D)
    program = torch.export.export(model, given).module()
    grads = []
    for function in (program, model):
        grads += torch.autograd.grad(function(*given), function.encoder.weight)
    close(grads[:1], grads[1:])
