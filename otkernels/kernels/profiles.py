"""Profiles of kernels and their slopes on tiles of pairs; see otkernels._kernels for the list."""

import triton
import triton.language as tl


@triton.jit
def kernel_and_slope(u, rate_ptr, rates, PROFILE: tl.constexpr, SLOPE: tl.constexpr):
    """Sum of phi(rate u) and, with SLOPE, of |rate phi'(rate u)| over the rates."""
    k, slope = tl.zeros_like(u), tl.zeros_like(u)
    inverse = k
    if PROFILE == "laplacian" or PROFILE == "energy":
        # One root for both; a quotient or a square root costs AMD more registers.
        inverse = tl.rsqrt(tl.where(u > 0, u, 1.0))
        u *= inverse
    for i in range(rates):
        rate = tl.load(rate_ptr + i)
        k, slope = _add(k, slope, u, rate, PROFILE, SLOPE)
    if SLOPE and (PROFILE == "laplacian" or PROFILE == "energy"):
        # The derivative of the root, and 0 where two points coincide.
        slope *= tl.where(u > 0, 0.5 * inverse, 0.0)
    return k, slope


@triton.jit
def _add(k, slope, u, rate, PROFILE: tl.constexpr, SLOPE: tl.constexpr):
    """Add one rate's share; ``u`` is the root of the squared distance where the profile has one."""
    if PROFILE == "gaussian":
        value = tl.exp2(u * (rate * -1.4426950408889634))
        k += value
        if SLOPE:
            slope += value * rate
    elif PROFILE == "cauchy":
        value = 1.0 / (1.0 + u * rate)
        k += value
        if SLOPE:
            slope += value * value * rate
    elif PROFILE == "laplacian":
        rate = tl.sqrt(rate)
        value = tl.exp2(u * (rate * -1.4426950408889634))
        k += value
        if SLOPE:
            slope += value * rate
    elif PROFILE == "energy":
        rate = tl.sqrt(rate)
        k -= u * rate
        if SLOPE:
            slope += rate
    else:
        tl.static_assert(PROFILE == "polynomial")
        value = 1.0 + u * rate
        k += value * value * value
        if SLOPE:
            slope += 3.0 * value * value * rate
    return k, slope
