"""CuPy's eigendecomposition as a function of torch tensors: one call of cuSOLVER for a batch."""

import torch

UNCAPTURABLE = "not tried: torch does not see whether cuSOLVER waits for the device"


def cupy_eigh():
    """A function of (..., D, D) on a GPU like ``torch.linalg.eigh``; ImportError without CuPy.

    A batch is one call of the Jacobi solver ``syevjBatched``, whatever D; a matrix is one of the
    divide-and-conquer solver ``xsyevd``.
    """
    import cupy

    # Scratch comes from torch, so that it counts as memory and no second pool keeps it.
    allocator = cupy.cuda.PythonFunctionAllocator(_allocate, _free)

    def eigh(a):
        # Memory is shared, and so is the stream, so that neither library waits for the other.
        stream = cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream)
        with stream, cupy.cuda.using_allocator(allocator.malloc):
            values, vectors = cupy.linalg.eigh(cupy.from_dlpack(a.detach()))
            return torch.from_dlpack(values), torch.from_dlpack(vectors)

    return eigh


def _allocate(size, device):
    return torch.cuda.caching_allocator_alloc(size, device, torch.cuda.current_stream())


def _free(pointer, device):
    torch.cuda.caching_allocator_delete(pointer)


def without_gpu(shapes, shape):
    """The rule that leaves out what runs on a GPU only, where there is none."""
    return None if shapes == "cuda" else "runs on a GPU only"
