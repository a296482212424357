"""What every loss is as a module: hyper-parameters that it shows, buffers that keep their dtype."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import _check, distributed
from .._types import Group, Impl, Reduction


class Loss(nn.Module):
    """A loss that holds hyper-parameters, while a function does the work.

    Every argument of the constructor is an attribute of its name; ``repr`` shows those that differ
    from their defaults, after those named in ``shown``.
    """

    shown: tuple[str, ...] = ()

    reduction: Reduction
    validate: bool
    impl: Impl | None
    process_group: Group | None
    if TYPE_CHECKING:  # a module's call returns Any, as torch declares it; a loss returns a tensor
        __call__: Callable[..., Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        name = type(self).__name__
        _check.one_of(name, "reduction", options["reduction"], _check.REDUCTIONS)
        if options["impl"] is not None:
            _check.one_of(name, "impl", options["impl"], _check.IMPLS)
        group = options.get("process_group")
        known = group == "world" or not isinstance(group, str)
        condition = "be 'world', a torch.distributed.ProcessGroup or None"
        _check.require(known, name, "process_group", condition, repr(group))
        for option, value in options.items():
            setattr(self, option, value)

    def _call(self, function, *points, **options):
        """The function of the points of this process or, with a process group, of all ranks."""
        if self.process_group is None:
            return function(*points, **options)
        function = getattr(distributed, function.__name__)
        return function(*points, process_group=self.process_group, **options)

    def _apply(self, fn, recurse=True):
        """Move buffers with the module but leave their dtype: ``half()`` would bend them."""
        kept = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, before in kept.items():
            if before is not None and before.is_meta:  # ``to_empty``, which has values to come
                setattr(self, name, torch.empty_like(getattr(self, name), dtype=before.dtype))
            elif before is not None:
                setattr(self, name, before.to(getattr(self, name).device))
        return self

    def extra_repr(self) -> str:
        """See the class."""
        public = (cls for cls in type(self).__mro__ if cls.__module__.startswith("otkernels."))
        shown = []
        for name, parameter in inspect.signature(next(public)).parameters.items():
            value = getattr(self, name)
            if name in self.shown or value != parameter.default:
                shown.append(f"{name}={value!r}")
        return ", ".join(shown)
