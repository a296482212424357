import pytest
import torch
from support import assert_close64

from otkernels.kernels.matmul import matmul


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("batch", "m", "n", "k"), [(2, 70, 65, 33), (1, 1, 1, 1), (3, 16, 2, 64), (1, 130, 5, 7)]
)
def test_matches_float64(batch, m, n, k, given, accumulate, device):
    """More than one tile either way, edges of tiles, transposed and broadcast operands."""
    dtype = torch.float64 if given == torch.float64 else torch.float32
    a = torch.randn(batch, k, m, dtype=dtype, device=device).mT
    b = torch.randn(k, n, device=device).to(given).expand(batch, k, n)
    out = torch.randn(batch, m, n, dtype=dtype, device=device)
    start = out.double().clone() if accumulate else 0
    matmul(a, b, out, accumulate=accumulate)
    assert_close64(out, start + a.double() @ b.double(), terms=k + 1)
