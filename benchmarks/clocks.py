"""The clocks: each calls its argument once and returns milliseconds by name.

wall    host time of one call, on a GPU until the device has finished it
events  time on the GPU's own clock between the start and the end of one eager call
graph   the same for one replay of the call captured in a CUDA graph: no Python, no launches
"""

import time

import torch

OF = {"cpu": ("wall",), "cuda": ("wall", "events", "graph")}  # the clocks of a device
CACHE = {"cpu": "as the calls before left it", "cuda": "cold L2"}  # before each call


def host(call):
    """The wall clock on the CPU."""
    start = time.perf_counter()
    call()
    return {"wall": 1e3 * (time.perf_counter() - start)}


class Cuda:
    """The clocks of a GPU, each after the second-level cache was overwritten."""

    def __init__(self):
        # Twice the cache would empty it; more, so that the host queues a replay meanwhile.
        size = torch.cuda.get_device_properties(0).L2_cache_size
        self.flush = torch.empty(max(5 * size, 2**28), dtype=torch.int8, device="cuda")

    def eager(self, call):
        """Wall and event time of one eager call."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.flush.zero_()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        wall = 1e3 * (time.perf_counter() - begin)
        return {"wall": wall, "events": start.elapsed_time(end)}

    def graph(self, captured):
        """GPU time of one replay. The host is ahead: it queues all while the cache is flushed."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.flush.zero_()
        start.record()
        captured()
        end.record()
        torch.cuda.synchronize()
        return {"graph": start.elapsed_time(end)}


def graph_pool():
    """Memory to be shared by graphs that are replayed one after the other.

    Each writes all that it reads but its inputs, and results stay apart as long as they are held:
    so scratch may overlap, and as much is taken as the largest graph needs, not their sum.
    """
    return torch.cuda.graph_pool_handle()


class Captured:
    """A call captured in a CUDA graph; calling it replays the graph.

    Args:
        call: the ``measure.Call``.
        pool: of ``graph_pool``, to be shared; None for memory of its own.

    Raises:
        RuntimeError: the call waits for the device, which a graph cannot hold.
    """

    def __init__(self, call, pool=None):
        _refuse_waiting(call)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call.reset()
                call()
        torch.cuda.current_stream().wait_stream(side)
        call.reset()  # so that gradients are allocated in the graph's own pool
        self.graph = torch.cuda.CUDAGraph()
        # A capture that fails leaves its stream the current one.
        here = torch.cuda.stream(torch.cuda.current_stream())
        with here, torch.cuda.graph(self.graph, pool=pool):
            self.value = call()
        self.leaves = call.leaves

    def reset(self):
        """Nothing to drop: a replay overwrites the gradients."""

    def __call__(self):
        """Replay; the value is overwritten in place."""
        self.graph.replay()
        return self.value


def _refuse_waiting(call):
    """Run the call once where waiting raises: a capture that fails would leave its traces."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call.reset()
        call()
    finally:
        torch.cuda.set_sync_debug_mode(before)
