"""What every loss is as a module: hyper-parameters that it shows, buffers that keep their dtype."""

import inspect

import torch
from torch import nn

from .. import _check


class Loss(nn.Module):
    """A loss that holds hyper-parameters, while a function does the work.

    Every argument of the constructor is an attribute of its name; ``repr`` shows those that differ
    from their defaults, after those named in ``shown``.
    """

    shown = ()

    def __init__(self, **options):
        super().__init__()
        name = type(self).__name__
        _check.one_of(name, "reduction", options["reduction"], _check.REDUCTIONS)
        if options["impl"] is not None:
            _check.one_of(name, "impl", options["impl"], _check.IMPLS)
        for option, value in options.items():
            setattr(self, option, value)

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

    def extra_repr(self):
        """See the class."""
        public = (cls for cls in type(self).__mro__ if cls.__module__.startswith("otkernels."))
        shown = []
        for name, parameter in inspect.signature(next(public)).parameters.items():
            value = getattr(self, name)
            if name in self.shown or value != parameter.default:
                shown.append(f"{name}={value!r}")
        return ", ".join(shown)
