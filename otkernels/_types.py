"""Types that public signatures share. The option names that checks compare with come from here."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, Union

import torch
from torch import Tensor

if TYPE_CHECKING:  # torch may be built without it
    from torch.distributed import ProcessGroup

Impl: TypeAlias = Literal["torch", "cpu", "triton"]
Reduction: TypeAlias = Literal["none", "mean", "sum"]
Method: TypeAlias = Literal["gaussian", "orthogonal", "sobol"]
Resample: TypeAlias = Literal["step", "epoch", "fixed"]
Precision: TypeAlias = Literal["full", "fast"]
Prior: TypeAlias = Literal["normal", "sphere", "uniform"]
FeatureKernel: TypeAlias = Literal["gaussian", "laplacian", "imq", "rational_quadratic"]
Kernel: TypeAlias = FeatureKernel | Literal["polynomial", "energy"]

Bandwidths: TypeAlias = float | Sequence[float] | Tensor
Bandwidth: TypeAlias = Bandwidths | Literal["median"]
Slices: TypeAlias = Callable[[Tensor], Tensor]
Device: TypeAlias = torch.device | str | int
Group: TypeAlias = Union[Literal["world"], "ProcessGroup"]
