"""docs/conventions.md: both sides of every row, evaluated as they are printed."""

import math
import re
from functools import partial
from pathlib import Path

import geomloss
import ot
import pytest
import scipy.stats
import torch
from sklearn.gaussian_process import kernels
from sklearn.metrics import pairwise
from torchmetrics.image import fid, kid

import otkernels
import otkernels.metrics
from otkernels import mmd, wasserstein_1d

PAGE = Path(__file__).parents[1] / "docs" / "conventions.md"
N, M, D = 7, 5, 3
SCALES = (0.1, 0.2, 0.5, 1, 2, 5, 10)
EPS = torch.finfo(torch.float64).eps
LIBRARIES = {"ot": ot, "scipy": scipy}
for library in (math, geomloss, pairwise, kernels, kid, fid, otkernels, otkernels.metrics):
    LIBRARIES |= vars(library)
LARGEST = 1000.0  # no kernel value, cost or weighted sum of kernels in the rows is above this


def rows():
    """(heading, theirs, ours) of each row whose cells are code."""
    heading = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            heading = line[3:]
        cells = re.fullmatch(r"\| `([^`]+)` \| `([^`]+)` \|", line)
        if cells:
            yield heading, *cells.groups()


# --- penalties of auto-encoders, from their definitions -----------------------------------------


def distances2(x, y):
    return ((x[:, None] - y[None]) ** 2).sum(-1)


def imq(r2, base):
    return sum(c * base / (c * base + r2) for c in SCALES)


def without_diagonal(k):
    return k.sum() - k.diagonal().sum()


def u_statistic(kernel, z, q):
    zz, qq, zq = (kernel(distances2(s, t)) for s, t in ((z, z), (q, q), (z, q)))
    return (without_diagonal(zz) + without_diagonal(qq)) / (N * (N - 1)) - 2 * zq.mean()


def wae_imq(z, q, scale):
    return u_statistic(partial(imq, base=2 * D * scale**2), z, q)


def wae_rbf_s2(z, q):
    """Squared bandwidth: two squared distances of rank N(N - 1)/2 from above."""
    ranked = (distances2(*t).flatten().sort(descending=True).values for t in ((z, q), (z, z)))
    return sum(t[(N * N - N) // 2 - 1].item() for t in ranked)


def wae_rbf(z, q):
    s2 = wae_rbf_s2(z, q)
    return u_statistic(lambda r2: (-r2 / 2 / s2).exp(), z, q)


def pythae_imq(z, q, h):
    return u_statistic(partial(imq, base=2 * D * h**2), z, q)


def pythae_rbf(z, q, h):
    return u_statistic(lambda r2: (-r2 / (2 * D * h**2)).exp(), z, q)


def pythae_early(z, q, h):
    zz, qq, zq = (imq(distances2(s, t), 2 * D * h**2) for s, t in ((z, z), (q, q), (z, q)))
    zz, qq = ((k - k.diagonal()).sum() / (N - 1) for k in (zz, qq))
    return zz + qq - 2 * zq.sum() / N


def pytorch_vae_imq(z, q, w, var, eps=0.0):
    c = 2 * D * var
    zz, qq, zq = (
        without_diagonal(c / (eps + c + distances2(s, t))) for s, t in ((z, z), (q, q), (z, q))
    )
    return w / (N * (N - 1)) * (zz + qq - 2 * zq)


def pytorch_vae_rbf(z, q, w, var):
    def k(s, t):
        return (-((s[:, None] - t[None]) ** 2).mean(-1) / (2 * D * var)).exp().mean()

    return w / (N * (N - 1)) * (k(z, z) + k(q, q) - 2 * k(z, q))


def pytorch_vae_swd(z, q, theta, w):
    gaps = (z @ theta).sort(0).values - (q @ theta).sort(0).values
    return w / (N * (N - 1)) * (gaps**2).mean()


# --- the page -----------------------------------------------------------------------------------


def r2(x, y):
    return distances2(torch.as_tensor(x), torch.as_tensor(y))


def V(k, x, y):
    xx, yy, xy = (torch.as_tensor(k(s, t)).mean() for s, t in ((x, x), (y, y), (x, y)))
    return xx + yy - 2 * xy


def gaussians(*batch):
    """Means (*batch, D) and covariances (*batch, D, D), of traces below LARGEST."""
    points = torch.randn(*batch, 4 * D, D, dtype=torch.float64)
    return torch.randn(*batch, D, dtype=torch.float64), points.mT @ points / (4 * D)


def updated(metric, x, y):
    metric.update(x, real=True)
    metric.update(y, real=False)
    return metric


def names():
    """What the rows speak of."""
    x, y, z, q = (torch.randn(n, D, dtype=torch.float64) for n in (N, M, N, N))
    u, v = torch.randn(N, dtype=torch.float64), torch.randn(M, dtype=torch.float64)
    a, b = (torch.rand(n, dtype=torch.float64) + 0.1 for n in (N, M))
    theta = torch.nn.functional.normalize(torch.randn(D, 6, dtype=torch.float64), dim=0)
    arrays = x.numpy(), y.numpy()
    var = 2.0
    one = math.sqrt(2 * D * var)
    between = one**2 / (one**2 + distances2(z, q))
    (m, S), (n, T) = gaussians(), gaussians()
    (ms, Ss), (ns, Ts) = gaussians(3), gaussians(2)
    features = torch.nn.Identity()
    features.num_features = D
    return {
        **{"x": x, "y": y, "z": z, "q": q, "u": u, "v": v, "theta": theta},
        **{"a": a / a.sum(), "b": b / b.sum(), "V": lambda k: V(k, *arrays)},
        **{"s": 1.3, "g": 0.7, "c": 1.7, "sigma": 1.9, "scale": 0.8, "h": 1.2, "w": 3.0},
        "var": var,
        **{"m": m, "n": n, "S": S, "T": T, "ms": ms, "ns": ns, "Ss": Ss, "Ts": Ts},
        **{"features": features, "updated": lambda metric: updated(metric, x, y)},
        "imq": {"kernel": "imq", "bandwidth": one, "unbiased": True},
        "paired": lambda *_, **__: between.diagonal().mean(),
        "between": lambda *_, **__: between.mean(),
    }


@pytest.mark.filterwarnings("ignore:The use of `x.T`", "ignore:Sparse invariant")  # POT's own
@pytest.mark.parametrize(("theirs", "ours"), [r[1:] for r in rows()], ids=[r[1] for r in rows()])
def test_row(theirs, ours):
    given = {**LIBRARIES, **globals(), **names()}
    theirs, ours = (torch.as_tensor(eval(side, given)) for side in (theirs, ours))
    assert theirs.shape == ours.shape
    assert theirs.abs().max() > 1e-3  # a row of zeros would say nothing
    bound = (N * M) ** 0.5 * EPS * LARGEST
    torch.testing.assert_close(theirs, ours, rtol=0, atol=bound, check_dtype=False)


def test_every_library_has_rows():
    found = {heading.split()[0] for heading, *_ in rows()}
    assert found == {"GeomLoss", "torchmetrics", "scikit-learn", "POT", "KeOps", "Wasserstein"}
    assert len(list(rows())) == PAGE.read_text().count("\n| `")  # none was missed for its form


# --- what the page says beside the rows ---------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2])
def test_geomloss_cost_has_a_half_for_squares(p):
    u, v = torch.randn(N, dtype=torch.float64), torch.randn(M, dtype=torch.float64)
    blur = 1e-3
    sinkhorn = geomloss.SamplesLoss("sinkhorn", p=p, blur=blur, scaling=0.99)
    near = sinkhorn(u[:, None], v[:, None])
    # The entropy of a plan is at most log(N M), times a temperature of blur^p, and three plans.
    bound = 3 * blur**p * math.log(N * M) + blur
    torch.testing.assert_close(near, wasserstein_1d(u, v, p=p) / p, rtol=0, atol=bound)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_kid_is_a_mean_over_subsets():
    z, q = torch.randn(9, D, dtype=torch.float64), torch.randn(8, D, dtype=torch.float64)
    metric = kid.KernelInceptionDistance(torch.nn.Identity(), subsets=4, subset_size=5)
    metric.set_dtype(torch.float64)
    metric.update(z, real=True)
    metric.update(q, real=False)
    torch.manual_seed(3)
    mean, deviation = metric.compute()
    torch.manual_seed(3)
    each = torch.stack(
        [
            mmd(
                *(t[torch.randperm(len(t))[:5]] for t in (z, q)), kernel="polynomial", unbiased=True
            )
            for _ in range(4)
        ]
    )
    torch.testing.assert_close(mean, each.mean())
    torch.testing.assert_close(deviation, each.std(correction=0))


def test_laplacian_of_scikit_learn_is_another_kernel():
    x, y = torch.randn(N, D, dtype=torch.float64), torch.randn(M, D, dtype=torch.float64)
    g = 0.7
    kernel = partial(pairwise.laplacian_kernel, gamma=g)
    line = x[:, :1], y[:, :1]
    ours = mmd(*line, kernel="laplacian", bandwidth=1 / g)
    torch.testing.assert_close(V(kernel, *(t.numpy() for t in line)), ours)
    ours = mmd(x, y, kernel="laplacian", bandwidth=1 / g)
    assert (V(kernel, x.numpy(), y.numpy()) / ours - 1).abs() > 0.01


def test_pot_keeps_the_best_of_the_directions_drawn():
    x, y = torch.randn(N, 8, dtype=torch.float64), torch.randn(N, 8, dtype=torch.float64)
    theta = otkernels.sample_projections(8, 20, dtype=torch.float64)
    drawn = ot.max_sliced_wasserstein_distance(x, y, projections=theta) ** 2
    assert otkernels.max_sliced_wasserstein(x, y, projections=theta) > 1.1 * drawn


def test_pot_returns_roots_on_the_sphere_and_from_its_solver():
    x, y = (3 * torch.randn(n, D, dtype=torch.float64) for n in (N, M))
    sliced = ot.solve_sample(x, y, method="sliced", n_projections=200).value
    mean = otkernels.sliced_wasserstein(x, y, n_projections=4000)
    assert abs(sliced - mean.sqrt()) < 0.2 * abs(sliced - mean)
    x, y = (t / t.norm(dim=-1, keepdim=True) for t in (x, y))
    circles = otkernels.sample_great_circles(D, 6, dtype=torch.float64)
    root = ot.sliced_wasserstein_sphere(x, y, projections=circles, n_projections=6)
    ours = otkernels.sliced_wasserstein_sphere(x, y, projections=circles)
    torch.testing.assert_close(root**2, ours, rtol=0, atol=1e-6)  # POT's search: 1e-7 of a turn


def test_early_pythae_shifts_the_value_and_multiplies_the_gradient():
    z, q = torch.randn(N, D, dtype=torch.float64), torch.randn(N, D, dtype=torch.float64)
    z.requires_grad_()
    early, now = (torch.autograd.grad(f(z, q, 1.0), z)[0] for f in (pythae_early, pythae_imq))
    torch.testing.assert_close(early, N * now)


def test_small_print_of_pytorch_vae():
    z, q = torch.randn(N, 128, dtype=torch.float64), torch.randn(N, 128, dtype=torch.float64)
    bandwidth = 128 * math.sqrt(2.0)
    assert (-distances2(z, q) / (2 * bandwidth**2)).exp().min() > 0.99
    z, q = z[:, :D], q[:, :D]
    change = pytorch_vae_imq(z, q, 1.0, 2.0, eps=1e-7) - pytorch_vae_imq(z, q, 1.0, 2.0)
    assert 0 < change.abs() < 4 * 1e-7 / (2 * D * 2.0)
