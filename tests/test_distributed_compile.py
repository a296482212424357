"""Losses that exchange nothing but sums compile into one graph; the others break it by name."""

import pytest
import torch
from torch import distributed as dist

from otkernels import distributed


@pytest.fixture
def world(tmp_path):
    """A process group of this process alone."""
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    torch.compiler.reset()
    yield
    torch.compiler.reset()
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # of torch's tracing of collectives, of which there are many
def test_gaussian_is_one_graph(world):
    compiled = torch.compile(distributed.mean_cov, fullgraph=True, backend="aot_eager")
    for n in (5, 7):
        x = torch.randn(n, 2, requires_grad=True)
        both = []
        for function in (compiled, distributed.mean_cov):
            value = function(x)[1]
            both.append((value, torch.autograd.grad(value.square().sum(), x)[0]))
        torch.testing.assert_close(*both)


@pytest.mark.filterwarnings("ignore")
def test_mmd_is_not(world):
    compiled = torch.compile(distributed.mmd, fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported):
        compiled(torch.randn(5, 2), torch.randn(4, 2), bandwidth=1.0)
