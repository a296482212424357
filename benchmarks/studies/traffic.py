"""What a rank of a process group sends, receives and computes in a loss of the global batch.

Formulas of otkernels.distributed. ``tests/test_distributed_traffic.py`` counts what is handed to
torch.distributed and finds them exact; what a network then carries is the model of :func:`sent`.
"""

import dataclasses

HEADER = 1024  # bytes that each rank sends of its arguments, before anything else
LOSSES = (
    "sliced_wasserstein",
    "sliced_wasserstein_to_normal",
    "mmd",
    "gaussian_wasserstein",
    "gaussian_wasserstein_to_normal",
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A loss with the gradient to x.

    Args:
        loss: one of LOSSES.
        N, M: points of x and of y on each rank; of the rank with the most, where they differ.
        D: dimension.
        L: directions of all ranks together.
        B: problems of the batch.
        itemsize: bytes of a number of the accumulation dtype: 4, or 8 for float64 points.
        to_y: with the gradient to y too.
    """

    loss: str
    N: int
    M: int
    D: int
    L: int = 128
    B: int = 1
    itemsize: int = 4
    to_y: bool = False


def exchanges(problem):
    """What a rank hands to torch.distributed, forward and backward: pairs of a call and bytes.

    The bytes are those of this rank's tensor: with "all_gather" what each rank gives, with
    "reduce_scatter" what each gets, with "all_reduce" and "broadcast" what all have in the end.
    Weights, lengths and an unbiased MMD add a few more.
    """
    p, wide = problem, 8 * problem.B
    points = [p.B * n * p.D * p.itemsize for n in (p.N, p.M)]
    alone = p.loss.endswith("to_normal")
    clouds = points[:1] if alone else points
    if p.loss.startswith("gaussian"):
        first, second = wide * (p.D + 2), wide * (p.D**2 + p.D + 2)
        forward = [("all_reduce", first), ("all_reduce", second)] * len(clouds)
        return forward, [("all_reduce", second)] * (1 + p.to_y)
    forward = [("all_gather", HEADER), *(("all_gather", size) for size in clouds)]
    if p.loss == "mmd":
        return [*forward, ("all_reduce", wide)], [("all_reduce", wide)]
    value = ("all_reduce", p.B * p.itemsize)
    forward += [("broadcast", p.D * p.L * p.itemsize), value]
    wanted = clouds if p.to_y else clouds[:1]
    return forward, [value, *(("reduce_scatter", size) for size in reversed(wanted))]


def sent(call, size, ranks):
    """Bytes that a rank sends for one exchange, and receives as many: a model.

    That of a ring, which is least for these; for a broadcast the mean over ranks.
    """
    if call in ("all_gather", "reduce_scatter"):
        return (ranks - 1) * size
    return (ranks - 1) / ranks * size * (2 if call == "all_reduce" else 1)


def per_rank(problem, ranks):
    """Bytes that a rank sends in one forward and backward pass, by :func:`sent`."""
    forward, backward = exchanges(problem)
    return sum(sent(*exchange, ranks) for exchange in forward + backward)


def work(problem, ranks):
    """What a rank computes in the forward pass: sorted numbers, pairs or products of moments.

    Where the number of directions is no multiple of the ranks, that of the rank with most.
    """
    p, alone = problem, problem.loss.endswith("to_normal")
    if p.loss.startswith("sliced"):
        return p.B * -(-p.L // ranks) * ranks * (p.N + (0 if alone else p.M))
    if p.loss == "mmd":
        return p.B * (p.N * p.N + p.M * p.M + (1 + p.to_y) * p.N * p.M) * ranks
    return p.B * (p.N + (0 if alone else p.M)) * p.D**2
