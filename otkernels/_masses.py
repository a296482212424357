"""Masses in a raw operator: flat over the batch, of counts, and the sums of their gradients."""

import torch

# Levels of both sides that differ by less than this times N + M are one level: cumulated masses
# round, each addition by up to half of 2.2e-16.
COINCIDENT = 4e-16


def flat(masses):
    """Masses (..., N) as (P, N); None stays None."""
    return None if masses is None else masses.reshape(-1, masses.shape[-1])


def flat_counts(counts):
    """Counts (...) as (P,), contiguous, for kernels read them by address; None stays None."""
    return None if counts is None else counts.reshape(-1).contiguous()


def equal_masses(counts, n):
    """Masses (..., n), float64: equal for the first ``counts (...)`` points, 0 for the rest."""
    counts = counts[..., None]
    return (torch.arange(n, device=counts.device) < counts).double() / counts


def zero_grads(masses, needs):
    """Zeros (P, N) for each of the masses that needs a gradient, else None."""
    return [
        torch.zeros_like(flat(t)) if need else None for t, need in zip(masses, needs, strict=True)
    ]


def mean_grads(sums, costs):
    """Sums (P, N) over the L rows of a problem as gradients of the mean of costs (..., L)."""
    *batch, n_rows = costs.shape
    return [
        no_grad(costs) if t is None else (t / n_rows).reshape(*batch, t.shape[-1]) for t in sums
    ]


def no_grad(costs):
    """What a raw operator returns for a gradient to masses that nobody needs."""
    return costs.new_empty((*costs.shape[:-1], 0), dtype=torch.float64)
