"""Laws of the sliced distance between measures of any kind, on drawn problems.

Coordinates are few, so that points coincide and ties are common; weights are small integers, zeros
among them. Sizes go down to one point, one feature and one direction.
"""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from support import value_and_grads

from otkernels import sliced_wasserstein, sliced_wasserstein_to_normal, wasserstein_1d

IMPLS = ["torch", "cpu", "triton"] if not torch.cuda.is_available() else ["torch", "triton"]
INTERPRETED = not torch.cuda.is_available()
ROUNDING = 64 * torch.finfo(torch.float64).eps
close = torch.testing.assert_close


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


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


KINDS = {
    "grid": lambda generator, *shape: torch.randint(-2, 3, shape, generator=generator).double(),
    "normal": lambda generator, *shape: 10 * normal(generator, *shape),
    "one point": lambda generator, n, d: normal(generator, 1, d).repeat(n, 1),
}
SEEDS = st.integers(0, 2**32 - 1).map(lambda seed: torch.Generator().manual_seed(seed))


def normal(generator, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


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
    z: Cloud
    theta: torch.Tensor
    p: float
    seed: int
    impl: str

    def distance(self, x, y, theta=None, p=None):
        """The distance to the power p."""
        return sliced_wasserstein(
            x.points,
            y.points,
            a=x.weights,
            b=y.weights,
            projections=self.theta if theta is None else theta,
            p=self.p if p is None else p,
            impl=self.impl,
        )

    def power(self, p=None):
        """A bound on every cost: the largest gap along a direction, to the power p."""
        points = torch.cat([self.x.points, self.y.points, self.z.points])
        return (2 * (points @ self.theta).abs().max()) ** (self.p if p is None else p)

    def random(self, *shape):
        return normal(torch.Generator().manual_seed(self.seed), *shape)

    def order(self, n):
        return torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))


@st.composite
def problems(draw, impl):
    small = impl == "triton" and INTERPRETED
    d = draw(st.integers(1, 3))
    x, y, z = (draw(clouds(d, 4 if small else 7)) for _ in range(3))
    theta = normal(draw(SEEDS), d, draw(st.integers(1, 1 if small else 3)))
    return Problem(
        x,
        draw(st.sampled_from([y, y, y, x])),
        z,
        theta,
        p=draw(st.sampled_from([1, 2, 3, 1.5])),
        seed=draw(st.integers(0, 99)),
        impl=impl,
    )


def corner(x, y, *, a=None, b=None, p, impl):
    """A problem on a line, or in a plane for pairs of coordinates, which no draw may miss."""
    x, y = (float64(z).reshape(len(z), -1) for z in (x, y))
    a, b = (None if w is None else float64(w) for w in (a, b))
    theta = float64([[1.0], [-0.5]])[: x.shape[1]]
    return Problem(Cloud(x, a), Cloud(y, b), Cloud(y - 1), theta, p, seed=5, impl=impl)


def corners(impl):
    ties = [1, 1, 1, -2]
    yield corner(ties, [1, 2, 2, 0, 1], a=[0, 1, 3, 1], p=1, impl=impl)  # a zero weight, one-sided
    yield corner([3], [1, 2, 3, 3], b=[0, 0, 2, 2], p=2, impl=impl)  # one point
    plane = [[0, 1], [2, 2], [0, 1], [-1, 3]]
    yield corner(plane, plane, p=1.5, impl=impl)  # equal clouds
    yield corner(plane, plane[1:], a=[1, 2, 1, 0], b=[1, 3, 1], p=3, impl=impl)


def every_example(check, impl):
    """``check`` on the corners and on drawn problems, few where the interpreter takes a second."""
    slow = impl == "triton" and INTERPRETED
    phases = [Phase.explicit, Phase.generate] + ([] if slow else [Phase.shrink])
    count = 1 if slow else 10
    check = given(problem=problems(impl))(check)
    for problem in itertools.islice(corners(impl), 2 if slow else None):
        check = example(problem=problem)(check)
    options = {"derandomize": True, "database": None, "deadline": None}
    return settings(max_examples=count, phases=phases, **options)(check)


# --- laws ---------------------------------------------------------------------------------------


def zero_to_itself_and_never_negative(t):
    same = t.distance(t.x, t.x.at(t.order(len(t.x.points))))
    assert 0 <= same <= ROUNDING * t.power()
    assert t.distance(t.x, t.y) >= 0


def symmetric(t):
    close(t.distance(t.x, t.y), t.distance(t.y, t.x))


def triangle_inequality_of_the_root(t):
    """Costs carry the rounding of levels, whose root is not small, so it goes under the roots."""
    slack = ROUNDING * t.power()
    longest = (t.distance(t.x, t.z) - slack).clamp(min=0) ** (1 / t.p)
    way = [(t.distance(*pair) + slack) ** (1 / t.p) for pair in ((t.x, t.y), (t.y, t.z))]
    assert longest <= sum(way)


def growing_with_p_after_the_root(t):
    smaller = (t.distance(t.x, t.y) - ROUNDING * t.power()).clamp(min=0) ** (1 / t.p)
    larger = t.distance(t.x, t.y, p=t.p + 0.75) + ROUNDING * t.power(t.p + 0.75)
    assert smaller <= larger ** (1 / (t.p + 0.75))


def unchanged_by_a_common_translation(t):
    shift = t.random(t.x.points.shape[1])
    moved = (cloud.changed(cloud.points + shift) for cloud in (t.x, t.y))
    close(t.distance(*moved), t.distance(t.x, t.y))


def translation_of_one_cloud(t):
    """W_2^2 grows by |theta s|^2 + 2 (theta s) theta (mean_x - mean_y)."""
    shift = t.random(t.x.points.shape[1])
    means = [
        cloud.points.mean(0)
        if cloud.weights is None
        else cloud.weights @ cloud.points / cloud.weights.sum()
        for cloud in (t.x, t.y)
    ]
    along, apart = shift @ t.theta, (means[0] - means[1]) @ t.theta
    moved = t.distance(t.x.changed(t.x.points + shift), t.y, p=2)
    close(moved, t.distance(t.x, t.y, p=2) + (along.square() + 2 * along * apart).mean())


def unchanged_by_a_rotation_of_all(t):
    d = t.x.points.shape[1]
    rotation = torch.linalg.qr(t.random(d, d)).Q
    turned = (cloud.changed(cloud.points @ rotation) for cloud in (t.x, t.y))
    close(t.distance(*turned, theta=rotation.T @ t.theta), t.distance(t.x, t.y))


def unchanged_by_the_order(t):
    x, y = (cloud.at(t.order(len(cloud.points))) for cloud in (t.x, t.y))
    theta = t.theta[:, t.order(t.theta.shape[1])]
    close(t.distance(x, y, theta=theta), t.distance(t.x, t.y))


def homogeneous(t):
    """Scaling points or directions by s, of either sign, scales the cost by |s|^p."""
    s = t.random(1)
    expected = abs(s.item()) ** t.p * t.distance(t.x, t.y)
    scaled = (cloud.changed(s * cloud.points) for cloud in (t.x, t.y))
    close(t.distance(*scaled), expected)
    close(t.distance(t.x, t.y, theta=s * t.theta), expected)


def mean_over_directions(t):
    each = [t.distance(t.x, t.y, theta=t.theta[:, [k]]) for k in range(t.theta.shape[1])]
    close(t.distance(t.x, t.y), sum(each) / len(each))


def one_feature_is_the_line(t):
    x, y = (cloud.changed(cloud.points @ t.theta[:, :1]) for cloud in (t.x, t.y))
    u, v = (cloud.points[:, 0] for cloud in (x, y))
    line = wasserstein_1d(u, v, p=t.p, a=x.weights, b=y.weights, impl=t.impl)
    close(t.distance(x, y, theta=float64([[1]])), line)


def repeated(cloud):
    """The same measure without weights: every point as often as its weight says."""
    if cloud.weights is None:
        return cloud.at(torch.arange(len(cloud.points)).repeat(3))
    return Cloud(cloud.points.repeat_interleave(cloud.weights.int(), 0))


def weights_are_multiplicities(t):
    close(t.distance(repeated(t.x), t.y), t.distance(t.x, t.y))
    close(t.distance(repeated(t.x), repeated(t.y)), t.distance(t.x, t.y))


def weighed(cloud):
    """The cloud with weights, where it has none equal ones."""
    if cloud.weights is not None:
        return cloud
    return cloud.changed(weights=cloud.points.new_full((len(cloud.points),), 0.7))


def only_the_ratio_of_weights_counts(t):
    x, y = weighed(t.x), weighed(t.y)
    close(t.distance(x, y), t.distance(t.x, t.y))
    scale = t.random(1).abs() + 0.01
    close(t.distance(x.changed(weights=scale * x.weights), y), t.distance(t.x, t.y))


def a_point_may_be_split(t):
    x = weighed(t.x)
    k = t.seed % len(x.points)
    halved = x.weights.clone()
    halved[k] /= 2
    split = Cloud(torch.cat([x.points, x.points[[k]]]), torch.cat([halved, halved[[k]]]))
    close(t.distance(split, t.y), t.distance(t.x, t.y))


def points_without_mass_do_not_count(t):
    x, y = weighed(t.x), weighed(t.y)
    more = Cloud(
        torch.cat([100 * t.random(2, x.points.shape[1]), x.points]),
        torch.cat([x.weights.new_zeros(2), x.weights]),
    )
    close(t.distance(more, t.y), t.distance(t.x, t.y))
    close(t.distance(x, y.at(y.weights > 0)), t.distance(t.x, t.y))


def padding_does_not_count(t):
    def padded(cloud, k):
        points = torch.nn.functional.pad(cloud.points, (0, 0, 0, k), value=torch.nan)
        weights = cloud.weights
        return points, weights if weights is None else torch.nn.functional.pad(weights, (0, k))

    (x, a), (y, b) = padded(t.x, t.seed % 3), padded(t.y, 2)
    lengths = {
        f"{name}_lengths": torch.tensor(len(cloud.points))
        for name, cloud in (("x", t.x), ("y", t.y))
    }
    options = {"projections": t.theta, "p": t.p, "impl": t.impl}
    close(sliced_wasserstein(x, y, a=a, b=b, **lengths, **options), t.distance(t.x, t.y))


def gradients_obey_the_laws(t):
    """Derivatives of translation, scaling of points (Euler) and scaling of weights."""
    x, y = weighed(t.x), weighed(t.y)
    tensors = x.points, y.points, t.theta, x.weights, y.weights

    def cost(x, y, theta, a, b):
        return sliced_wasserstein(x, y, projections=theta, p=t.p, a=a, b=b, impl=t.impl)

    value, *grads = value_and_grads(cost, *tensors)
    assert all(grad.isfinite().all() for grad in grads)
    slack = {"rtol": 0, "atol": ROUNDING * max(1, t.power().item())}
    close(grads[0].sum(0), -grads[1].sum(0), **slack)
    along = [(grad * tensor).sum() for grad, tensor in zip(grads, tensors, strict=True)]
    close(along[0] + along[1], t.p * value, **slack)
    close(along[2], t.p * value, **slack)
    for weights in along[3:]:
        close(weights, torch.zeros_like(weights), **slack)


def agrees_with_the_definition(t):
    defined = dataclasses.replace(t, impl="torch")
    close(t.distance(t.x, t.y), defined.distance(t.x, t.y))


def laws_of_the_distance_to_the_normal(t):
    """What a shift adds, no change by turning and order, and Gelbrich's bound by two moments."""

    def distance(points, theta=t.theta):
        theta = theta / theta.norm(dim=0)
        return sliced_wasserstein_to_normal(points, projections=theta, impl=t.impl)

    x, d = t.x.points, t.x.points.shape[1]
    value, shift, rotation = distance(x), t.random(d), torch.linalg.qr(t.random(d, d)).Q
    unit = t.theta / t.theta.norm(dim=0)
    along, mean = shift @ unit, x.mean(0) @ unit
    close(distance(x + shift), value + (along.square() + 2 * along * mean).mean())
    close(distance(x @ rotation, rotation.T @ t.theta), value)
    close(distance(x[t.order(len(x))]), value)
    close(distance(-x), value)
    moments = mean.square() + ((x @ unit).std(0, correction=0) - 1).square()
    assert value >= moments.mean() * (1 - ROUNDING)


LAWS = [
    zero_to_itself_and_never_negative,
    symmetric,
    triangle_inequality_of_the_root,
    growing_with_p_after_the_root,
    unchanged_by_a_common_translation,
    translation_of_one_cloud,
    unchanged_by_a_rotation_of_all,
    unchanged_by_the_order,
    homogeneous,
    mean_over_directions,
    one_feature_is_the_line,
    weights_are_multiplicities,
    only_the_ratio_of_weights_counts,
    a_point_may_be_split,
    points_without_mass_do_not_count,
    padding_does_not_count,
    gradients_obey_the_laws,
    agrees_with_the_definition,
    laws_of_the_distance_to_the_normal,
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("impl", IMPLS)
def test_law(law, impl):
    def check(problem):
        law(problem)

    every_example(check, impl)()
