"""Do samples of the plane reach every cluster, how often, and how much lies between them?"""

import torch

from .duals import EXACT

__all__ = ["mode_figures"]


WITHIN = 3.0
SHARE = 0.02


def mode_figures(points, modes, sd):
    """Three figures of points (n, 2) against equally likely round Gaussians at ``modes`` (k, 2).

    A point belongs to a mode when it lies within 3 ``sd`` of it, as 98.9 % of the points of a round
    Gaussian of the plane do.

    Returns:
        dict: "modes": how many of them own more than 2 % of all points; "within": the share of
        points that belong to any; "tv": total variation distance of the shares of the modes, each
        point counted for the nearest, from 1 / k.

    >>> modes = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    >>> mode_figures(torch.tensor([[0.1, 0.0], [0.2, 0.0], [-0.1, 0.0], [3.0, 0.0]]), modes, 0.1)
    {'modes': 1, 'within': 0.75, 'tv': 0.25}
    """
    nearest = torch.cdist(points, modes, compute_mode=EXACT).min(1)
    close = nearest.values <= WITHIN * sd
    n, k = len(points), len(modes)
    owned = nearest.indices[close].bincount(minlength=k) / n
    shares = nearest.indices.bincount(minlength=k) / n
    return {
        "modes": int((owned > SHARE).sum()),
        "within": float(close.double().mean()),
        "tv": float((shares - 1 / k).abs().sum() / 2),
    }
