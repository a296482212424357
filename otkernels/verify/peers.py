"""Other libraries' versions of the ops, called in float64 on one problem at a time.

POT's stand here, those of kernels in ``kernel_peers``.
"""

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Callable
from typing import NamedTuple

__all__ = [
    "STOP",
    "POT_CIRCLE",
    "POT_LINE",
    "POT_MAX",
    "POT_SLICED",
    "POT_SPHERE",
    "POT_TANH",
    "POT_WITH_COSTS",
    "Peer",
    "load",
]


# How far from the best cut of a circle POT may stop; by default it does at 1e-6.
STOP = 1e-13


class Peer(NamedTuple):
    """Another library's version of an op: ``call(module, **tensors, **settings)``.

    ``differs`` names, by a word of the kind of a case, what is known to be another number there: it
    is shown and not judged. docs/verification.md has the evidence.
    """

    name: str
    module: str
    call: Callable
    differs: dict[str, tuple[str, ...]] = {}
    needs: str = ""
    """Another package that it has to find."""


def load(peer):
    """The peer's module, or None where it is not installed. What it prints on import is dropped."""
    packages = (module.partition(".")[0] for module in (peer.module, peer.needs) if module)
    if any(importlib.util.find_spec(package) is None for package in packages):
        return None
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return importlib.import_module(peer.module)


def _mass(*weights):
    return (None if w is None else w / w.sum() for w in weights)


def _sliced(ot, x, y, *, p, projections, a=None, b=None):
    a, b = _mass(a, b)
    return ot.sliced_wasserstein_distance(x, y, a, b, projections=projections, p=p) ** p


def _tanh(ot, x, y, *, p, projections, a=None, b=None):
    u, v = ((z @ projections).tanh() for z in (x, y))
    return ot.wasserstein_1d(u, v, *_mass(a, b), p=p).mean()


def _line(ot, u, v, *, p, a=None, b=None):
    return ot.wasserstein_1d(u[:, None], v[:, None], *_mass(a, b), p=p)[0]


def _with_costs(ot, x, y, *, p, projections, a=None, b=None):
    a, b = _mass(a, b)
    root, log = ot.sliced_wasserstein_distance(x, y, a, b, projections=projections, p=p, log=True)
    return {"value": root**p, "costs": log["projected_emds"]}


def _max(ot, x, y, *, p, projections, n_steps, a=None, b=None):
    """Among the same candidates; POT searches no further."""
    means = (z.mean(0) if w is None else w @ z for z, w in zip((x, y), _mass(a, b), strict=True))
    theta = _columns(projections, *means)
    a, b = _mass(a, b)
    return ot.max_sliced_wasserstein_distance(x, y, a, b, projections=theta, p=p) ** p


def _columns(projections, mean_x, mean_y):
    theta = projections.new_empty(projections.shape[0], projections.shape[1] + 1)
    theta[:, :-1], theta[:, -1] = projections.detach(), (mean_x - mean_y).detach()
    return theta / theta.norm(dim=0)


def _circle(ot, u, v, *, p, a=None, b=None):
    return ot.wasserstein_circle(u[:, None], v[:, None], *_mass(a, b), p=p, eps=STOP)[0]


def _sphere(ot, x, y, *, p, projections, a=None, b=None):
    """Of its own function the parts, since that has no argument for when to stop."""
    rows = []
    for points in (x, y):
        points = points / points.norm(dim=-1, keepdim=True)  # float16 points are off the sphere
        rows.append(
            ot.sliced.projection_sphere_to_circle(
                points, n_projections=len(projections), projections=projections
            )[0].T
        )
    return ot.wasserstein_circle(*rows, *_mass(a, b), p=p, eps=STOP).mean()


TO_WEIGHTS = {"zero": ("grad a", "grad b"), "coincident": ("grad a", "grad b")}
POT_SLICED = Peer("POT", "ot", _sliced, TO_WEIGHTS)
POT_TANH = Peer("POT", "ot", _tanh, TO_WEIGHTS)
POT_LINE = Peer("POT", "ot", _line, TO_WEIGHTS)
POT_MAX = Peer("POT", "ot", _max, TO_WEIGHTS)
POT_WITH_COSTS = Peer("POT", "ot", _with_costs, TO_WEIGHTS)
POT_CIRCLE = Peer("POT", "ot", _circle, {"weights": ("grad a", "grad b")})
POT_SPHERE = Peer("POT", "ot", _sphere, {"weights": ("grad a", "grad b")})
