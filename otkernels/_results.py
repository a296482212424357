"""What every loss does with its values before a caller sees them."""

import torch


def nan_everywhere(cost):
    """The cost, with a NaN gradient at every point of a problem whose cost is NaN.

    Without it points away from the NaN would get finite and wrong gradients.
    """
    return cost * torch.where(cost.isnan(), cost, torch.ones_like(cost)).detach()


def root_and_reduce(cost, p, root, reduction):
    """The p-th root, if wanted, with sub-gradient 0 at 0, and the reduction over the batch.

    A cost that rounding has left a little below 0 counts as 0.
    """
    if root:
        zero = cost <= 0
        cost = torch.where(zero, 0, torch.where(zero, 1, cost) ** (1 / p))
    return {"none": lambda: cost, "mean": cost.mean, "sum": cost.sum}[reduction]()
