r"""Mean and covariance of weighted points.

    m = sum_i a_i x_i,    S = n / (n - correction) sum_i a_i (x_i - m) (x_i - m)^T

with masses a_i of total one; n counts those that are not 0. Both are at most quadratic in each
point, so the gradient of a fast form is plain torch code, and derivatives of any order are right.
"""

import torch
from torch import Tensor

from . import _check, _ops, _transforms
from ._measures import nan_out_of_range, normalised, without_padding
from ._products import product
from ._types import Impl

__all__ = ["mean_cov"]


def _fake(x, a, correction, double):
    dtype = torch.float64 if double else _ops.accumulation_dtype(x.dtype)
    *batch, _, d = x.shape
    return x.new_empty((*batch, d), dtype=dtype), x.new_empty((*batch, d, d), dtype=dtype)


# The raw op: mean (..., D) and covariance (..., D, D), exactly symmetric, of points (..., N, D)
# and masses (..., N), float64, None for 1/N each. Sums and results are float64 with ``double``.
_OPS = {
    impl: _ops.register(
        f"moments_{impl}",
        "(Tensor x, Tensor? a, int correction, bool double) -> (Tensor, Tensor)",
        f"{folder}.moments:moments",
        _fake,
    )
    for impl, folder in _ops.FOLDERS.items()
}


def mean_cov(
    x: Tensor,
    *,
    weights: Tensor | None = None,
    lengths: Tensor | None = None,
    correction: int = 0,
    validate: bool = False,
    impl: Impl | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of points.

    m = sum_i a_i x_i and S = n / (n - correction) sum_i a_i (x_i - m) (x_i - m)^T, with weights
    a_i of total one and n the number of those that are not 0: ``torch.cov`` of points as rows, for
    batches, at half the products. Points are centred before anything is squared, so their distance
    from the origin costs no digits; sums in float32 round, by some sqrt(N) eps of the variance.

    Args:
        x: (..., N, D) points, float16, bfloat16, float32 or float64.
        weights: (..., N) non-negative weights, any floating dtype, normalised to total mass one;
            None is uniform. Leading axes broadcast with x's.
        lengths: (...) integers: the first so many points of each cloud count, the rest is padding,
            of any content. None is all.
        correction: 0 for the covariance of the measure, 1 for the unbiased one, as in ``torch.cov``
            (whose ``aweights`` correct by the sum of squared weights instead).
        validate: check values too, which waits for a GPU: points and weights finite, weights not
            negative, lengths in range, more points than ``correction`` that count.
        impl: "torch", "cpu" or "triton"; None picks "triton" on a GPU and "cpu" on the CPU. An
            explicit choice is obeyed or refused.

    Returns:
        (mean, cov): (..., D) and (..., D, D); float32 (float64 for float64 input). ``cov`` is
        exactly symmetric, and NaN in problems with no more than ``correction`` points.

    Gradients: x and weights, of any order. A NaN, a negative weight or a length out of range makes
        mean, covariance and gradient of its own problem NaN, as far as they depend on it, and
        leaves the others alone.

    Raises:
        ValueError: shape or device that does not fit, no more points than ``correction``, an impl
            that cannot run here; lengths out of range on the CPU, and with ``validate`` whatever
            that checks.
        TypeError: not a floating tensor; lengths that are no integers.
        NotImplementedError: forward-mode derivatives of "cpu" or "triton".

    Cost: O(B N D^2) time; no copy of the points, but for their gradient.

    >>> import torch
    >>> mean, cov = mean_cov(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
    >>> mean.tolist(), cov.tolist()
    ([1.0, 3.0], [[1.0, 2.0], [2.0, 4.0]])
    """
    _check.cloud("mean_cov", "x", x)
    _check.not_negative_int("mean_cov", "correction", correction)
    n, condition = x.shape[-2], f"have more points than correction={correction}"
    _check.require(n > correction, "mean_cov", "x", condition, n)
    impl = _ops.choose_impl("mean_cov", impl, x.device)
    if weights is None and lengths is None:
        if validate:
            _check.finite("mean_cov", "x", x)
        points, masses = x, None
    else:
        points, masses = _weighed(x, weights, lengths, correction, validate)
    double = x.dtype == torch.float64
    return moments(points, masses, correction=correction, double=double, impl=impl)


def _weighed(x, weights, lengths, correction, validate):
    """Checked points (*batch, N, D), 0 in the padding, and masses (*batch, N) of total one."""
    n, batch = x.shape[-2], x.shape[:-2]
    if lengths is not None:
        _check.lengths("mean_cov", "lengths", lengths, n, x, validate)
        batch = _check.broadcastable("mean_cov", "lengths", lengths.shape, batch, "x's")
        x = without_padding(x, lengths, -2)
    if weights is None:
        weights = x.new_ones(n, dtype=torch.float64)
    else:
        _check.weights("mean_cov", "weights", weights, n, x, "x")
        shape = weights.shape[:-1]
        batch = _check.broadcastable("mean_cov", "weights", shape, batch, "x's")
    if lengths is not None:
        weights = without_padding(weights, lengths, -1)
    if validate:
        _check.finite("mean_cov", "x", x)
        _check.masses("mean_cov", "weights", weights)
        count = (weights != 0).sum(-1).min().item() if weights.numel() else n
        condition = f"have more points than correction={correction}"
        _check.require(count > correction, "mean_cov", "x", condition, count)
    masses = normalised(weights)
    if lengths is not None:
        masses = nan_out_of_range(masses, n, lengths[..., None])
    return x.expand(*batch, *x.shape[-2:]), masses.expand(*batch, n)


def moments(x, a, *, correction, double, impl):
    """Mean (*batch, D) and covariance (*batch, D, D), differentiable to any order.

    Args:
        x: (*batch, N, D) points.
        a: (*batch, N) masses, float64, of total one; None is 1/N each. Their gradient is that
            along masses of total one: right up to a constant a problem.
        correction: see :func:`mean_cov`; here too large ones give NaN.
        double: sums and results in float64, as always for float64 points.
        impl: "torch", "cpu" or "triton".
    """
    with _ops.without_autocast(x.device):
        if impl == "torch":
            return _definition(x, a, correction, double)
        _ops.refuse_lost_derivatives((x, a))
        if _transforms.needs_grad(x) or _transforms.needs_grad(a):
            # Copies, for backward needs the mean: users may change theirs in place.
            return tuple(t.clone() for t in _ops.call(_Moments, x, a, correction, double, impl))
        return _OPS[impl](x, a, correction, double)


def _definition(x, a, correction, double):
    """The raw op, differentiable to any order."""
    x = x.double() if double else x.to(_ops.accumulation_dtype(x.dtype))
    mass = 1 / x.shape[-2] if a is None else a.to(x.dtype)[..., None]
    shift = (x.detach() * mass).sum(-2, keepdim=True)
    # Twice: a mean of points far from the origin is rounded, and off by more than their spread is.
    rest = ((x - shift) * mass).sum(-2, keepdim=True)
    z = x - shift - rest
    cov = product((z * mass).mT, z) * divisor_factor(x, a, correction, x.dtype)
    return (shift + rest)[..., 0, :], (cov + cov.mT) / 2


def divisor_factor(x, a, correction, dtype):
    """Return n / (n - correction), NaN where n is too small: a number, or (..., 1, 1)."""
    if a is None:
        n = x.shape[-2]
        return n / (n - correction) if n > correction else torch.nan
    n = (a != 0).sum(-1).double()[..., None, None]
    return (n / torch.where(n > correction, n - correction, torch.nan)).to(dtype)


class _Moments(torch.autograd.Function):
    """The raw op of an impl; its gradient is made of differentiable operations."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, a, correction, double, impl):
        return _OPS[impl](x, a, correction, double)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, a, ctx.correction, _, _ = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, a, output[0])

    @staticmethod
    def backward(ctx, grad_mean, grad_cov):
        x, a, mean = ctx.saved_tensors
        if grad_mean is None and grad_cov is None:
            return (None,) * 5
        given = x, a, mean, grad_mean, grad_cov, ctx.correction
        with _ops.without_autocast(x.device):
            return *_gradients(*given, ctx.needs_input_grad), None, None, None


def _gradients(x, a, mean, to_mean, to_cov, correction, needs):
    """Gradients to x and a, either None if not needed, of those to mean and covariance."""
    dtype = mean.dtype
    unit = 1 / x.shape[-2] if a is None else 1.0
    z = x.to(dtype) - mean[..., None, :]
    curve = slope = to_x = to_a = None
    if to_cov is not None:
        factor = unit * divisor_factor(x, a, correction, dtype)
        pull = curve = z @ ((to_cov + to_cov.mT) * factor)
    if to_mean is not None:
        slope = to_mean[..., None, :] * unit
        pull = slope if curve is None else curve + slope
    if needs[0]:
        pull = pull.expand(x.shape) if a is None else pull * a.to(dtype)[..., None]
        to_x = pull.to(x.dtype)
    if needs[1]:
        half = slope if curve is None else curve / 2 if slope is None else curve / 2 + slope
        to_a = (z * half).sum(-1).to(a.dtype)
    return to_x, to_a
