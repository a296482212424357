"""Laws of the MMD and the energy distance, on drawn problems.

Coordinates are few, so that points coincide within and between clouds; weights are small integers,
zeros among them. Sizes go down to one point and one feature.
"""

import dataclasses

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from support import value_and_grads

from otkernels import energy_distance, mmd

IMPLS = ["torch", "cpu", "triton"] if not torch.cuda.is_available() else ["torch", "triton"]
INTERPRETED = not torch.cuda.is_available()
WITH_BANDWIDTH = ["gaussian", "laplacian", "imq", "rational_quadratic"]
ROUNDING = 256 * torch.finfo(torch.float64).eps


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


def normal(generator, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


KINDS = {
    "grid": lambda generator, *shape: torch.randint(-2, 3, shape, generator=generator).double(),
    "normal": normal,
    "one point": lambda generator, n, d: normal(generator, 1, d).repeat(n, 1),
}
SEEDS = st.integers(0, 2**32 - 1).map(lambda seed: torch.Generator().manual_seed(seed))


@dataclasses.dataclass
class Cloud:
    points: torch.Tensor
    weights: torch.Tensor | None = None

    def changed(self, points=None, weights=None):
        points = self.points if points is None else points
        return Cloud(points, self.weights if weights is None else weights)

    def at(self, index):
        """The points of these indices, and their weights."""
        return Cloud(self.points[index], None if self.weights is None else self.weights[index])

    def weighed(self):
        """With weights, equal ones where there are none."""
        return self.changed(weights=self.masses())

    def masses(self):
        n = len(self.points)
        weights = self.points.new_ones(n) if self.weights is None else self.weights
        return weights / weights.sum()


@st.composite
def clouds(draw, d, largest):
    n, generator = draw(st.integers(1, largest)), draw(SEEDS)
    points = KINDS[draw(st.sampled_from(list(KINDS)))](generator, n, d)
    if draw(st.booleans()):
        return Cloud(points)
    weights = torch.randint(0, 4, (n,), generator=generator).double()
    weights[draw(st.integers(0, n - 1))] = 2
    return Cloud(points, weights)


@dataclasses.dataclass
class Problem:
    x: Cloud
    y: Cloud
    kernel: str
    bandwidths: tuple
    unbiased: bool
    seed: int
    impl: str

    def mmd(self, x, y, **changes):
        given = {"kernel": self.kernel, "unbiased": self.unbiased, "impl": self.impl} | changes
        if given["kernel"] in WITH_BANDWIDTH:
            given = {"bandwidth": self.bandwidths} | given
        return mmd(x.points, y.points, a=x.weights, b=y.weights, **given)

    def size(self, kernel=None):
        """A bound on every kernel value, and so on what may be lost to rounding."""
        points = torch.cat([self.x.points, self.y.points])
        kernel = kernel or self.kernel
        if kernel == "polynomial":
            return (points.square().sum(-1).max().item() / points.shape[1] + 1) ** 3
        if kernel == "energy":
            return 2 * points.norm(dim=-1).max().item()
        return len(self.bandwidths)

    def close(self, actual, expected, scale=1.0):
        """Equal up to rounding; U-statistics divide by 1 - sum a_i^2, at least 1/4 here."""
        slack = 4 * ROUNDING * max(self.size(), 1) * max(scale, 1)
        torch.testing.assert_close(actual, expected, rtol=ROUNDING, atol=slack, equal_nan=True)

    def random(self, *shape):
        return normal(torch.Generator().manual_seed(self.seed), *shape)

    def order(self, n):
        return torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))


@st.composite
def problems(draw, impl):
    d = draw(st.integers(1, 3))
    x, y = (draw(clouds(d, 7)) for _ in range(2))
    kernel = draw(st.sampled_from([*WITH_BANDWIDTH, "polynomial", "energy"]))
    bandwidths = draw(st.lists(st.floats(0.25, 8), min_size=1, max_size=3).map(tuple))
    return Problem(
        x,
        draw(st.sampled_from([y, y, y, x])),
        kernel,
        bandwidths,
        unbiased=draw(st.booleans()) and min(len(x.points), len(y.points)) > 1,
        seed=draw(st.integers(0, 99)),
        impl=impl,
    )


def corner(kernel, x, y, *, a=None, b=None, unbiased=False, impl):
    """A problem that no draw may miss."""
    x, y = (float64(z).reshape(len(z), -1) for z in (x, y))
    a, b = (None if w is None else float64(w) for w in (a, b))
    return Problem(Cloud(x, a), Cloud(y, b), kernel, (0.5, 2.0), unbiased, seed=5, impl=impl)


def corners(impl):
    plane = [[0, 1], [2, 2], [0, 1], [-1, 3]]
    yield corner("laplacian", plane, plane[1:], a=[1, 2, 0, 3], unbiased=True, impl=impl)
    yield corner("energy", [1, 1, 1, -2], [1, 2, 2, 0, 1], b=[1, 0, 2, 2, 1], impl=impl)
    yield corner("gaussian", [3], [3], impl=impl)
    yield corner("polynomial", plane, plane, impl=impl)
    yield corner("imq", plane, [[0, 1], [5, 5]], a=[0, 2, 0, 0], unbiased=True, impl=impl)


def every_example(check, impl):
    """``check`` on the corners and on drawn problems; on one where the interpreter is slow.

    On fewer for the definition, which is short and does the same whatever the sizes.
    """
    if impl == "triton" and INTERPRETED:
        return lambda: check(next(corners(impl)))
    check = given(problem=problems(impl))(check)
    for problem in corners(impl):
        check = example(problem=problem)(check)
    phases = [Phase.explicit, Phase.generate, Phase.shrink]
    options = {"derandomize": True, "database": None, "deadline": None}
    return settings(max_examples=5 if impl == "torch" else 10, phases=phases, **options)(check)


# --- laws ---------------------------------------------------------------------------------------


def symmetric(t):
    t.close(t.mmd(t.x, t.y), t.mmd(t.y, t.x))


def never_negative_and_zero_to_itself(t):
    """V-statistics of kernels, all of which are (conditionally) positive definite."""
    slack = 4 * ROUNDING * max(t.size(), 1)
    assert t.mmd(t.x, t.y, unbiased=False) >= -slack
    same = t.mmd(t.x, t.x.at(t.order(len(t.x.points))), unbiased=False)
    assert abs(same) <= slack


def triangle_inequality_of_the_root(t):
    """With a third cloud, the reflected second."""
    slack = 4 * ROUNDING * max(t.size(), 1)
    z = t.y.changed(-t.y.points)
    x_z, x_y, y_z = (
        t.mmd(*pair, unbiased=False).clamp(min=0) for pair in ((t.x, z), (t.x, t.y), (t.y, z))
    )
    assert (x_z - slack).clamp(min=0).sqrt() <= (x_y + slack).sqrt() + (y_z + slack).sqrt()


def unchanged_by_a_common_translation(t):
    if t.kernel == "polynomial":
        return
    shift = t.random(t.x.points.shape[1])
    moved = (cloud.changed(cloud.points + shift) for cloud in (t.x, t.y))
    # Of points apart by d, a root feels a shift of d by eps.
    t.close(t.mmd(*moved), t.mmd(t.x, t.y), scale=8)


def unchanged_by_a_rotation(t):
    d = t.x.points.shape[1]
    rotation = torch.linalg.qr(t.random(d, d)).Q
    turned = (cloud.changed(cloud.points @ rotation) for cloud in (t.x, t.y))
    t.close(t.mmd(*turned), t.mmd(t.x, t.y), scale=8)


def unchanged_by_the_order(t):
    x, y = (cloud.at(t.order(len(cloud.points))) for cloud in (t.x, t.y))
    t.close(t.mmd(x, y), t.mmd(t.x, t.y))


def unchanged_by_scaling_points_and_bandwidths(t):
    if t.kernel not in WITH_BANDWIDTH:
        return
    c = 0.1 + t.random(1).abs().item()
    scaled = (cloud.changed(c * cloud.points) for cloud in (t.x, t.y))
    wider = t.mmd(*scaled, bandwidth=[c * s for s in t.bandwidths])
    t.close(wider, t.mmd(t.x, t.y))
    # The median scales with the points by itself.
    scaled = (cloud.changed(c * cloud.points) for cloud in (t.x, t.y))
    t.close(t.mmd(*scaled, bandwidth="median"), t.mmd(t.x, t.y, bandwidth="median"))


def energy_distance_is_homogeneous_and_the_mmd_of_its_kernel(t):
    c = t.random(1).item()

    def distance(x, y):
        given = {"a": x.weights, "b": y.weights, "unbiased": t.unbiased, "impl": t.impl}
        return energy_distance(x.points, y.points, **given)

    scaled = (cloud.changed(c * cloud.points) for cloud in (t.x, t.y))
    expected = distance(t.x, t.y)
    slack = 4 * ROUNDING * (1 + t.size("energy")) * max(1, abs(c))
    torch.testing.assert_close(
        distance(*scaled), abs(c) * expected, rtol=ROUNDING, atol=slack, equal_nan=True
    )
    of_kernel = t.mmd(t.x, t.y, kernel="energy")
    torch.testing.assert_close(of_kernel, expected, rtol=0, atol=0, equal_nan=True)


def several_bandwidths_sum_their_kernels(t):
    if t.kernel in WITH_BANDWIDTH:
        each = [t.mmd(t.x, t.y, bandwidth=s) for s in t.bandwidths]
        t.close(t.mmd(t.x, t.y), sum(each))


def only_the_ratio_of_weights_counts(t):
    x, y = t.x.weighed(), t.y.weighed()
    scale = 0.01 + t.random(1).abs()
    t.close(t.mmd(x.changed(weights=scale * x.weights), y), t.mmd(t.x, t.y))


def points_without_mass_do_not_count(t):
    x, y = t.x.weighed(), t.y.weighed()
    more = Cloud(
        torch.cat([3 * t.random(2, x.points.shape[1]), x.points]),
        torch.cat([x.weights.new_zeros(2), x.weights]),
    )
    t.close(t.mmd(more, y), t.mmd(t.x, t.y), scale=8)


def a_point_may_be_split(t):
    """In V-statistics: two halves at one place are one point."""
    x, y = t.x.weighed(), t.y
    k = t.seed % len(x.points)
    halved = x.weights.clone()
    halved[k] /= 2
    split = Cloud(torch.cat([x.points, x.points[[k]]]), torch.cat([halved, halved[[k]]]))
    t.close(t.mmd(split, y, unbiased=False), t.mmd(x, y, unbiased=False))


def quadratic_in_the_masses(t):
    """The V-statistic of a mixture: that of x and y, at the middle a quarter of it."""
    x, y = t.x.weighed(), t.y.weighed()
    middle = Cloud(torch.cat([x.points, y.points]), torch.cat([x.weights, y.weights]) / 2)
    t.close(4 * t.mmd(middle, y, unbiased=False), t.mmd(x, y, unbiased=False), scale=4)


def batch_equals_loop(t):
    """Of the problem, its mirror image and another place, of which one is padded."""
    shift = t.random(t.x.points.shape[1])
    maps = (lambda z: z, lambda z: -z, lambda z: z + shift)
    x, y = (torch.stack([f(cloud.points) for f in maps]) for cloud in (t.x, t.y))
    least = 2 if t.unbiased else 1
    lengths = torch.tensor([len(t.x.points), least, len(t.x.points)])
    given = {"kernel": t.kernel, "unbiased": t.unbiased, "impl": t.impl}
    whole = mmd(x, y, x_lengths=lengths, **given)
    for k, n in enumerate(lengths):
        t.close(whole[k], mmd(x[k, :n], y[k], **given), scale=64)


def gradients_obey_the_laws(t):
    """Derivatives of translation, of scaling energy distances (Euler) and of scaling weights."""
    x, y = t.x.weighed(), t.y.weighed()
    tensors = x.points, y.points, x.weights, y.weights

    def cost(x, y, a, b):
        return t.mmd(Cloud(x, a), Cloud(y, b), unbiased=False)

    value, *grads = value_and_grads(cost, *tensors)
    assert all(grad.isfinite().all() for grad in grads)
    along = [(grad * tensor).sum() for grad, tensor in zip(grads, tensors, strict=True)]
    # Slopes are at most k(0) / s, s >= 1/4.
    scale = 16 * max(1, t.size("energy"))
    if t.kernel != "polynomial":
        t.close(grads[0].sum(0), -grads[1].sum(0), scale)
    if t.kernel == "energy":
        t.close(along[0] + along[1], value, scale)
    for weights in along[2:]:
        t.close(weights, torch.zeros_like(weights), scale)


def agrees_with_the_definition(t):
    """Value and gradients, weights among them."""
    tensors = t.x.points, t.y.points, t.x.masses(), t.y.masses()

    def cost(impl):
        return lambda x, y, a, b: t.mmd(Cloud(x, a), Cloud(y, b), impl=impl)

    results = [value_and_grads(cost(impl), *tensors) for impl in (t.impl, "torch")]
    for actual, expected in zip(*results, strict=True):
        t.close(actual, expected, scale=16 * max(1, t.size("energy")))


LAWS = [
    symmetric,
    never_negative_and_zero_to_itself,
    triangle_inequality_of_the_root,
    unchanged_by_a_common_translation,
    unchanged_by_a_rotation,
    unchanged_by_the_order,
    unchanged_by_scaling_points_and_bandwidths,
    energy_distance_is_homogeneous_and_the_mmd_of_its_kernel,
    several_bandwidths_sum_their_kernels,
    only_the_ratio_of_weights_counts,
    points_without_mass_do_not_count,
    a_point_may_be_split,
    quadratic_in_the_masses,
    batch_equals_loop,
    gradients_obey_the_laws,
    agrees_with_the_definition,
]
# The rest follows from the last law, and the interpreter takes seconds for each.
INTERPRETED_LAWS = [batch_equals_loop, gradients_obey_the_laws, agrees_with_the_definition]


def cases():
    for impl in IMPLS:
        slow = impl == "triton" and INTERPRETED
        for law in INTERPRETED_LAWS if slow else LAWS:
            yield pytest.param(law, impl, id=f"{law.__name__}-{impl}")


@pytest.mark.parametrize(("law", "impl"), list(cases()))
def test_law(law, impl):
    def check(problem):
        law(problem)

    every_example(check, impl)()
