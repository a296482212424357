"""GeomLoss's ``SamplesLoss`` for kernel norms, value for value: change the import, keep the calls.

    from otkernels.compat.geomloss import SamplesLoss

Arguments, defaults, calls, weights, shapes, dtypes and the factor 1/2 are those of GeomLoss 0.3.1.
GeomLoss is not imported. Whatever differs from it is listed with the class, and in docs/compat.md.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .. import _check, _ops
from .._kernel_sums import discrepancy
from .._kernels import KERNELS
from .._types import Impl

__all__ = ["SamplesLoss"]

LOSSES = ("gaussian", "laplacian", "energy")
OTHER_LOSSES = ("sinkhorn", "hausdorff")
BACKENDS = ("auto", "tensorized", "online", "multiscale")
NAME = "SamplesLoss"


class SamplesLoss(nn.Module):
    """GeomLoss's ``SamplesLoss`` for "gaussian", "laplacian" and "energy": half of an MMD^2.

    1/2 sum_ij a_i a_j k(x_i, x_j) + 1/2 sum_ij b_i b_j k(y_i, y_j) - sum_ij a_i b_j k(x_i, y_j),
    with weights as they are given, of whatever sign and total. With r = |x - y| the kernel is
    exp(-r^2 / 2 blur^2), exp(-r / blur) or -r.

    Call it with (x, y), (a, x, b, y) or (l_x, a, x, l_y, b, y): points x (N, D) or (B, N, D) and
    y (M, D) or (B, M, D), weights (N,) or (N, 1), (B, N) or (B, N, 1), uniform without them, and
    labels of clusters (N,) or (N, 1), which change nothing. The result is () or (B,), in x's dtype.

    Args:
        loss: "gaussian", "laplacian" or "energy".
        p: for "sinkhorn" only, so without effect; likewise reach, scaling, cost and debias.
        blur: bandwidth of "gaussian" and "laplacian", a positive number.
        reach: see p.
        diameter: for clusters only, and there are none; likewise truncate, cluster_scale, verbose.
        scaling: see p.
        truncate: see diameter. Every pair counts.
        cost: see p.
        kernel: only None.
        cluster_scale: see diameter.
        debias: see p.
        potentials: return the pair of a_i's and b_j's factors instead, sum_j a_j k(x_i, x_j) -
            sum_j b_j k(x_i, y_j) (B, N) and sum_j b_j k(y_i, y_j) - sum_j a_j k(y_i, x_j) (B, M);
            B = 1 without a batch, as in GeomLoss. They carry no gradient.
        verbose: see diameter.
        backend: "auto", "tensorized", "online" or "multiscale": one exact form stands for all.
        impl: "torch", "cpu" or "triton"; None picks the fastest for the device.

    Gradients: x, y and both weights; first order ("torch" also higher).

    Differs from GeomLoss: distances have no floor. Without KeOps, GeomLoss takes r >= 1e-4 for
        "energy" and r / blur >= 1e-4 for "laplacian", for a point and itself too: its value is
        lower by (sum a_i^2 + sum b_j^2) / 2 times 1e-4, or times 1 - exp(-1e-4), and a pair below
        the floor has no gradient. Far from the origin in float32 it is wrong by the rounding of
        |x|^2 / blur^2. Its second derivatives are wrong. Its "multiscale" leaves out pairs some
        truncate times blur apart. Its potentials carry a gradient, and those of "multiscale" are in
        an order of clusters.

    Raises:
        ValueError: shape, device, dtype or option that does not fit; not 2, 4 or 6 tensors.
        TypeError: not a floating tensor.
        NotImplementedError: "sinkhorn", "hausdorff", a kernel of one's own, a blur that is a
            tensor, labels with a batch; a second derivative of "cpu" or "triton".

    >>> loss = SamplesLoss("energy")
    >>> loss(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])).item()
    5.0
    """

    def __init__(
        self,
        loss: str = "sinkhorn",
        p: float = 2,
        blur: float = 0.05,
        reach: float | None = None,
        diameter: float | None = None,
        scaling: float = 0.5,
        truncate: float | None = 5,
        cost: Any = None,
        kernel: None = None,
        cluster_scale: float | None = None,
        debias: bool = True,
        potentials: bool = False,
        verbose: bool = False,
        backend: str = "auto",
        *,
        impl: Impl | None = None,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.p = p
        self.blur = blur
        self.reach = reach
        self.diameter = diameter
        self.scaling = scaling
        self.truncate = truncate
        self.cost = cost
        self.kernel = kernel
        self.cluster_scale = cluster_scale
        self.debias = debias
        self.potentials = potentials
        self.verbose = verbose
        self.backend = backend
        self.impl = impl
        self._check_options()

    def extra_repr(self) -> str:
        """The options that have an effect."""
        blur = "" if self.loss == "energy" else f", blur={self.blur}"
        return f"{self.loss!r}{blur}, potentials={self.potentials}, impl={self.impl!r}"

    def forward(self, *args: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
        """The loss, or the pair of potentials, of two measures."""
        self._check_options()  # once more: they are attributes, and may have been set since
        labels, weights, (x, y) = _taken_apart(args)
        _check_points(x, y)
        a, b = (None, None) if weights is None else _weights(weights, (x, y))
        for argument, t, points in zip(("l_x", "l_y"), labels, (x, y), strict=True):
            if t is not None:
                self._check_labels(argument, t, points)
        impl = _ops.choose_impl(NAME, self.impl, x.device)
        norm = _potentials if self.potentials else _half
        with _ops.without_autocast(x.device):
            return norm(x, y, a, b, self._rates(x), kernel=self.loss, impl=impl)

    def _rates(self, x):
        factor = KERNELS[self.loss].factor
        rate = 1.0 if factor is None else factor / self.blur**2
        return x.new_full((1,), rate, dtype=_ops.accumulation_dtype(x.dtype))

    def _check_options(self):
        if self.loss in OTHER_LOSSES:
            condition = f"be one of {', '.join(map(repr, LOSSES))}"
            instead = "GeomLoss itself for optimal transport and Hausdorff losses"
            raise _check.unsupported(NAME, "loss", condition, repr(self.loss), instead)
        _check.one_of(NAME, "loss", self.loss, LOSSES)
        if self.kernel is not None:
            got = type(self.kernel).__name__
            instead = "GeomLoss itself for a kernel of one's own"
            raise _check.unsupported(NAME, "kernel", "be None", got, instead)
        _check.one_of(NAME, "backend", self.backend, BACKENDS)
        if self.impl is not None:
            _check.one_of(NAME, "impl", self.impl, _check.IMPLS)
        if KERNELS[self.loss].factor is not None:
            _check_blur(self.blur)

    def _check_labels(self, argument, labels, points):
        ok = self.backend in ("auto", "multiscale")
        condition = "be 'auto' or 'multiscale' with labels"
        _check.require(ok, NAME, "backend", condition, repr(self.backend))
        n, shape = points.shape[-2], tuple(labels.shape)
        if points.dim() == 3:
            condition, instead = "be None with a batch", "(a, x, b, y): labels change nothing"
            raise _check.unsupported(NAME, argument, condition, shape, instead)
        _check.require(shape in ((n,), (n, 1)), NAME, argument, f"have shape ({n},)", shape)


def _check_blur(blur):
    if isinstance(blur, torch.Tensor):
        instead = "points divided by it, with blur=1"
        raise _check.unsupported(NAME, "blur", "be a number", "a tensor", instead)
    _check.positive(NAME, "blur", blur)


def _taken_apart(args):
    """The arguments of a call as pairs: labels, weights (None if there are none), points."""
    if len(args) == 2:
        return (None, None), None, args
    if len(args) == 4:
        a, x, b, y = args
        return (None, None), (a, b), (x, y)
    condition = "be (x, y), (a, x, b, y) or (l_x, a, x, l_y, b, y)"
    _check.require(len(args) == 6, NAME, "arguments", condition, f"{len(args)} of them")
    l_x, a, x, l_y, b, y = args
    return (l_x, l_y), (a, b), (x, y)


def _check_points(x, y):
    _check.clouds(NAME, x, y)
    ok = x.dim() in (2, 3)
    _check.require(ok, NAME, "x", "have shape (N, D) or (B, N, D)", tuple(x.shape))
    ok = x.shape[:-2] == y.shape[:-2]
    condition = f"have x's batch {tuple(x.shape[:-2])} before (M, D)"
    _check.require(ok, NAME, "y", condition, tuple(y.shape))


def _weights(weights, clouds):
    """Weights of both clouds, float64 and in the shape of the points."""
    for argument, given, of, points in zip("ab", weights, "xy", clouds, strict=True):
        _check.floating(NAME, argument, given)
        shape = tuple(points.shape[:-1])
        ok = tuple(given.shape) in (shape, (*shape, 1))
        condition = f"have shape {shape} or {(*shape, 1)}, one weight a point of {of}"
        _check.require(ok, NAME, argument, condition, tuple(given.shape))
        given = given.reshape(shape)
        _check.weights(NAME, argument, given, shape[-1], points, of)
        yield given.double()


def _half(x, y, a, b, rates, **options):
    return (0.5 * discrepancy(x, y, a, b, rates, **options)).to(x.dtype)


def _potentials(x, y, a, b, rates, **options):
    """The derivatives of half the discrepancy by the weights: (B, N) and (B, M)."""
    x, y = (t.detach().reshape(-1, *t.shape[-2:]) for t in (x, y))
    a, b = (
        points.new_full(points.shape[:-1], 1 / points.shape[-2], dtype=torch.float64)
        if weights is None
        else weights.detach().reshape(points.shape[:-1])
        for points, weights in ((x, a), (y, b))
    )
    a, b = a.requires_grad_(), b.requires_grad_()
    with torch.enable_grad():
        total = 0.5 * discrepancy(x, y, a, b, rates, **options).sum()
    return tuple(t.to(x.dtype) for t in torch.autograd.grad(total, (a, b)))
