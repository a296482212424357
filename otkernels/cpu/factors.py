"""Factors of covariances in float64 on the CPU, and the polar factor of any product of two."""

import typing

import torch

from .polar import EPS, norm

# Matrices that ``cholesky`` needs memory for, for each that it factors.
ROOM = 3


class Factor(typing.NamedTuple):
    """Factors F (P, D, K) of P covariances F F^T, their inverses, and which of them are sound.

    inverse is the left inverse F^+ (P, K, D), None if it is not known. A covariance that is not
    sound has the identity in the place of its factor.
    """

    factor: torch.Tensor
    inverse: torch.Tensor | None
    ok: torch.Tensor

    def to(self, dtype):
        """Those in another dtype."""
        return Factor(*(None if t is None else t.to(dtype) for t in self[:2]), self.ok)

    def take(self, index):
        """Those of some problems."""
        return Factor(*(None if t is None else t[index] for t in self))


def symmetric(a):
    """The symmetric part of a (P, D, D), float64; to the rounding of a's dtype."""
    return torch.lerp(a, a.mT, 0.5).double()


def cholesky(covariance, cutoff, room):
    """Triangular factors of covariances (P, D, D), sound where all eigenvalues pass the cutoff.

    1 / |L^-1|^2 is no more than the smallest eigenvalue, |S| no less than the largest; pivots are
    no such bound. Where these do not decide, the covariance is not sound here.

    room: (ROOM, P or more, D, D), float64, where the factors will stand.
    """
    whole, lower, inverse = room[:, : len(covariance)]
    whole.copy_(torch.lerp(covariance, covariance.mT, 0.5))
    failed = torch.empty(len(whole), dtype=torch.int32)
    torch.linalg.cholesky_ex(whole, upper=True, out=(lower.mT, failed))
    one = torch.eye(lower.shape[-1], dtype=torch.float64)
    # The identity in the place of what has no factor lets the library go on.
    if failed.any():
        lower[failed != 0] = one
    inverse.copy_(one)
    torch.linalg.solve_triangular(lower, inverse, upper=False, left=False, out=inverse)
    # False for a NaN and where the squares are out of range.
    ok = (failed == 0) & (norm(inverse).square() * norm(whole) * cutoff < 1)[:, 0, 0]
    if not ok.all():
        lower[~ok] = inverse[~ok] = one
    return Factor(lower, inverse, ok)


def points(rows):
    """Factors X^T of X^T X, for rows X (P, N, D); sound where they are finite."""
    rows = rows.double()
    ok = rows.isfinite().flatten(1).all(1)
    if not ok.all():
        rows = torch.where(ok[:, None, None], rows, 0)
    return Factor(rows.mT, None, ok)


def eigen(covariance, cutoff):
    """Eigenvalues, 0 where they do not pass the cutoff, vectors, and which are of finite ones."""
    covariance = symmetric(covariance)
    ok = covariance.isfinite().flatten(1).all(1)
    values, vectors = torch.linalg.eigh(torch.where(ok[:, None, None], covariance, 0))
    return torch.where(values > cutoff * values[:, -1:], values, 0), vectors, ok


def root(covariance, cutoff):
    """Symmetric roots, singular where eigenvalues do not pass the cutoff; sound where finite."""
    values, vectors, ok = eigen(covariance, cutoff)
    scales = values.sqrt(), torch.where(values > 0, values.rsqrt(), 0)
    return Factor(*((vectors * s[:, None, :]) @ vectors.mT for s in scales), ok)


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
