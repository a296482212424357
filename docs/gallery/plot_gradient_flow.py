r"""
Gradient flow of a point cloud
==============================

Points :math:`x_1, \ldots, x_N` move down the gradient of a loss between them and a fixed cloud
:math:`y`:

.. math:: \frac{d x_i}{d t} = -N \, \frac{\partial}{\partial x_i} \mathcal{L}(x, y).

Nothing is between the loss and the points, no network and no optimiser with a memory, so where
they end is what the loss asks for, and what it does not see stays as it was. Every loss here
is a mean over points, whose gradient to one of them is of size :math:`1/N`; the factor :math:`N`
takes that back, so that a point moves at a speed which does not depend on how many there are.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath

from otkernels import (
    energy_distance,
    gaussian_wasserstein,
    median_bandwidth,
    mmd,
    sliced_wasserstein,
)

N_POINTS = 500
N_STEPS = 180
SHOWN = (0, 5, 15, 60, 180)  # steps of the snapshots

generator = torch.Generator().manual_seed(0)

# %%
# Two clouds
# ----------
#
# The target is two letters: two parts, one of them with a hole. The start is one round blob.


def points_in_letters(text, n):
    """Uniform points (n, 2) within the outline of a text, centred, of standard deviation one."""
    outline = TextPath((0, 0), text, prop=FontProperties(family="DejaVu Sans", weight="bold"))
    low, high = torch.from_numpy(outline.get_extents().get_points())
    points = low + (high - low) * torch.rand(8 * n, 2, dtype=low.dtype, generator=generator)
    inside = np.zeros(len(points), dtype=bool)
    for polygon in outline.to_polygons():
        inside ^= Path(polygon).contains_points(points.numpy())  # a hole is inside twice
    points = points[torch.from_numpy(inside)][:n].float()
    return (points - points.mean(0)) / points.std()


letters = points_in_letters("OT", 2 * N_POINTS)
target, other_sample = letters[::2], letters[1::2]
start = 0.4 * torch.randn(N_POINTS, 2, generator=generator)

# %%
# Four losses
# -----------
#
# * ``sliced_wasserstein``: the mean over directions of the distance between the projected clouds
#   (Rabin, Peyré, Delon, Bernot 2011). Each step draws 64 new directions.
# * ``energy_distance``: the maximum mean discrepancy with the kernel :math:`-|x - y|` (Székely,
#   Rizzo 2013). Nothing to choose.
# * ``mmd`` with a Gaussian kernel (Gretton et al. 2012), whose bandwidth is the median distance.
#   The median is taken once: a loss that changes on the way has no gradient flow.
# * ``gaussian_wasserstein``: the distance between the Gaussians that have the clouds' means and
#   covariances (Dowson, Landau 1982).
#
# A step of the discrete flow is its own unit of time for every loss: the Gaussian kernel's forces
# are weak and stand a long step, the energy distance's do not vanish near a point of the target and
# need a short one.

median = median_bandwidth(start, target).item()


def sliced(x):
    """Mean over 64 directions, new in each call."""
    return sliced_wasserstein(x, target, n_projections=64, generator=generator)


def energy(x):
    """The energy distance."""
    return energy_distance(x, target)


def gaussian_kernel(x, bandwidth=median):
    """MMD with one Gaussian kernel."""
    return mmd(x, target, bandwidth=bandwidth)


def moments(x):
    """W_2^2 between the fitted Gaussians."""
    return gaussian_wasserstein(x, target)


def flow(loss, step):
    """Clouds (N_STEPS + 1, N, 2) and losses (N_STEPS + 1) on the way down from the start."""
    x = start.clone().requires_grad_()
    clouds, values = [], []
    for _ in range(N_STEPS + 1):
        value = loss(x)
        (gradient,) = torch.autograd.grad(value, x)
        clouds.append(x.detach().clone())
        values.append(value.item())
        with torch.no_grad():
            x -= step * N_POINTS * gradient
    return torch.stack(clouds), values


flows = {
    "sliced Wasserstein": flow(sliced, step=0.2),
    "energy distance": flow(energy, step=0.1),
    "MMD, Gaussian": flow(gaussian_kernel, step=median**2),
    "Gaussian Wasserstein": flow(moments, step=0.1),
}

# %%
# A point keeps the colour of where it began, from left to right.

colours = plt.colormaps["plasma"]((start[:, 0].numpy() + 1.0) / 2.1)


def draw(axes, points, colours):
    """One snapshot."""
    axes.scatter(*points.T, s=5, c=colours, linewidths=0)
    axes.set(xlim=(-2.7, 2.7), ylim=(-1.5, 1.5), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_color("0.8")


flows_figure, grid = plt.subplots(4, len(SHOWN) + 1, figsize=(10, 4.3), dpi=140)
flows_figure.subplots_adjust(0.05, 0.01, 0.995, 0.93, wspace=0.04, hspace=0.06)
for row, (name, (clouds, _)) in zip(grid, flows.items(), strict=True):
    row[0].set_ylabel(name.replace(" ", "\n"), fontsize=11)
    for axes, step in zip(row, SHOWN, strict=False):
        draw(axes, clouds[step], colours)
    draw(row[-1], target, "0.35")
for axes, title in zip(grid[0], [*(f"step {step}" for step in SHOWN), "target"], strict=True):
    axes.set_title(title, fontsize=11)
plt.show()

# %%
# What each of them saw
# ---------------------
#
# Each end is judged by every loss, and so is another sample of the letters: that is how far apart
# two clouds are that differ by chance only.

judges = {
    "sliced": sliced,
    "energy": energy,
    "Gaussian kernel": gaussian_kernel,
    "moments": moments,
}
ends = {"start": start, **{name: clouds[-1] for name, (clouds, _) in flows.items()}}
ends["another sample"] = other_sample

judged = {
    name: {judge: loss(x).item() for judge, loss in judges.items()} for name, x in ends.items()
}
print(f"{'':22}" + "".join(f"{judge:>17}" for judge in judges))
for name, row in judged.items():
    print(f"{name:22}" + "".join(f"{value:17.1e}" for value in row.values()))

# %%
# The sliced distance and the energy distance are zero between equal distributions only, and their
# flows end nearer to the target than another sample of the letters is, by every judge. That is
# more than a model should want: a flow onto a *sample* reproduces its accidents too.
#
# The Gaussian Wasserstein flow matches mean and covariance to the last digits of float32, and stops
# there, because letters and an ellipse of the same moments are the same to it. It is the least
# that a loss can ask for, and the cheapest, and often enough for a batch of codes whose prior
# is a Gaussian anyway.
#
# The Gaussian kernel is the odd one. In theory it sees everything; in practice features much
# narrower than its bandwidth change it by so little that the flow has all but stopped: by its own
# account it has arrived.

losses_figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
for name, (_, values) in flows.items():
    axes.plot(np.array(values) / values[0], label=name)
axes.set(yscale="log", xlabel="step", ylabel="loss, as a part of its first value", ylim=(1e-5, 2))
axes.legend(frameon=False)
axes.grid(alpha=0.3)
axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# The bandwidth decides
# ---------------------
#
# Why not a narrower kernel, then? Because a point that is some bandwidths away from all of the
# target feels nothing of it, and with :math:`s = 0.1` the blob hardly leaves its place. A sum of
# kernels has both forces, the far and the near, and one call computes it: ``bandwidth`` takes a
# list.

ladder = [0.1, 0.3, median]
ends = {
    "s = 0.1": flow(lambda x: gaussian_kernel(x, 0.1), step=0.1**2)[0][-1],
    "s = 0.3": flow(lambda x: gaussian_kernel(x, 0.3), step=0.3**2)[0][-1],
    f"s = {median:.1f}, the median": flows["MMD, Gaussian"][0][-1],
    "all three, summed": flow(lambda x: gaussian_kernel(x, ladder), step=0.1)[0][-1],
}
ladder_distances = {name: sliced(end).item() for name, end in ends.items()}
ladder_figure, row = plt.subplots(1, 4, figsize=(10, 2.2), layout="constrained")
for axes, (name, end) in zip(row, ends.items(), strict=True):
    draw(axes, end, colours)
    axes.set_title(f"{name}\nsliced distance {ladder_distances[name]:.1e}", fontsize=10)
plt.show()
