"""Inputs of the public calls: functions of (n, *batch, dtype=, device=) that return tensors."""

import torch

D = 3  # features of every cloud
L = 4  # directions


def normal(*shape, dtype=torch.float32, device="cpu"):
    return torch.randn(shape).to(device, dtype)


def one_cloud(n, *batch, **options):
    return (normal(*batch, n, D, **options),)


def two_clouds(n, *batch, **options):
    return normal(*batch, n, D, **options), 0.5 * normal(*batch, n, D, **options) + 1


def with_directions(n, *batch, dtype=torch.float32, device="cpu"):
    accumulated = torch.float64 if dtype == torch.float64 else torch.float32
    theta = torch.nn.functional.normalize(normal(D, L, dtype=accumulated), dim=0).to(device)
    given = two_clouds(n, *batch, dtype=dtype, device=device)
    return *given, theta.expand(*batch, D, L).contiguous()


def with_weights(n, *batch, dtype=torch.float32, device="cpu"):
    given = two_clouds(n, *batch, dtype=dtype, device=device)
    return *given, torch.rand(*batch, n).add(0.1).to(device)


def on_the_sphere(n, *batch, dtype=torch.float32, device="cpu"):
    given = two_clouds(n, *batch, device=device)
    return tuple(torch.nn.functional.normalize(t, dim=-1).to(dtype) for t in given)


def two_lines(n, *batch, **options):
    return normal(*batch, n, **options), 0.5 * normal(*batch, n, **options) + 1


def _covariance(*batch, dtype, device):
    rows = torch.randn(*batch, 2 * D, D)
    return (rows.mT @ rows / (2 * D) + 0.1 * torch.eye(D)).to(device, dtype)


def one_covariance(n, *batch, dtype=torch.float32, device="cpu"):
    return (_covariance(*batch, n, dtype=dtype, device=device),)


def two_gaussians(n, *batch, dtype=torch.float32, device="cpu"):
    options = {"dtype": dtype, "device": device}
    return tuple(
        t
        for _ in range(2)
        for t in (normal(*batch, n, D, **options), _covariance(*batch, n, **options))
    )
