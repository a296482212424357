"""Factors of covariances in float64 on the CPU, and the polar factor of any product of two."""

import typing

import torch

from .polar import EPS, norm

# Pivots of Cholesky's method are at least the smallest eigenvalue. Where one is below this times
# the cutoff, its eigenvalues must decide.
NEAR = 16


class Factor(typing.NamedTuple):
    """Factors F (P, D, K) of P covariances F F^T, their inverses, and which of them are sound.

    inverse is the left inverse F^+ (P, K, D), None if it is not known. A covariance that is not
    sound has the identity in the place of its factor.
    """

    factor: torch.Tensor
    inverse: torch.Tensor | None
    ok: torch.Tensor

    def take(self, index):
        """Those of some problems."""
        return Factor(*(None if t is None else t[index] for t in self))


def symmetric(a):
    """The symmetric part of a (P, D, D), float64."""
    a = a.double()
    return torch.lerp(a, a.mT, 0.5)


def cholesky(covariance, cutoff):
    """Triangular factors of covariances (P, D, D), sound where all eigenvalues pass the cutoff."""
    covariance = symmetric(covariance)
    lower, failed = torch.linalg.cholesky_ex(covariance.mT)
    pivots = lower.diagonal(dim1=1, dim2=2).amin(1).square()
    largest = covariance.diagonal(dim1=1, dim2=2).amax(1)
    # False for a NaN, and for infinity above infinity.
    ok = (failed == 0) & (pivots > NEAR * cutoff * largest)
    one = torch.eye(lower.shape[-1], dtype=torch.float64).expand_as(lower)
    if not ok.all():
        lower = torch.where(ok[:, None, None], lower, one)
    inverse = torch.linalg.solve_triangular(lower, one, upper=False)
    return Factor(lower, inverse, ok)


def points(rows):
    """Factors X^T of X^T X, for rows X (P, N, D); sound where they are finite."""
    rows = rows.double()
    ok = rows.isfinite().flatten(1).all(1)
    if not ok.all():
        rows = torch.where(ok[:, None, None], rows, 0)
    return Factor(rows.mT, None, ok)


def root(covariance, cutoff):
    """Symmetric roots, with 0 for eigenvalues that do not pass the cutoff; sound where finite."""
    covariance = symmetric(covariance)
    ok = covariance.isfinite().flatten(1).all(1)
    values, vectors = torch.linalg.eigh(torch.where(ok[:, None, None], covariance, 0))
    kept = values > cutoff * values[:, -1:]
    scales = torch.where(kept, values, 0).sqrt()
    inverses = torch.where(kept, 1 / scales, 0)
    factor, inverse = ((vectors * s[:, None, :]) @ vectors.mT for s in (scales, inverses))
    return Factor(factor, inverse, ok)


def singular_polar_factor(m):
    """The partial isometry Q (P, R, C) of M = Q H, float64, for M of any rank."""
    left, values, right = torch.linalg.svd(m, full_matrices=False)
    kept = values > max(m.shape[1:]) * EPS * values[:, :1]
    return (left * kept[:, None, :]) @ right


def gram_polar_factor(m):
    """The same from the eigenvectors U of M M^T, and its error (P,).

    Rows of U^T M are orthogonal but for rounding, relative to which those of small singular values
    are short. Singular values up to some 1e-8 times the largest count as 0.
    """
    if m.shape[1] > m.shape[2]:
        q, error = gram_polar_factor(m.mT)
        return q.mT, error
    values, vectors = torch.linalg.eigh(m @ m.mT)
    kept = values > max(m.shape[1:]) * EPS * values[:, -1:]
    rows = vectors.mT @ m
    lengths = torch.linalg.vector_norm(rows, dim=2)
    rows *= torch.where(kept, 1 / lengths, 0)[..., None]
    error = norm(rows @ rows.mT - torch.diag_embed(kept.double()))[:, 0, 0]
    return vectors @ rows, error


def ratio(a, b):
    """|A| / |B| of matrices (P, R, C): (P,), float64; 0 for B = 0."""
    size = norm(b)
    return (norm(a) / torch.where(size == 0, 1, size))[:, 0, 0].double()


def nan_unless(ok, found):
    """Tensors of P problems, with NaN for those that are not ok (P,)."""
    return torch.where(ok.view(-1, *[1] * (found.dim() - 1)), found, torch.nan)
