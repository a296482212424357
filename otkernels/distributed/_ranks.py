"""The ranks of a process group: what they exchange, with gradients.

Gradients are those of the sum of the ranks' losses, the convention of torch.distributed: a loss
that is the same on R ranks gives each of them R times its gradient, and the mean that
DistributedDataParallel takes over ranks gives it once.
"""

import hashlib

import torch
from torch import distributed as dist

from .. import _check, _ops

WORLD = "world"
_TEXT = 1024  # bytes of the message of a rank


class Ranks:
    """The ranks of a process group, as one of them sees them.

    Args:
        function: name of the public function, for messages.
        process_group: "world" or a torch.distributed.ProcessGroup that this process is in.
    """

    def __init__(self, function, process_group):
        self.function = function
        self.group = _resolved(function, process_group)
        self.rank = dist.get_rank(self.group)
        self.size = dist.get_world_size(self.group)
        condition = "be a group that this process is in"
        _check.require(self.rank >= 0, function, "process_group", condition, "another")

    def sum(self, tensor):
        """The sum over ranks of a tensor of one shape, differentiable to any order."""
        return _ops.call(_Sum, tensor, self, jvp=_no_tangents)

    def gather(self, points, sizes, axis):
        """The points of all ranks, ``sizes`` of them, one rank after the other along ``axis``.

        Differentiable to any order. Sizes may differ, other axes and the dtype may not.
        """
        return _ops.call(_Gather, points, tuple(sizes), axis, self, jvp=_no_tangents)

    def first(self, tensor):
        """The tensor of the first rank, on all of them; it has no gradient."""
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        self.run(dist.broadcast, tensor, dist.get_global_rank(self.group, 0))
        return tensor

    def share(self, n):
        """Which of n pieces of work are this rank's: a slice, of which one rank's may be empty."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def agree(self, device, describe):
        """Let all ranks check their arguments before any of them waits for another.

        Args:
            device: that of the tensors, which the group can send.
            describe: called without arguments, checks them; returns numbers of this rank, and a
                text that must be the same on all of them.

        Returns:
            The numbers of all ranks, one tuple each.

        Raises:
            What ``describe`` raises; RuntimeError on the other ranks then; ValueError on all ranks
            where texts differ. Reads what came in, so it waits for a GPU.
        """
        try:
            numbers, text = describe()
        except Exception as error:
            self._exchange(device, f"!{error}")
            raise
        reports = self._exchange(device, " ".join(map(str, numbers)) + "\n" + text)
        for rank, report in enumerate(reports):
            if report.startswith("!"):
                raise RuntimeError(f"{self.function}: rank {rank} refused its input: {report[1:]}")
        numbers, texts = zip(*(report.split("\n", 1) for report in reports), strict=True)
        for rank, other in enumerate(texts):
            condition = (
                f"be alike on all ranks (points may differ in number); rank 0 has {texts[0]}"
            )
            got = f"{other} on rank {rank}"
            _check.require(other == texts[0], self.function, "arguments", condition, got)
        return [tuple(map(int, line.split())) for line in numbers]

    def run(self, collective, *tensors):
        """Call a function of torch.distributed for this group.

        Raises:
            RuntimeError, or the kind of it that came from torch: the exchange failed. A traceback
            through backward names no loss, and that of the rank to blame may be lost, so this does.
        """
        try:
            collective(*tensors, group=self.group)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise type(error)(
                f"{self.function}: rank {self.rank} of {self.size} could not exchange data (perhaps"
                f" another rank has ended, is late, or has made another call): {error}"
            ) from error

    def _exchange(self, device, text):
        """The texts of all ranks."""
        data = text.encode()
        if len(data) > _TEXT:  # texts that differ must not become equal
            digest = f"... ({hashlib.sha256(data).hexdigest()[:16]})".encode()
            data = data[: _TEXT - len(digest)] + digest
        padded = bytearray(data + bytes(_TEXT - len(data)))
        mine = torch.frombuffer(padded, dtype=torch.uint8).to(device)
        every = [torch.empty_like(mine) for _ in range(self.size)]
        self.run(dist.all_gather, every, mine)
        return [bytes(t.tolist()).rstrip(b"\0").decode(errors="replace") for t in every]


def _resolved(function, process_group):
    ready = dist.is_available() and dist.is_initialized()
    condition = "be used after torch.distributed.init_process_group"
    _check.require(ready, function, "process_group", condition, repr(process_group))
    if isinstance(process_group, str):
        _check.one_of(function, "process_group", process_group, (WORLD,))
        return dist.group.WORLD
    ok = isinstance(process_group, dist.ProcessGroup)
    if not ok:  # GroupMember.NON_GROUP_MEMBER, which is what new_group returns to outsiders, too
        condition = f"be {WORLD!r} or a ProcessGroup that this process is in"
        raise ValueError(
            _check.message(function, "process_group", condition, type(process_group).__name__)
        )
    return process_group


def _no_tangents(*_):
    raise NotImplementedError(
        "otkernels.distributed has no forward-mode derivatives; use reverse mode."
    )


class _Sum(torch.autograd.Function):
    """Sum over ranks; so is its gradient."""

    @staticmethod
    def forward(ctx, tensor, ranks):
        ctx.ranks = ranks
        total = tensor.clone(memory_format=torch.contiguous_format)
        ranks.run(dist.all_reduce, total)
        return total

    @staticmethod
    def backward(ctx, grad):
        return _Sum.apply(grad, ctx.ranks), None


class _Gather(torch.autograd.Function):
    """Points of all ranks; the gradient is the sum over ranks of those to this rank's points."""

    @staticmethod
    def forward(ctx, points, sizes, axis, ranks):
        ctx.sizes, ctx.axis, ctx.ranks = sizes, axis, ranks
        mine = _padded(points, max(sizes), axis)
        every = [torch.empty_like(mine) for _ in sizes]
        ranks.run(dist.all_gather, every, mine)
        return torch.cat([t.narrow(axis, 0, n) for t, n in zip(every, sizes, strict=True)], axis)

    @staticmethod
    def backward(ctx, grad):
        return _Scatter.apply(grad, ctx.sizes, ctx.axis, ctx.ranks), None, None, None


class _Scatter(torch.autograd.Function):
    """Sum over ranks of the pieces that belong to this rank: the adjoint of :class:`_Gather`."""

    @staticmethod
    def forward(ctx, points, sizes, axis, ranks):
        ctx.sizes, ctx.axis, ctx.ranks = sizes, axis, ranks
        longest = max(sizes)
        pieces = [_padded(piece, longest, axis) for piece in points.split(sizes, axis)]
        mine = torch.empty_like(pieces[0])
        ranks.run(dist.reduce_scatter, mine, pieces)
        return mine.narrow(axis, 0, sizes[ranks.rank]).clone()

    @staticmethod
    def backward(ctx, grad):
        return _Gather.apply(grad, ctx.sizes, ctx.axis, ctx.ranks), None, None, None


def _padded(points, n, axis):
    """A contiguous copy with n points along ``axis``, 0 in those that are none."""
    shape = list(points.shape)
    shape[axis] = n
    padded = points.new_zeros(shape)
    padded.narrow(axis, 0, points.shape[axis]).copy_(points)
    return padded
