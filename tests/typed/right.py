"""What users write, and the types it must have: read by mypy, never run."""

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import otkernels as ot
from otkernels import distributed
from otkernels.compat import pot
from otkernels.compat.geomloss import SamplesLoss
from otkernels.metrics import FrechetDistance, KernelInceptionDistance, SlicedWasserstein


def sliced(x: Tensor, y: Tensor, network: nn.Linear) -> None:
    generator = torch.Generator()
    theta = ot.sample_projections(3, 16, method="sobol", generator=generator, device="cpu")
    assert_type(theta, Tensor)
    assert_type(ot.sliced_wasserstein(x, y, p=1, projections=theta, reduction="mean"), Tensor)
    assert_type(ot.sliced_wasserstein(x, y, projections=lambda points: points**3), Tensor)
    assert_type(ot.sliced_wasserstein(x, y, p=1.5, a=x[..., 0], impl=None), Tensor)
    assert_type(ot.wasserstein_1d(x, y, u_lengths=None), Tensor)
    assert_type(ot.sliced_wasserstein_to_normal(x, root=True), Tensor)
    info = ot.sliced_wasserstein_with_info(x, y, projections=network.forward)
    assert_type(info, ot.SlicedWassersteinInfo)
    assert_type(info.standard_error, Tensor)
    assert_type(ot.max_sliced_wasserstein(x, y), Tensor)
    assert_type(ot.max_sliced_wasserstein(x, y, return_direction=False), Tensor)
    value, direction = ot.max_sliced_wasserstein(x, y, return_direction=True)
    assert_type(value, Tensor)
    assert_type(ot.max_sliced_wasserstein(x, y, start=direction), Tensor)


def sphere(x: Tensor, y: Tensor) -> None:
    circles = ot.sample_great_circles(3, 16, dtype=torch.float64)
    assert_type(ot.sliced_wasserstein_sphere(x, y, projections=circles), Tensor)
    assert_type(ot.wasserstein_circle(x[..., 0], y[..., 0]), Tensor)


def kernels(x: Tensor, y: Tensor) -> None:
    assert_type(ot.mmd(x, y, bandwidth="median", precision="fast"), Tensor)
    ladder = ot.wae_bandwidths(8, prior="sphere")
    assert_type(ladder, tuple[float, ...])
    assert_type(ot.mmd(x, y, kernel="imq", bandwidth=ladder, unbiased=True), Tensor)
    assert_type(ot.mmd(x, y, bandwidth=[1, 2.5]), Tensor)
    assert_type(ot.mmd(x, y, bandwidth=ot.median_bandwidth(x, max_points=64)), Tensor)
    assert_type(ot.energy_distance(x, y, squared=False), Tensor)
    assert_type(ot.mmd_blocks(x, y, block_size=8).standard_error, Tensor)
    assert_type(ot.mmd_test(x, y, kernel="energy").p_value, Tensor)
    frequencies = ot.sample_frequencies(3, 8, kernel="laplacian", device=torch.device("cpu"))
    assert_type(ot.random_fourier_features(x, bandwidth=1, frequencies=frequencies), Tensor)
    assert_type(ot.mmd_random_features(x, y, n_features=64), Tensor)


def gaussians(x: Tensor, y: Tensor) -> None:
    moments = ot.mean_cov(x, correction=1)
    assert_type(moments, tuple[Tensor, Tensor])
    mean, cov = moments
    assert_type(ot.bures_wasserstein(mean, cov, *ot.mean_cov(y), pairwise=False), Tensor)
    assert_type(ot.bures_wasserstein_with_info(mean, cov, mean, cov).redone, Tensor)
    assert_type(ot.gaussian_map(mean, cov, mean, cov), tuple[Tensor, Tensor])
    assert_type(ot.sqrtm(cov) @ ot.inv_sqrtm(cov, impl="torch"), Tensor)
    assert_type(ot.gaussian_wasserstein(x, y, eps=0, diagonal=True), Tensor)
    assert_type(ot.gaussian_wasserstein_with_info(x, y), ot.BuresInfo)
    assert_type(ot.gaussian_wasserstein_to_normal(x), Tensor)


def modules(x: Tensor, y: Tensor) -> None:
    loss = ot.SlicedWassersteinLoss(64, resample="epoch", dim=3)
    assert_type(loss(x, y), Tensor)
    assert_type(loss.n_projections, int)
    assert_type(loss.projections, Tensor | None)
    loss.resample_projections()
    assert_type(ot.SlicedWassersteinToNormalLoss(method="orthogonal")(x), Tensor)
    assert_type(ot.MaxSlicedWassersteinLoss(warm_start=False).direction, Tensor | None)
    mmd = ot.MMDLoss("imq", ot.wae_bandwidths(8), unbiased=True)
    mmd.set_reference(y, b=None)
    assert_type(mmd(x), Tensor)
    losses: list[nn.Module] = [ot.EnergyDistanceLoss(), ot.GaussianWassersteinLoss(eps=1e-6)]
    losses.append(ot.GaussianWassersteinToNormalLoss(impl="cpu"))
    assert_type(ot.GaussianWassersteinLoss().correction, int)


def ranks(x: Tensor, y: Tensor) -> None:
    assert_type(distributed.mmd(x, y, kernel="imq", bandwidth=1.0), Tensor)
    assert_type(distributed.sliced_wasserstein(x, y, process_group="world"), Tensor)
    assert_type(distributed.mean_cov(x), tuple[Tensor, Tensor])
    assert_type(ot.MMDLoss(process_group="world")(x, y), Tensor)


def metrics(x: Tensor) -> None:
    metric = SlicedWasserstein(num_features=8, capacity=100)
    metric.update(x, real=True)
    assert_type(metric.compute(), Tensor)
    assert_type(FrechetDistance(nn.Linear(3, 8), 8, squared=False).compute(), Tensor)
    assert_type(KernelInceptionDistance(subsets=3).compute(), tuple[Tensor, Tensor])


def other_libraries(x: Tensor, y: Tensor) -> None:
    pot.sliced_wasserstein_distance(x.numpy(), y.numpy(), seed=0)
    distance, _ = pot.sliced_wasserstein_distance(x, y, seed=0, log=True)
    pot.bures_distance(x, y)
    pot.bures_wasserstein_mapping([0.0], [1.0], x, y)
    SamplesLoss("energy", blur=0.5)(x, y)
    assert_type(SamplesLoss("gaussian").forward(x, y), Tensor | tuple[Tensor, Tensor])
