"""What an op is given: cases, the tensors of a case, and the problems of a batch one by one."""

import math
from typing import NamedTuple

import numpy as np
import torch

__all__ = [
    "AXES",
    "Case",
    "Inputs",
    "clouds",
    "draw",
    "given",
    "numbers",
    "on_sphere",
    "pairs",
    "shifted",
    "turns",
]

# How many axes of an argument belong to one problem. In front of them are those of the batch.
AXES = {"x": 2, "y": 2, "u": 1, "v": 1, "a": 1, "b": 1, "projections": 2, "bandwidth": 1}
AXES |= {"mean_x": 1, "cov_x": 2, "mean_y": 1, "cov_y": 2, "weights": 1, "cotangent": 2}
LENGTHS = {
    "x_lengths": ("x", "a"),
    "y_lengths": ("y", "b"),
    "u_lengths": ("u", "a"),
    "v_lengths": ("v", "b"),
    "lengths": ("x", "weights"),
}
AXES |= dict.fromkeys(LENGTHS, 0)
POINTS = ("x", "y", "u", "v")
# What is given in the dtype under test, and what tells the size of a problem.
GIVEN = (*POINTS, "mean_x", "cov_x", "mean_y", "cov_y")
SIZED = (*POINTS, "cov_x", "cov_y")
OFFSET = 1000.0
GIVEN_PROJECTIONS = 64


class Case(NamedTuple):
    """Sizes and kind of one set of inputs; ``m`` None means N points in y too."""

    n: int
    d: int = 8
    l: int = 16
    m: int | None = None
    batch: tuple[int, ...] = ()
    kind: str = ""
    """Words, each of which :func:`clouds` and :func:`numbers` know."""
    all_settings: bool = False
    """Run every setting of the op, not only its first."""


class Inputs(NamedTuple):
    """Arguments of one call: points in the dtype under test, the rest in the one that sums."""

    case: str
    kind: str
    dtype: torch.dtype
    tensors: dict[str, torch.Tensor]
    axes: dict[str, int]

    def problems(self):
        """The arguments of each problem of the batch, float64 arrays without padding."""
        arrays = {name: _numpy(tensor) for name, tensor in self.tensors.items()}
        wide = {
            name: np.broadcast_to(array, self.batch + self._own(name))
            for name, array in arrays.items()
        }
        for index in np.ndindex(*self.batch):
            problem = {name: array[index] for name, array in wide.items()}
            for lengths, names in LENGTHS.items():
                if lengths in problem:
                    n = int(problem.pop(lengths))
                    problem |= {name: problem[name][:n] for name in names if name in problem}
            yield problem

    @property
    def batch(self):
        """The leading axes of all arguments together."""
        shapes = ((tuple(t.shape), len(self._own(name))) for name, t in self.tensors.items())
        return np.broadcast_shapes(*(shape[: len(shape) - own] for shape, own in shapes))

    def _own(self, name):
        shape = tuple(self.tensors[name].shape)
        return shape[len(shape) - self.axes[name] :]

    def joined(self, name, parts):
        """The gradient to an argument, from that to the arguments of each problem.

        Padding has gradient 0; an argument that problems share gets the sum.
        """
        whole = np.zeros((len(parts), *self._own(name)))
        for row, part in zip(whole, parts, strict=True):
            row[: len(part)] = part
        shape = tuple(self.tensors[name].shape)
        whole = whole.reshape(self.batch + self._own(name))
        lead = whole.ndim - len(shape)
        shared = tuple(k for k in range(lead, whole.ndim) if shape[k - lead] < whole.shape[k])
        return whole.sum((*range(lead), *shared)).reshape(shape)

    def projected(self, settings):
        """The number of points of the larger set on all lines of the batch together."""
        sets = [self._own(name)[0] for name in self.tensors if name in SIZED]
        lines = self._own("projections")[-1] if "projections" in self.tensors else 1
        return max(sets) * settings.get("n_projections", lines) * math.prod(self.batch)

    def coordinates_of_pairs(self):
        """How many numbers the differences of all pairs of points are."""
        sizes = [self._own(name) for name in self.tensors if name in POINTS]
        return max(n for n, *_ in sizes) ** 2 * math.prod(sizes[0][1:]) * math.prod(self.batch)

    def finite(self):
        """Whether all numbers but those of the padding are."""
        return all(np.isfinite(a).all() for problem in self.problems() for a in problem.values())


def _numpy(tensor):
    return tensor.detach().double().cpu().numpy()


def clouds(case, rng):
    """Clouds x (..., N, D) and y (..., M, D), directions, and what the kind of case asks for."""
    arrays = _sets(case, rng, "xy", (case.d,))
    own = (*case.batch, case.d, case.l) if "own" in case.kind else (case.d, case.l)
    normal = np.random.default_rng(1).standard_normal(own)
    return arrays | {"projections": normal / np.linalg.norm(normal, axis=-2, keepdims=True)}


def numbers(case, rng):
    """Sets u (..., N) and v (..., M) of numbers, and what the kind of case asks for."""
    return _sets(case, rng, "uv", ())


def pairs(case, rng):
    """Clouds x (..., N, D) and y (..., M, D) without directions."""
    arrays = _sets(case, rng, "xy", (case.d,))
    if "shared" in case.kind:  # points of x stand in y, and one twice in x
        half = case.n // 2
        arrays["y"][..., :half, :] = arrays["x"][..., :half, :]
        arrays["x"][..., 1, :] = arrays["x"][..., 0, :]
    for name in {"x_lengths", "y_lengths"} & set(arrays):
        arrays[name] = np.maximum(arrays[name], 2)  # a U-statistic is of two points at least
    if "ladders" in case.kind:
        arrays["bandwidth"] = rng.uniform(0.5, 4.0, (*case.batch, 3))
    return arrays


def _sets(case, rng, names, last):
    m = case.n if case.m is None else case.m
    first, second = names
    arrays = {
        first: rng.standard_normal((*case.batch, case.n, *last)),
        second: 0.5 + 1.5 * rng.standard_normal((*case.batch, m, *last)),
    }
    words = case.kind.split()
    if "offset" in words:
        arrays = {name: array + OFFSET for name, array in arrays.items()}
    if "equal" in words:
        arrays[second] = arrays[first]
    for name, weight, size in ((first, "a", case.n), (second, "b", m)):
        if "weights" in words:
            arrays[weight] = rng.uniform(0.1, 1.0, (*case.batch, size))
        if "zero" in words:
            arrays[weight][..., :: size // 3] = 0.0
        if "coincident" in words:
            # Multiples of 1/64 cumulate exactly, and many levels of both sides are equal.
            arrays[weight] = 1.0 + rng.multinomial(64 - size, np.full(size, 1 / size), case.batch)
        if "padded" in words:
            lengths = rng.integers(1, size, case.batch)
            lengths.flat[-1] = size  # the last problem has no padding
            arrays[f"{name}_lengths"] = lengths
    return arrays


def turns(case, rng):
    """Coordinates u (..., N) and v (..., M) on the circle of length 1, in [0, 1)."""
    arrays = numbers(case, rng)
    return arrays | {name: array % 1 for name, array in arrays.items() if name in POINTS}


def on_sphere(case, rng):
    """Points x and y of the unit sphere and planes (L, D, 2) with orthonormal bases."""
    arrays = clouds(case, rng)
    for name in "xy":
        arrays[name] = arrays[name] / np.linalg.norm(arrays[name], axis=-1, keepdims=True)
    normal = np.random.default_rng(1).standard_normal((case.l, case.d, 2))
    return arrays | {"projections": np.linalg.qr(normal).Q}


def shifted(case, rng):
    """Clouds x and y = x + shift on a grid of eighths, exact in every dtype, and directions."""
    x = rng.integers(-32, 33, (*case.batch, case.n, case.d)) / 8
    shift = rng.integers(-16, 17, (*case.batch, 1, case.d)) / 8
    projections = clouds(case, rng)["projections"]
    return {"x": x, "y": x + shift, "projections": projections}


def draw(op, case, dtype):
    """The inputs of a case, the same numbers for every dtype up to its rounding."""
    arrays = op.draw(case, np.random.default_rng(0))
    return _inputs(op, arrays, dtype, case.kind)


def given(op, x, y, dtype):
    """Inputs from the user's own clouds x (N, D) and y (M, D), or (N,) and (M,)."""
    case = Case(len(x), x.shape[-1], GIVEN_PROJECTIONS)
    arrays = op.draw(case, np.random.default_rng(0))
    for name, array in zip(arrays, (x, y), strict=False):
        arrays[name] = array
    return _inputs(op, arrays, dtype, "")


def _inputs(op, arrays, dtype, kind):
    # Rounding the inputs is not an error of the op: the formula gets the rounded numbers too.
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    tensors = {}
    for name, array in arrays.items():
        kept = dtype if name in GIVEN else torch.int64 if name in LENGTHS else wide
        tensors[name] = torch.as_tensor(np.asarray(array)).to(kept)
    for lengths, names in LENGTHS.items():
        for name in names if lengths in tensors else ():
            if name in tensors:
                _poison(tensors[name], tensors[lengths], op.axes[name])
    return Inputs(_case(tensors, op.axes, kind), kind, dtype, tensors, op.axes)


def _poison(tensor, lengths, own):
    """NaN for all padding, which nothing may ever touch."""
    padding = torch.arange(tensor.shape[-own]) >= lengths[..., None]
    tensor[padding] = math.nan


def _case(tensors, axes, kind):
    first, *rest = (name for name in tensors if name in SIZED)
    shape, own = tensors[first].shape, axes[first]
    sizes = [tensors[name].shape[-own] for name in (first, *rest)]
    points = "/".join(map(str, dict.fromkeys(sizes)))
    lead = len(shape) - own
    text = "x".join(map(str, [*shape[:lead], points, *shape[lead + 1 :]]))
    return " ".join(filter(None, [text, kind]))
