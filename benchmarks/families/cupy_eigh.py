"""CuPy's eigendecomposition as a function of torch tensors: one call of cuSOLVER for a batch."""

import torch


def cupy_eigh():
    """A function of (..., D, D) on a GPU like ``torch.linalg.eigh``; ImportError without CuPy."""
    import cupy

    def eigh(a):
        # Memory is shared, and so is the stream, so that neither library waits for the other.
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            values, vectors = cupy.linalg.eigh(cupy.from_dlpack(a.detach()))
            return torch.from_dlpack(values), torch.from_dlpack(vectors)

    return eigh


def without_gpu(shapes, shape):
    """The rule that leaves CuPy out where there is no GPU."""
    return None if shapes == "cuda" else "runs on a GPU only"
