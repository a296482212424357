"""What no user may write: mypy must object to every line, and to a comment where it need not."""

import torch
from torch import Tensor

import otkernels as ot
from otkernels import distributed
from otkernels.compat import pot
from otkernels.compat.geomloss import SamplesLoss
from otkernels.metrics import SlicedWasserstein


def options(x: Tensor, y: Tensor) -> None:
    ot.sliced_wasserstein(x, y, impl="cuda")  # type: ignore[arg-type]
    ot.sliced_wasserstein(x, y, reduction="avg")  # type: ignore[arg-type]
    ot.sliced_wasserstein(x, y, p="2")  # type: ignore[arg-type]
    ot.sliced_wasserstein(x, y, method="qmc")  # type: ignore[arg-type]
    ot.sliced_wasserstein(x, y, projections=16)  # type: ignore[arg-type]
    ot.sliced_wasserstein(x, y, n_projection=16)  # type: ignore[call-arg]
    ot.sliced_wasserstein(x, y, 2)  # type: ignore[call-arg]
    ot.sliced_wasserstein_to_normal(x, projections=torch.relu)  # type: ignore[arg-type]
    ot.sample_projections(3.0, 16)  # type: ignore[arg-type]
    ot.mmd(x, y, kernel="rbf")  # type: ignore[arg-type]
    ot.mmd(x, y, bandwidth="mean")  # type: ignore[arg-type]
    ot.mmd(x, y, precision="half")  # type: ignore[arg-type]
    ot.mmd_blocks(x, y)  # type: ignore[call-arg]
    ot.mmd_random_features(x, y, kernel="energy")  # type: ignore[arg-type]
    ot.random_fourier_features(x, bandwidth="median")  # type: ignore[arg-type]
    ot.wae_bandwidths(8, prior="gaussian")  # type: ignore[arg-type]
    ot.mean_cov(x, correction=0.5)  # type: ignore[arg-type]
    ot.gaussian_wasserstein(x, y, generator=None)  # type: ignore[call-arg]


def points(x: Tensor) -> None:
    ot.energy_distance(x)  # type: ignore[call-arg]
    ot.sliced_wasserstein(x, x.numpy())  # type: ignore[arg-type]
    ot.gaussian_wasserstein(x, [1.0])  # type: ignore[arg-type]
    ot.bures_wasserstein(None, x, None, x)  # type: ignore[arg-type]


def results(x: Tensor, y: Tensor) -> None:
    ot.max_sliced_wasserstein(x, y, return_direction=True).item()  # type: ignore[attr-defined]
    ot.mean_cov(x).mean()  # type: ignore[attr-defined]
    ot.mmd_test(x, y).pvalue.item()  # type: ignore[attr-defined]
    numbers: list[float] = []
    numbers.append(ot.mmd(x, y))  # type: ignore[arg-type]


def modules(x: Tensor, y: Tensor) -> None:
    ot.SlicedWassersteinLoss(resample="always")  # type: ignore[arg-type]
    ot.SlicedWassersteinLoss(64, 2)  # type: ignore[call-arg]
    ot.MMDLoss("rbf")  # type: ignore[arg-type]
    ot.EnergyDistanceLoss(bandwidth=1.0)  # type: ignore[call-arg]
    ot.GaussianWassersteinLoss(reduction="avg")  # type: ignore[arg-type]
    ot.MMDLoss().set_reference([1.0])  # type: ignore[arg-type]
    float(ot.MMDLoss()(x, y) + "1")  # type: ignore[operator]


def ranks(x: Tensor, y: Tensor) -> None:
    ot.MMDLoss(process_group="all")  # type: ignore[arg-type]
    distributed.energy_distance(x, y, process_group=1)  # type: ignore[arg-type]
    SlicedWasserstein(capacity=1.5)  # type: ignore[arg-type]


def other_libraries(x: Tensor, y: Tensor) -> None:
    pot.sliced_wasserstein_distance(x, y, p="2")  # type: ignore[arg-type]
    pot.wasserstein_1d(x, y, return_plans=True)  # type: ignore[arg-type]
    SamplesLoss("energy", impl="keops")  # type: ignore[arg-type]
