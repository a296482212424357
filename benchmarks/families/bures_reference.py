"""Bures-Wasserstein distances of regular covariances by eigenvalues, and how they are conditioned.

In float64 this is the reference; with another eigendecomposition, a peer.
"""

import torch

# Of the step that conditions are measured with: in float64 far from both rounding and curvature.
STEP = 1e-6


def distance(x, y, eigh=torch.linalg.eigh, needs=(True, True)):
    """W_2^2 of centred Gaussians, and its gradients I - T to both covariances where needed.

    With R = X^1/2 and P = (R Y R)^1/2 the Monge maps are T = R^-1 P R^-1 and, backwards, R P^-1 R.
    """
    values, vectors = eigh(x)
    root = scaled(vectors, values.sqrt())
    of_p, p_vectors = eigh(root @ y @ root)
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    grad_x = grad_y = None
    if needs[0]:
        inverse = scaled(vectors, values.rsqrt())
        grad_x = identity - inverse @ scaled(p_vectors, of_p.sqrt()) @ inverse
    if needs[1]:
        grad_y = identity - root @ scaled(p_vectors, of_p.rsqrt()) @ root
    return trace(x) + trace(y) - 2 * of_p.sqrt().sum(-1), grad_x, grad_y


def square_root(a, cotangent, eigh=torch.linalg.eigh):
    """A^1/2 and, for a cotangent, the gradient X of H X + X H = C, H the root, C symmetric."""
    values, vectors = eigh(a)
    root = values.sqrt()
    inner = vectors.mT @ symmetric(cotangent) @ vectors
    inner = inner / (root[..., :, None] + root[..., None, :])
    return scaled(vectors, root), vectors @ inner @ vectors.mT


def scaled(vectors, values):
    """V diag(values) V^T."""
    return (vectors * values[..., None, :]) @ vectors.mT


def symmetric(a):
    """The symmetric part."""
    return (a + a.mT) / 2


def trace(a):
    """The trace of (..., D, D)."""
    return a.diagonal(dim1=-2, dim2=-1).sum(-1)


# --- conditions ---------------------------------------------------------------------------------


def nearby(t):
    """A tensor, each entry moved by ``STEP`` of the largest one times a normal number."""
    generator = torch.Generator().manual_seed(t.shape[-1])
    noise = torch.randn(t.shape, dtype=t.dtype, generator=generator).to(t.device)
    return t + STEP * t.abs().max() * noise


def amplification(at, moved):
    """How much further a result moved than the input did, both relative to their largest entries.

    What rounding of the input does to the result, and what any method may do that rounds at the
    size of the input: measured for one move in a random direction, and at least 1.
    """
    return max(1.0, largest(moved - at) / (STEP * largest(at)))


def largest(t):
    """The largest entry by size."""
    return t.abs().max().item()
