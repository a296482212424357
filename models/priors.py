"""Laws that the codes are pulled to: a sampler and its definition each.

circle, ring and uniform are those of the code published with the paper (Kolouri, Pope, Martin,
Rohde 2018, "Sliced-Wasserstein auto-encoders"); the paper's bowl was shown but not released. The
sphere is a prior of the code published with the WAE (Tolstikhin et al. 2018).

A prior of one's own is a function ``(n, dim, generator) -> (n, dim) tensor`` that draws from
``generator`` and is named "package.module:function".
"""

import importlib
import math
from dataclasses import dataclass

import torch

from .errors import InputError, require

__all__ = ["PRIORS", "Prior"]


@dataclass(frozen=True)
class Prior:
    """One of :data:`PRIORS`, or a function of the user's; its points multiplied by ``scale``.

    Equal names, dimensions and scales make equal priors, with equal hashes.

    Args:
        name: one of :data:`PRIORS`, or "package.module:function", or such a function itself, which
            then has to be importable by its name, for a checkpoint keeps only that.
        dim: of the points.
        scale: factor on the points.

    >>> Prior("gaussian", 3).sample(5).shape
    torch.Size([5, 3])
    """

    name: str
    dim: int
    scale: float = 1.0

    def __post_init__(self):
        if callable(self.name):
            object.__setattr__(self, "name", _name_of(self.name))
        require(isinstance(self.name, str), "Prior", "prior", "be a name", repr(self.name))
        require(self.dim >= 1, "Prior", "latent_dim", "be at least 1", self.dim)
        require(0 < self.scale < math.inf, "Prior", "prior_scale", "be finite and > 0", self.scale)
        if self.own:
            self._check_own()
            return
        names = ", ".join(map(repr, PRIORS))
        condition = f"be one of {names} or 'package.module:function'"
        require(self.name in PRIORS, "Prior", "prior", condition, repr(self.name))
        planar = self.name in PLANAR
        condition = f"be 2 for the {self.name} prior, which is a law of the plane"
        require(self.dim == 2 or not planar, "Prior", "latent_dim", condition, self.dim)

    def __str__(self):
        scale = "" if self.scale == 1 else f" x {self.scale:g}"
        return f"{self.name} prior{scale}"

    @property
    def own(self):
        """Whether the prior is a function of the user's."""
        return ":" in self.name

    def sample(self, n, generator=None):
        """Draw (n, dim) points on the generator's device; None is torch's global CPU stream."""
        if self.own:
            return self.scale * self._sample_own(n, generator)
        device = "cpu" if generator is None else generator.device
        source = {"generator": generator, "device": device}
        return self.scale * PRIORS[self.name](n, self.dim, source)

    def sample_independent(self, n, generator=None):
        """As :meth:`sample`, with points (nearly) independent of each other, as codes are.

        A ring of n points is stratified, hence closer to its law than n independent points can
        be; n points picked from a ring of 20 n are not. A user's prior is taken as it comes.
        """
        return self.sample(n if self.own else 20 * n, generator)[:n]

    def _sample_own(self, n, generator):
        generator = torch.default_generator if generator is None else generator
        points = _function(self.name)(n, self.dim, generator)
        require(torch.is_tensor(points), self.name, "result", "be a tensor", type(points).__name__)
        got = f"{tuple(points.shape)} of {points.dtype}"
        ok = points.shape == (n, self.dim) and points.is_floating_point()
        require(ok, self.name, "result", f"be {(n, self.dim)} floating-point numbers", got)
        return points.detach().to(generator.device, torch.get_default_dtype())

    def _check_own(self):
        """Refuse at once what would fail, or not repeat, in the middle of a run."""
        first, second = (self._sample_own(2, torch.Generator().manual_seed(0)) for _ in range(2))
        # Not at every draw, where a GPU would have to wait for the answer.
        require(bool(first.isfinite().all()), self.name, "result", "be finite", "inf or nan")
        condition = "depend on nothing but its generator"
        require(torch.equal(first, second), self.name, "result", condition, "two different draws")


def _function(name):
    """The function of "package.module:function"."""
    module, _, path = name.partition(":")
    parts = [*module.split("."), *path.split(".")]
    condition = "be 'package.module:function'"
    require(all(part.isidentifier() for part in parts), "Prior", "prior", condition, repr(name))
    try:
        found = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        got = f"{name!r} ({error})"
        raise InputError(f"Prior: prior must name a function to import; got {got}") from error
    require(callable(found), "Prior", "prior", "name a function", repr(name))
    return found


def _name_of(function):
    """The name under which another program can import ``function``."""
    module = getattr(function, "__module__", None)
    path = getattr(function, "__qualname__", None)
    ok = module not in (None, "__main__") and path is not None and "<" not in path
    condition = "be a function that can be imported by its name, from a module"
    require(ok, "Prior", "prior", condition, repr(function))
    name = f"{module}:{path}"
    require(_function(name) is function, "Prior", "prior", condition, repr(function))
    return name


def uniform(n, dim, source):
    """Every coordinate ~ U(-1, 1): the square for dim = 2, where the mean radius is 0.765."""
    return 2 * torch.rand(n, dim, **source) - 1


def gaussian(n, dim, source):
    """N(0, I)."""
    return torch.randn(n, dim, **source)


def sphere(n, dim, source):
    """Uniform on the unit sphere: a normal point divided by its norm."""
    return torch.nn.functional.normalize(torch.randn(n, dim, **source), dim=1)


def circle(n, dim, source):
    """Radius ~ U(0, 1), angle ~ U(0, 2 pi): not uniform on the disk, denser at its centre."""
    radius = torch.rand(n, 1, **source)
    return radius * _on_circle(2 * math.pi * torch.rand(n, **source))


def ring(n, dim, source):
    """Angles 2 pi k / n in random order, then noise N(0, 0.01^2) on each coordinate.

    The outer circle of scikit-learn's ``make_circles(2 * n, noise=0.01)``: a stratified draw.
    """
    angle = 2 * math.pi / n * torch.randperm(n, **source)
    return _on_circle(angle) + 0.01 * torch.randn(n, dim, **source)


def bowl(n, dim, source):
    """Radius with density 3 r^2 on [0, 1] (r = U^(1/3)), angle ~ U(0, 2 pi); mean radius 3/4.

    Our own choice of a law that grows denser towards the rim.
    """
    radius = torch.rand(n, 1, **source) ** (1 / 3)
    return radius * _on_circle(2 * math.pi * torch.rand(n, **source))


def _on_circle(angle):
    """Points (n, 2) of the unit circle at the angles (n,)."""
    return torch.stack([angle.cos(), angle.sin()], dim=1)


PRIORS = {
    "uniform": uniform,
    "ring": ring,
    "circle": circle,
    "bowl": bowl,
    "gaussian": gaussian,
    "sphere": sphere,
}
PLANAR = ("ring", "circle", "bowl")
