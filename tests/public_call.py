"""A way to call a public name of otkernels: what it can do, and what it refuses by name."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

CAPABILITIES = (
    "compile",  # torch.compile(fullgraph=True), forward and backward
    "export",  # torch.export of a module that holds the call
    "vmap",
    "grad",  # torch.func.grad
    "jvp",  # forward mode
    "autocast",  # inside a region: the bits that it has outside
    "second",  # second derivatives
    "half",  # float16 and bfloat16 inputs
)


class No(NamedTuple):
    """A refusal: the exception and a regular expression that its message matches."""

    error: type
    match: str


ALL_IMPLS = ("torch", "cpu", "triton")
PLAIN = (None,)  # functions without ``impl=``: plain torch

FIRST_ORDER = No(NotImplementedError, "first derivatives only")
NO_TANGENTS = No(NotImplementedError, "no forward-mode derivatives")
ROOTS_HAVE_NO_JVP = No(NotImplementedError, "have no forward-mode derivatives")
# Names whose values take a root of a matrix.
OF_ROOTS = (
    "gaussian_wasserstein",
    "gaussian_wasserstein_with_info",
    "gaussian_wasserstein_to_normal",
    "bures_wasserstein",
    "bures_wasserstein_with_info",
    "gaussian_map",
    "sqrtm",
    "inv_sqrtm",
    "GaussianWassersteinLoss",
    "GaussianWassersteinToNormalLoss",
)
NO_EXPORT = No(NotImplementedError, "torch.export does not trace its search")
OTHER_DTYPE = No(ValueError, "must have x's dtype")


@dataclass(frozen=True)
class Call:
    """A way to call one public name.

    Attributes:
        name: the public name.
        build: from an impl (None where the call takes none) to a callable of the inputs, which is
            a module where the name is one.
        inputs: from (n, *batch, dtype=, device=) to the tuple of input tensors.
        wrt: which of the inputs gradients go to; none for what has no gradient.
        impls: which implementations there are.
        draws: whether it draws from torch's global stream.
        variant: what sets it apart from other calls of the name.
        refusals: capability -> a :class:`No`, or a dict of them by impl. Anything else it can do.
    """

    name: str
    build: Callable[[str | None], Any]
    inputs: Callable[..., tuple]
    wrt: tuple[int, ...]
    impls: tuple = ALL_IMPLS
    draws: bool = False
    variant: str = ""
    refusals: dict = field(default_factory=dict)

    def __str__(self):
        return f"{self.name}: {self.variant}" if self.variant else self.name

    def applies(self, capability):
        """Whether it makes sense to ask: what has no gradient has no derivative of any kind."""
        assert capability in CAPABILITIES
        return bool(self.wrt) or capability not in ("grad", "jvp", "second")

    def refusal(self, capability, impl):
        """The :class:`No` with which this impl refuses a capability; None where it has it."""
        assert capability in CAPABILITIES
        found = self.refusals.get(capability)
        return found.get(impl) if isinstance(found, dict) else found


def assert_alike(out, expected):
    """Off by no more than 100 roundings of float32 of the largest number; NaN where that has NaN.

    For two ways through the same arithmetic of float32 points. Residuals are roundings themselves:
    numbers below 0.01 count as that.
    """
    finite = expected[expected.isfinite()]
    largest = max(finite.abs().max().item() if finite.numel() else 0.0, 0.01)
    bound = 100 * torch.finfo(torch.float32).eps * largest
    torch.testing.assert_close(out, expected, rtol=0, atol=bound, equal_nan=True)
