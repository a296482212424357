"""One row of the table: ours, the float64 formula and the peer on the same inputs, compared."""

from typing import NamedTuple

import numpy as np
import torch

from .reference import Result, Rounding, Solution

__all__ = ["FAIL", "PASS", "REFUSED", "Comparison", "Row", "Truth", "check", "truth"]

PASS, FAIL, REFUSED = "PASS", "FAIL", "REFUSED"


class Comparison(NamedTuple):
    """Two arrays that should be equal, and what rounding explains of their difference."""

    error: float
    """Norm of the difference, relative to the norm of the reference (absolute where that is 0)."""
    bound: float
    """The same for the allowed difference."""
    worst: float
    """The largest difference of one entry in units of what is allowed to it; passes up to 1."""


class Truth(NamedTuple):
    """What a row is judged by: formula and peer, each with the difference allowed from ours."""

    formula: Result
    slack: Result
    near_ties: float
    peer: Result | None
    peer_slack: Result | None
    peer_reason: str


class Row(NamedTuple):
    """One line of the table and one object of the JSON; no array of the size of the inputs."""

    op: str
    impl: str
    dtype: str
    case: str
    settings: dict[str, float | str]
    shapes: dict[str, tuple[int, ...]]
    verdict: str
    reason: str
    near_ties: float
    peer_reason: str
    values: dict[str, list[float]]
    """Of "ours", "formula" and "peer", as far as each answered."""
    grad_norms: dict[str, float]
    value: Comparison | None = None
    grad: Comparison | None = None
    peer_value: Comparison | None = None
    peer_grad: Comparison | None = None


def truth(op, inputs, settings, peer):
    """The :class:`Truth` for one set of inputs; ``peer`` is the peer's module or None."""
    exact = _solve(op, inputs, settings, _rounding(torch.float64))
    rounded = _solve(op, inputs, settings, _rounding(inputs.x.dtype))
    # Two computations may differ by the sum of what each of them may round.
    slack = _add(exact.slack, rounded.slack)
    answer, peer_slack, reason = None, None, f"no {op.peer.name} installed" if op.peer else ""
    if peer is not None:
        cumulated = _solve(op, inputs, settings, _rounding(torch.float64, cumulates=True))
        peer_slack = _add(cumulated.slack, rounded.slack)
        try:
            answer, reason = _run_peer(op, peer, inputs, settings), ""
        except Exception as error:  # a defect of the peer is a fact to show, not our failure
            reason = f"{op.peer.name} raised {_one_line(error)}"
    return Truth(exact.result, slack, rounded.near_ties, answer, peer_slack, reason)


def check(op, impl, device, inputs, settings, true):
    """Run ours on ``device`` and judge it; any error but a refusal by name is a failure."""
    try:
        ours, verdict, reason = _run_ours(op, impl, device, inputs, settings), PASS, ""
    except Exception as error:
        refused = isinstance(error, NotImplementedError) and str(error).startswith(op.name)
        verdict, reason = (REFUSED, str(error)) if refused else (FAIL, _one_line(error))
        ours = None
    answers = {"ours": ours, "formula": true.formula, "peer": true.peer}
    answers = {name: answer for name, answer in answers.items() if answer is not None}
    named = {"x": inputs.x, "y": inputs.y} | inputs.tensors
    row = Row(
        op=op.name,
        impl=impl,
        dtype=str(inputs.x.dtype).removeprefix("torch."),
        case=inputs.case,
        settings=settings,
        shapes={name: tuple(tensor.shape) for name, tensor in named.items()},
        verdict=verdict,
        reason=reason,
        near_ties=true.near_ties,
        peer_reason=true.peer_reason,
        values={name: answer.value.tolist() for name, answer in answers.items()},
        grad_norms={name: float(np.linalg.norm(_flat(a))) for name, a in answers.items()},
    )
    return row if ours is None else _judge(row, op, ours, true)


def _judge(row, op, ours, true):
    """The row with its comparisons, and its verdict by all of them."""
    value, grad = _compare(ours, true.formula, true.slack)
    row = row._replace(value=value, grad=grad)
    found = [("value", "the formula", value), ("gradient", "the formula", grad)]
    if true.peer is not None:
        peer_value, peer_grad = _compare(ours, true.peer, true.peer_slack)
        row = row._replace(peer_value=peer_value, peer_grad=peer_grad)
        # Where the peer is not finite the table says so; there is nothing to agree with.
        if np.isfinite(true.peer.value).all():
            found.append(("value", op.peer.name, peer_value))
        if all(np.isfinite(g).all() for g in true.peer[1:]):
            found.append(("gradient", op.peer.name, peer_grad))
    wrong = [_complaint(*entry) for entry in found if not entry[-1].worst <= 1]  # NaN fails
    return row._replace(verdict=FAIL if wrong else PASS, reason="; ".join(wrong))


def _complaint(what, whom, comparison):
    if np.isnan(comparison.worst):
        return f"{what} is not a number"
    return f"{what} differs from {whom} by {comparison.worst:.3g} times what rounding explains"


def _rounding(dtype, cumulates=False):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    narrow = torch.finfo(dtype)
    tiny = narrow.smallest_normal * narrow.eps
    return Rounding(torch.finfo(wide).eps, narrow.eps, tiny, cumulates)


def _solve(op, inputs, settings, rounding):
    """The formula for every problem of the batch, stacked."""
    tensors = {name: _numpy(tensor) for name, tensor in inputs.tensors.items()}
    solved = [
        op.formula(x, y, rounding, **settings, **tensors)
        for x, y in zip(_problems(op, inputs.x), _problems(op, inputs.y), strict=True)
    ]
    result, slack = (_stack([s[k] for s in solved]) for k in (0, 1))
    return Solution(result, slack, float(np.mean([s.near_ties for s in solved])))


def _problems(op, z):
    """The problems of a batch along one axis, as float64 arrays."""
    own = 1 if op.lines else 2
    return _numpy(z).reshape(-1, *z.shape[z.dim() - own :])


def _numpy(tensor):
    return tensor.detach().double().cpu().numpy()


def _run_ours(op, impl, device, inputs, settings):
    x, y = (z.to(device).requires_grad_() for z in (inputs.x, inputs.y))
    tensors = {name: tensor.to(device) for name, tensor in inputs.tensors.items()}
    value = op.ours(x, y, impl=impl, **settings, **tensors)
    grads = torch.autograd.grad(value.sum(), (x, y))
    return Result(_numpy(value).reshape(-1), *(_problems(op, g) for g in grads))


def _run_peer(op, peer, inputs, settings):
    """The peer in float64, one problem at a time."""
    tensors = {name: tensor.double() for name, tensor in inputs.tensors.items()}
    answers = []
    for x, y in zip(_problems(op, inputs.x), _problems(op, inputs.y), strict=True):
        x, y = (torch.from_numpy(z).clone().requires_grad_() for z in (x, y))
        value = op.peer.call(peer, x, y, **settings, **tensors)
        answers.append(
            [_numpy(value).reshape(()), *map(_numpy, torch.autograd.grad(value, (x, y)))]
        )
    return _stack(answers)


def _stack(results):
    return Result(*map(np.stack, zip(*results, strict=True)))


def _add(left, right):
    return Result(*map(np.add, left, right))


def _compare(ours, reference, slack):
    """Comparisons of the value and of the gradient with respect to both clouds together."""
    answers = (ours, reference, slack)
    value = _comparison(*(r.value for r in answers))
    return value, _comparison(*map(_flat, answers))


def _flat(result):
    """The gradient with respect to both clouds as one vector."""
    return np.concatenate([result.grad_x.ravel(), result.grad_y.ravel()])


def _comparison(ours, reference, slack):
    difference = np.abs(ours - reference)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(difference == 0, 0.0, difference / slack)
    scale = np.linalg.norm(reference) or 1.0
    error, bound = np.linalg.norm(difference) / scale, np.linalg.norm(slack) / scale
    return Comparison(float(error), float(bound), float(np.max(share)))


def _one_line(error):
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"
