"""One row of the table: ours, the float64 formula and the peer on the same inputs, compared."""

import functools
from typing import NamedTuple

import numpy as np
import torch

from .reference import Quantities, Rounding, Solution

__all__ = ["FAIL", "PASS", "REFUSED", "Comparison", "Judged", "Row", "Truth", "check", "truth"]

PASS, FAIL, REFUSED = "PASS", "FAIL", "REFUSED"


class Comparison(NamedTuple):
    """Two arrays that should be equal, and what explains their difference."""

    error: float
    """Norm of the difference, relative to the norm of the reference (absolute where that is 0)."""
    bound: float
    """The same for the allowed difference."""
    worst: float
    """The largest difference of one entry in units of what is allowed to it; passes up to 1."""


class Judged(NamedTuple):
    """One quantity of a row: the value, a gradient, or what else the op returns."""

    norms: dict[str, float]
    """Of "ours", "formula" and "peer", as far as each answered."""
    formula: Comparison
    peer: Comparison | None
    counted: bool
    """Whether the peer's answer is one to agree with."""


class Truth(NamedTuple):
    """What a row is judged by: formula and peer, each with the difference allowed from ours."""

    formula: Quantities
    slack: Quantities
    near_ties: float
    peer: Quantities
    peer_slack: Quantities
    peer_reason: str


class Row(NamedTuple):
    """One line of the table and one object of the JSON; no array of the size of the inputs."""

    op: str
    against: str
    impl: str
    dtype: str
    case: str
    settings: dict[str, float | str | tuple]
    shapes: dict[str, tuple[int, ...]]
    verdict: str
    reason: str
    near_ties: float
    peer_reason: str
    values: dict[str, list[float]]
    """Of "ours", "formula" and "peer", as far as each answered."""
    quantities: dict[str, Judged]


def truth(op, inputs, settings, peer):
    """The :class:`Truth` for one set of inputs; ``peer`` is the peer's module or None."""
    solve = functools.cache(functools.partial(_solve, op, inputs, settings))
    ragged = any(name.endswith("lengths") for name in inputs.tensors)
    exact = solve(_rounding(torch.float64))
    rounded = solve(_rounding(inputs.dtype, cumulates=ragged))
    # Two computations may differ by the sum of what each of them may round.
    slack = _add(exact.slack, rounded.slack)
    slack = {name: s + exact.chance.get(name, 0.0) for name, s in slack.items()}
    answer, peer_slack, reason = {}, {}, f"no {op.peer.name} installed" if op.peer else ""
    if peer is not None:
        naive = solve(_rounding(torch.float64, cumulates=True)._replace(plain=True))
        peer_slack = _add(naive.slack, rounded.slack)
        try:
            answer, reason = _run_peer(op, peer, inputs, settings, exact.result), ""
        except Exception as error:  # a defect of the peer is a fact to show, not our failure
            reason = f"{op.peer.name} raised {_one_line(error)}"
    return Truth(exact.result, slack, rounded.near_ties, answer, peer_slack, reason)


def check(op, impl, device, inputs, settings, true):
    """Run ours on ``device`` and judge it; any error but a refusal by name is a failure."""
    try:
        ours = _run_ours(op, impl, device, inputs, settings, true.formula)
        quantities = {name: _judged(name, op, inputs, ours, true) for name in true.formula}
        verdict, reason = PASS, _complaints(op, quantities)
        verdict = FAIL if reason else PASS
    except Exception as error:
        refused = isinstance(error, NotImplementedError) and str(error).startswith(op.name)
        verdict, reason = (REFUSED, str(error)) if refused else (FAIL, _one_line(error))
        ours, quantities = {}, {}
    values = {"ours": ours, "formula": true.formula, "peer": true.peer}
    return Row(
        op=op.name,
        against=op.against,
        impl=impl,
        dtype=str(inputs.dtype).removeprefix("torch."),
        case=inputs.case,
        settings=settings,
        shapes={name: tuple(tensor.shape) for name, tensor in inputs.tensors.items()},
        verdict=verdict,
        reason=reason,
        near_ties=true.near_ties,
        peer_reason=true.peer_reason,
        values={whose: q["value"].tolist() for whose, q in values.items() if "value" in q},
        quantities=quantities,
    )


def _judged(name, op, inputs, ours, true):
    answers = {"ours": ours, "formula": true.formula, "peer": true.peer}
    norms = {whose: float(np.linalg.norm(q[name])) for whose, q in answers.items() if name in q}
    formula = _comparison(ours[name], true.formula[name], true.slack[name])
    if name not in true.peer:
        return Judged(norms, formula, None, False)
    peer = _comparison(ours[name], true.peer[name], true.peer_slack[name])
    differs = any(name in op.peer.differs.get(word, ()) for word in inputs.kind.split())
    # Where the peer is not finite the table says so; there is nothing to agree with.
    counted = bool(np.isfinite(true.peer[name]).all()) and not differs
    return Judged(norms, formula, peer, counted)


def _complaints(op, quantities):
    """What is wrong with the quantities of a row, in words."""
    found = []
    for name, judged in quantities.items():
        comparisons = {"the truth": judged.formula}
        if judged.counted:
            comparisons[op.peer.name] = judged.peer
        for whom, comparison in comparisons.items():
            if np.isnan(comparison.worst):
                found.append(f"{name} is not a number")
            elif comparison.worst > 1:
                times = f"{comparison.worst:.3g} times what is explained"
                found.append(f"{name} differs from {whom} by {times}")
    return "; ".join(found)


def _rounding(dtype, cumulates=False):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    narrow = torch.finfo(dtype)
    tiny = narrow.smallest_normal * narrow.eps
    return Rounding(torch.finfo(wide).eps, narrow.eps, tiny, cumulates)


def _solve(op, inputs, settings, rounding):
    """The formula for every problem of the batch, brought together."""
    solved = [op.formula(**p, **settings, rounding=rounding) for p in inputs.problems()]
    result, slack, chance = (
        _together(inputs, [getattr(s, field) for s in solved])
        for field in ("result", "slack", "chance")
    )
    return Solution(result, slack, float(np.mean([s.near_ties for s in solved])), chance)


def _together(inputs, answers):
    """Quantities of every problem, stacked; gradients in the shape of what they are to."""
    found = {}
    for name in answers[0]:
        parts = [np.asarray(answer[name]) for answer in answers]
        to = name.removeprefix("grad ")
        found[name] = np.stack(parts) if to == name else inputs.joined(to, parts)
    return found


def _gradients(value, tensors, wanted):
    """Gradients of a sum of values to those tensors that the names "grad ..." are about."""
    names = [name.removeprefix("grad ") for name in wanted if name.startswith("grad ")]
    if not names or not value.requires_grad:  # some peers are NumPy
        return {}
    grads = torch.autograd.grad(value.sum(), [tensors[name] for name in names], allow_unused=True)
    return {f"grad {n}": g for n, g in zip(names, grads, strict=True) if g is not None}


def _answer(call, tensors, wanted, settings):
    """Quantities, as tensors, of ours or of the peer's."""
    tensors = {n: t.requires_grad_(t.is_floating_point()) for n, t in tensors.items()}
    found = call(**tensors, **settings)
    found = found if isinstance(found, dict) else {"value": found}
    return found | _gradients(found["value"], tensors, wanted)


def _run_ours(op, impl, device, inputs, settings, formula):
    tensors = {name: t.detach().clone().to(device) for name, t in inputs.tensors.items()}
    found = _answer(op.ours, tensors, formula, settings | {"impl": impl})
    return {name: _numpy(found[name]).reshape(true.shape) for name, true in formula.items()}


def _run_peer(op, peer, inputs, settings, formula):
    """The peer in float64, one problem at a time."""
    answers = []
    for problem in inputs.problems():
        tensors = {name: torch.tensor(array) for name, array in problem.items()}
        found = _answer(
            lambda **keywords: op.peer.call(peer, **keywords), tensors, formula, settings
        )
        answers.append({name: _numpy(t) for name, t in found.items() if name in formula})
    return _together(inputs, answers)


def _numpy(tensor):
    return tensor.detach().double().cpu().numpy()


def _add(left, right):
    return {name: left[name] + right[name] for name in left}


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
