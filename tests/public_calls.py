"""Every public callable of otkernels: how to call it, and what it can do or refuses by name.

One :class:`Call` for each name of ``otkernels.__all__``, and further ones ("name: variant") where
another option takes another way through the code. Tests of compilation, autocast and functional
transforms run over this table, and docs/features.md is printed from it.
"""

from functools import partial

import torch
from public_call import (
    ALL_IMPLS,
    FIRST_ORDER,
    NO_EXPORT,
    NO_TANGENTS,
    OF_ROOTS,
    OTHER_DTYPE,
    PLAIN,
    ROOTS_HAVE_NO_JVP,
    Call,
)
from public_inputs import (
    D,
    L,
    on_the_sphere,
    one_cloud,
    one_covariance,
    two_clouds,
    two_gaussians,
    two_lines,
    with_directions,
    with_weights,
)

import otkernels as ot

# Names of ``otkernels.__all__`` that are no calls, and why.
NOT_CALLS = {
    "__version__": "a string",
    "BuresInfo": "a NamedTuple that functions return",
    "MMDBlocks": "a NamedTuple that functions return",
    "MMDTest": "a NamedTuple that functions return",
    "SlicedWassersteinInfo": "a NamedTuple that functions return",
}


def _function(name, inputs, wrt, *, variant="", impls=ALL_IMPLS, draws=False, no=None, **options):
    def build(impl):
        given = options if impls is PLAIN else {**options, "impl": impl}
        return partial(getattr(ot, name), **given)

    refusals = dict(no or {})
    if impls is not PLAIN and wrt:
        fast = [impl for impl in impls if impl != "torch"]
        refusals.setdefault("second", dict.fromkeys(fast, FIRST_ORDER))
        refusals.setdefault("jvp", dict.fromkeys(fast, NO_TANGENTS))
        if name in OF_ROOTS:
            refusals["jvp"]["torch"] = ROOTS_HAVE_NO_JVP
    return Call(name, build, inputs, wrt, impls, draws, variant, refusals)


def _module(name, inputs, wrt, *args, variant="", draws=False, prepare=None, no=None, **options):
    def build(impl):
        module = getattr(ot, name)(*args, impl=impl, **options)
        if prepare is not None:
            prepare(module)
        return module

    fast = ("cpu", "triton")
    refusals = {
        "second": dict.fromkeys(fast, FIRST_ORDER),
        "jvp": dict.fromkeys(fast, NO_TANGENTS),
        **(no or {}),
    }
    if name in OF_ROOTS:
        refusals["jvp"]["torch"] = ROOTS_HAVE_NO_JVP
    return Call(name, build, inputs, wrt, ALL_IMPLS, draws, variant, refusals)


def _given(call, *keywords):
    """The call with its last inputs handed over by these keywords."""

    def build(impl):
        function = call.build(impl)

        def with_keywords(*tensors):
            first = len(tensors) - len(keywords)
            return function(*tensors[:first], **dict(zip(keywords, tensors[first:], strict=True)))

        return with_keywords

    return Call(**{**call.__dict__, "build": build})


def _plain(name, function, inputs=one_cloud, wrt=(), **options):
    """A function that takes sizes or has no impl: ``function`` calls it with the inputs."""
    return Call(name, lambda impl: function, inputs, wrt, PLAIN, **options)


def _reference(module):
    stream = torch.Generator().manual_seed(0)
    cloud = torch.randn(8, D, generator=stream)
    compiled = module.impl == "triton" and torch.cuda.is_available()
    module.set_reference(cloud.cuda() if compiled else cloud)


CALLS = (
    # sliced
    _given(
        _function("sliced_wasserstein", with_directions, (0, 1, 2)),
        "projections",
    ),
    _function(
        "sliced_wasserstein", two_clouds, (0, 1), variant="drawn", draws=True, n_projections=L
    ),
    _given(
        _function(
            "sliced_wasserstein",
            with_weights,
            (0, 1, 2),
            variant="weights",
            draws=True,
            n_projections=L,
        ),
        "a",
    ),
    _function("sliced_wasserstein_with_info", two_clouds, (0, 1), draws=True, n_projections=L),
    _function("sliced_wasserstein_to_normal", one_cloud, (0,), draws=True, n_projections=L),
    _function(
        "max_sliced_wasserstein",
        two_clouds,
        (0, 1),
        draws=True,
        n_projections=L,
        n_starts=2,
        n_steps=2,
        no={"export": NO_EXPORT},
    ),
    _function("wasserstein_1d", two_lines, (0, 1)),
    _function(
        "sliced_wasserstein_sphere",
        on_the_sphere,
        (0, 1),
        impls=("torch", "cpu"),
        draws=True,
        n_projections=L,
        no={"second": {}, "jvp": {}},
    ),
    _function(
        "wasserstein_circle",
        two_lines,
        (0, 1),
        impls=("torch", "cpu"),
        no={"second": {}, "jvp": {}},
    ),
    _module("SlicedWassersteinLoss", two_clouds, (0, 1), L, draws=True),
    _module(
        "SlicedWassersteinLoss", two_clouds, (0, 1), L, resample="epoch", dim=D, variant="epoch"
    ),
    _module(
        "SlicedWassersteinLoss", two_clouds, (0, 1), L, resample="fixed", dim=D, variant="fixed"
    ),
    _module("SlicedWassersteinToNormalLoss", one_cloud, (0,), L, draws=True),
    _module(
        "SlicedWassersteinToNormalLoss",
        one_cloud,
        (0,),
        L,
        resample="fixed",
        dim=D,
        variant="fixed",
    ),
    _module(
        "MaxSlicedWassersteinLoss",
        two_clouds,
        (0, 1),
        L,
        n_starts=2,
        n_steps=2,
        draws=True,
        no={"export": NO_EXPORT},
    ),
    # kernels
    _function("mmd", two_clouds, (0, 1)),
    _function(
        "mmd",
        two_clouds,
        (0, 1),
        variant="imq, unbiased",
        kernel="imq",
        unbiased=True,
        bandwidth=(0.5, 2.0),
    ),
    _function("mmd", two_clouds, (0, 1), variant="polynomial", kernel="polynomial"),
    _given(_function("mmd", with_weights, (0, 1, 2), variant="weights", bandwidth=1.0), "a"),
    _function("energy_distance", two_clouds, (0, 1)),
    _function("mmd_blocks", two_clouds, (0, 1), block_size=3),
    _function("mmd_random_features", two_clouds, (0, 1), impls=PLAIN, draws=True, n_features=8),
    _function(
        "random_fourier_features",
        one_cloud,
        (0,),
        impls=PLAIN,
        draws=True,
        n_features=8,
        bandwidth=1.0,
    ),
    _function(
        "mmd_test",
        two_clouds,
        (),
        impls=PLAIN,
        draws=True,
        n_permutations=9,
    ),
    _function(
        "median_bandwidth",
        two_clouds,
        (),
        impls=PLAIN,
    ),
    _module("MMDLoss", two_clouds, (0, 1)),
    _module(
        "MMDLoss",
        one_cloud,
        (0,),
        variant="reference",
        prepare=_reference,
        no={"half": OTHER_DTYPE},
    ),
    _module("EnergyDistanceLoss", two_clouds, (0, 1)),
    # Gaussians
    _function("gaussian_wasserstein", two_clouds, (0, 1)),
    _given(_function("gaussian_wasserstein", with_weights, (0, 1, 2), variant="weights"), "a"),
    _function("gaussian_wasserstein_with_info", two_clouds, (0, 1)),
    _function("gaussian_wasserstein_to_normal", one_cloud, (0,)),
    _function("mean_cov", one_cloud, (0,), no={"second": {}}),
    _function("bures_wasserstein", two_gaussians, (0, 1, 2, 3)),
    _function("bures_wasserstein_with_info", two_gaussians, (0, 1, 2, 3)),
    _function("gaussian_map", two_gaussians, (0, 1, 2, 3)),
    _function("sqrtm", one_covariance, (0,)),
    _function("inv_sqrtm", one_covariance, (0,)),
    _module("GaussianWassersteinLoss", two_clouds, (0, 1)),
    _module("GaussianWassersteinToNormalLoss", one_cloud, (0,)),
    # draws and numbers; their sizes are those of the input
    _plain("sample_projections", lambda x: ot.sample_projections(x.shape[1], len(x)), draws=True),
    _plain(
        "sample_projections",
        lambda x: ot.sample_projections(x.shape[1], len(x), method="sobol"),
        draws=True,
        variant="sobol",
    ),
    _plain(
        "sample_great_circles", lambda x: ot.sample_great_circles(x.shape[1], len(x)), draws=True
    ),
    _plain(
        "sample_frequencies",
        lambda x: ot.sample_frequencies(x.shape[1], len(x), kernel="laplacian"),
        draws=True,
    ),
    _plain("wae_bandwidths", lambda x: x.float() * sum(ot.wae_bandwidths(x.shape[-1]))),
)


def tensors(result):
    """The floating tensors of what a call returns."""
    result = (result,) if isinstance(result, torch.Tensor) else tuple(result)
    return tuple(t for t in result if t.is_floating_point())


def cases(impls=ALL_IMPLS, calls=CALLS):
    """All (call, impl) with an impl of these, for ``pytest.mark.parametrize``."""
    return [(c, i) for c in calls for i in c.impls if i is None or i in impls]


def case_id(value):
    """Name of a case, as ``ids=``."""
    return str(value)
