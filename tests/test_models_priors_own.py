import sys
from types import ModuleType

import pytest
import torch
from models_support import IGNORED, build, one_thread, trained  # noqa: F401

from models import runs
from models.errors import InputError
from models.latent_distance import null_floor, prior_distance
from models.priors import Prior
from models.systems import SlicedWAE

pytestmark = IGNORED
N = 50_000


def draw(name, dim, n=N, scale=1.0):
    return Prior(name, dim, scale).sample(n, torch.Generator().manual_seed(0))


# --- the sphere -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 3, 8])
def test_sphere_is_uniform_on_the_unit_sphere(dim):
    z = draw("sphere", dim)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(N))
    error = 5 / N**0.5
    assert z.mean(0).abs().max() < error * dim**-0.5
    assert (z.T.cov() - torch.eye(dim) / dim).abs().max() < error / dim
    # E z_1^4 = 3 / (d (d + 2)): what a normalised cube, say, does not have.
    assert abs(z[:, 0].pow(4).mean() - 3 / (dim * (dim + 2))) < error / dim


def test_scale_is_a_factor():
    assert torch.equal(draw("sphere", 3, 10, scale=2.5), 2.5 * draw("sphere", 3, 10))
    assert str(Prior("sphere", 3, 2.5)) == "sphere prior x 2.5"
    assert str(Prior("sphere", 3)) == "sphere prior"


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_scale(scale):
    with pytest.raises(InputError, match="prior_scale must be finite and > 0"):
        Prior("gaussian", 2, scale)


# --- the user's own -------------------------------------------------------------------------------


def two_moons(n, dim, generator):
    """Two points, each with half of the mass, in double precision."""
    side = torch.randint(2, (n, 1), generator=generator, device=generator.device)
    return (2 * side - 1).double().expand(n, dim)


def stratified(n, dim, generator):
    """The numbers k / n in random order."""
    return torch.randperm(n, generator=generator)[:, None].expand(n, dim) / n


class Family:
    @staticmethod
    def member(n, dim, generator):
        return torch.rand(n, dim, generator=generator)


def wrong_shape(n, dim, generator):
    return torch.zeros(dim, n)


def integers(n, dim, generator):
    return torch.zeros(n, dim, dtype=torch.long)


def infinite(n, dim, generator):
    return torch.full((n, dim), torch.inf)


def lists(n, dim, generator):
    return [[0.0] * dim] * n


def global_stream(n, dim, generator):
    return torch.rand(n, dim)


OWN = f"{__name__}:two_moons"


def test_own_prior_by_name():
    z = draw(OWN, 3, 1000, scale=3.0)
    assert z.dtype == torch.float32
    assert z.unique().tolist() == [-3, 3]
    assert abs((z[:, 0] > 0).float().mean() - 0.5) < 0.1
    assert torch.equal(z, draw(OWN, 3, 1000, scale=3.0))
    assert draw(f"{__name__}:Family.member", 2, 5).shape == (5, 2)


def test_own_prior_is_taken_as_it_comes():
    points = Prior(stratified, 2).sample_independent(50, torch.Generator().manual_seed(3))
    assert torch.equal(points[:, 0].sort().values, torch.arange(50) / 50)


def test_own_prior_without_a_generator_draws_from_the_global_stream():
    torch.manual_seed(5)
    first = Prior(OWN, 2).sample(20)
    torch.manual_seed(5)
    assert torch.equal(first, Prior(OWN, 2).sample(20))
    assert not torch.equal(first, Prior(OWN, 2).sample(20))


def test_a_function_is_kept_by_its_name():
    prior = Prior(two_moons, 2)
    assert prior == Prior(OWN, 2)
    assert hash(prior) == hash(Prior(OWN, 2))
    assert prior != Prior(two_moons, 3)


def test_floor_and_distance_of_an_own_prior():
    prior = Prior(OWN, 2)
    floor = null_floor(prior, 200)
    codes = prior.sample(200, torch.Generator().manual_seed(9))
    # (2 sqrt 2)^2 / 2 times E |difference of two shares of 200 coins| = 4 * 0.0399.
    assert floor == pytest.approx(0.16, abs=0.1)
    assert prior_distance(codes, prior) < 6 * floor
    assert prior_distance(codes + 1, prior) > 0.5  # sliced W_2^2 of a shift by 1: |shift|^2 / 2


BAD = {
    "unknown": ("nowhere.at_all:f", "No module named 'nowhere'"),
    "attribute": (f"{__name__}:nothing", "has no attribute 'nothing'"),
    "not a function": (f"{__name__}:N", "must name a function"),
    "no function": (f"{__name__}:", "must be 'package.module:function'"),
    "no module": (":f", "must be 'package.module:function'"),
    "relative": (".priors:f", "must be 'package.module:function'"),
    "path": ("a/b.py:f", "must be 'package.module:function'"),
    "two colons": ("a:b:c", "must be 'package.module:function'"),
    "plain": ("foo", "must be one of 'uniform', 'ring'"),
    "number": (3, "must be a name"),
    "shape": (wrong_shape, r"must be \(2, 3\) floating-point numbers; got \(3, 2\)"),
    "dtype": (integers, "got .* of torch.int64"),
    "finite": (infinite, "must be finite"),
    "list": (lists, "must be a tensor; got list"),
    "stream": (global_stream, "must depend on nothing but its generator"),
    "lambda": (lambda n, dim, generator: torch.zeros(n, dim), "can be imported by its name"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_own_prior(case):
    name, expected = BAD[case]
    with pytest.raises(InputError, match=expected):
        Prior(name, 3)


def test_functions_that_only_this_program_can_name(monkeypatch):
    def local(n, dim, generator):
        return torch.zeros(n, dim)

    with pytest.raises(InputError, match="can be imported by its name"):
        Prior(local, 3)
    script = ModuleType("__main__")
    exec("def f(n, dim, generator): ...", script.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", script)
    with pytest.raises(InputError, match="can be imported by its name"):
        Prior(script.f, 3)
    monkeypatch.setattr(sys.modules[__name__], "two_moons", global_stream)
    with pytest.raises(InputError, match="can be imported by its name"):
        Prior(two_moons_itself, 3)


two_moons_itself = two_moons


def test_model_with_an_own_prior_and_its_checkpoint(tmp_path):
    settings = {"prior": two_moons, "latent_dim": 2, "weight": 10.0}
    model, metrics = trained(build(SlicedWAE, **settings), epochs=2)
    assert model.hparams.prior == OWN
    plain, _ = trained(build(SlicedWAE, **{**settings, "weight": 0.0}), epochs=2)
    assert metrics["val/prior_distance"] < prior_distance(codes_of(plain), plain.prior) / 3
    model.trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = runs.load(tmp_path / "a.ckpt")
    assert again.prior == Prior(OWN, 2)


def codes_of(model):
    return model.encode(model.trainer.datamodule.test[:][0])
