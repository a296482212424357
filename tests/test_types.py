"""The public surface is typed, in full; tests/typed is what mypy makes of it (``make lint``)."""

import importlib
import inspect
import pathlib
import sys
import typing
from typing import Literal, get_args, get_origin

import pytest
import torch

import otkernels
from otkernels import _types
from otkernels._kernels import KERNELS

MODULES = (
    "otkernels",
    "otkernels.compat.geomloss",
    "otkernels.compat.pot",
    "otkernels.distributed",
    "otkernels.losses",
    "otkernels.metrics",
)


def public():
    """Public functions, and public methods and constructors of public classes, by their names."""
    for module in map(importlib.import_module, MODULES):
        for name in set(module.__all__) - {"__version__"}:
            thing = getattr(module, name)
            if inspect.isclass(thing):
                yield from methods(f"{module.__name__}.{name}", thing)
            else:
                yield f"{module.__name__}.{name}", thing


def methods(name, cls):
    own = [c for c in reversed(cls.__mro__) if c.__module__.startswith("otkernels")]
    for part in own:  # what a class defines replaces what its bases do
        for method, thing in vars(part).items():
            if inspect.isfunction(thing) and (method == "__init__" or method[0] != "_"):
                yield f"{name}.{method}", thing


PUBLIC = dict(public())


def strings(hint):
    """The strings that an annotation allows; None where it allows any or none."""
    if get_origin(hint) is Literal:
        return {value for value in get_args(hint) if isinstance(value, str)}
    parts = [strings(part) for part in get_args(hint)]
    found = [part for part in parts if part]
    return set().union(*found) if found else None


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_parameter_and_result_has_a_type(name):
    later = {"ProcessGroup": torch.distributed.ProcessGroup}  # imported for type checkers only
    hints = typing.get_type_hints(PUBLIC[name], localns=later)  # raises for one that is unknown
    assert "return" in hints
    for parameter in inspect.signature(PUBLIC[name]).parameters.values():
        if parameter.name == "self":
            continue
        assert parameter.name in hints
        default, allowed = parameter.default, strings(hints[parameter.name])
        if isinstance(default, str) and allowed is not None:
            assert default in allowed
        if default is None:
            hint = hints[parameter.name]
            assert hint in (typing.Any, type(None)) or type(None) in get_args(hint)


def test_the_surface_is_not_empty():
    assert {"otkernels.mmd", "otkernels.MMDLoss.__init__", "otkernels.MMDLoss.forward"} <= set(
        PUBLIC
    )


@pytest.mark.parametrize("name", sorted(n for n in PUBLIC if ".compat." not in n))
def test_an_option_has_one_type_everywhere(name):
    types = {
        "impl": [_types.Impl | None],
        "kernel": [_types.Kernel, _types.FeatureKernel],
        "method": [_types.Method],
        "precision": [_types.Precision],
        "reduction": [_types.Reduction],
        "resample": [_types.Resample],
    }
    for parameter in inspect.signature(PUBLIC[name]).parameters.values():
        assert parameter.annotation in types.get(parameter.name, [parameter.annotation])


def test_kernels_of_the_types_are_those_that_there_are():
    assert strings(_types.Kernel) == set(KERNELS)
    mixtures = {name for name, kernel in KERNELS.items() if kernel.factor is not None}
    assert strings(_types.FeatureKernel) == mixtures


def test_prior_of_the_types_are_those_that_there_are():
    for prior in strings(_types.Prior):
        assert len(otkernels.wae_bandwidths(2, prior=prior)) == 7
    with pytest.raises(ValueError, match=r"'normal', 'sphere', 'uniform'; got 'cube'"):
        otkernels.wae_bandwidths(2, prior="cube")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="overloads are registered since 3.11")
def test_overloads_have_the_parameters_of_the_function():
    function = otkernels.max_sliced_wasserstein
    overloads = typing.get_overloads(function)
    assert len(overloads) == 2
    wanted = inspect.signature(function).parameters
    for overload in overloads:
        found = inspect.signature(overload).parameters
        assert list(found) == list(wanted)
        for name in set(wanted) - {"return_direction"}:
            assert found[name].annotation == wanted[name].annotation


def test_package_says_that_it_is_typed():
    assert (pathlib.Path(otkernels.__file__).parent / "py.typed").is_file()
