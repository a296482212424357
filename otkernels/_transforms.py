"""Which derivatives may be asked of a tensor, at any level of torch.func, and who traces.

What torch keeps to itself about its transforms is asked here and nowhere else in the library.
"""

import torch
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_pop_interpreter_stack
from torch.autograd import forward_ad


def needs_grad(tensor):
    """Whether a gradient to the tensor, or None, may be asked for at any level of torch.func."""
    if tensor is None or not torch.is_grad_enabled():
        return False
    if not torch.compiler.is_compiling():  # where levels are refused, not looked at
        while not tensor.requires_grad and _functorch.is_functorch_wrapped_tensor(tensor):
            tensor = _functorch.get_unwrapped(tensor)
    return tensor.requires_grad


def has_tangent(tensor):
    """Whether forward mode differentiates the tensor at any level of torch.func."""
    if forward_ad._current_level < 0:
        return False
    if torch.compiler.is_compiling():
        return True  # other levels cannot be looked at there
    # Unpacking has no batching rule, and tells of the innermost level alone.
    mapped = _functorch.is_batchedtensor(tensor)
    if not mapped and forward_ad.unpack_dual(tensor).tangent is not None:
        return True
    if (level := _functorch.maybe_current_level()) is None:
        return False
    if _functorch.maybe_get_level(tensor) == level:
        tensor = _functorch.get_unwrapped(tensor)
    with temporarily_pop_interpreter_stack():
        return has_tangent(tensor)


def is_compiling_transform():
    """Whether a transform of torch.func is being compiled."""
    if not torch.compiler.is_compiling():
        return False
    # The compiler of torch 2.11 can trace neither the depth of the stack nor a comparison to None.
    return isinstance(_functorch.peek_interpreter_stack(), _functorch.CInterpreter)


def is_differentiated(tensor):
    """Whether a derivative with respect to the tensor may be asked for, in either mode."""
    return needs_grad(tensor) or has_tangent(tensor) or is_compiling_transform()


def no_tangents():
    """Refuse forward mode."""
    raise NotImplementedError(
        "otkernels: impl='cpu' and impl='triton' have no forward-mode derivatives. "
        "Use impl='torch' (sliced losses, kernel losses and moments have them) or reverse mode."
    )


def is_exporting():
    """Whether torch.export traces, which torch.compile of torch 2.11 says of itself, too."""
    return torch.compiler._is_exporting_flag
