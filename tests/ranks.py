"""Runs the cases of a test file in the processes of a gloo group, once for each number of ranks."""

import functools
import tempfile
import traceback
from datetime import timedelta
from multiprocessing import set_forkserver_preload
from pathlib import Path

import torch
from torch import distributed as dist
from torch import multiprocessing

TIMEOUT = timedelta(seconds=60)
# Imported once, not by each rank. Not otkernels: the server does not look where tests find it, and
# would find an installed one.
set_forkserver_preload(["torch", "pytest"])


def _rank(rank, size, folder, cases, timeout):
    torch.set_num_threads(1)
    init = f"file://{folder}/store"
    dist.init_process_group("gloo", init, rank=rank, world_size=size, timeout=timeout)
    results = {}
    for name, case in cases.items():
        torch.manual_seed(0)
        try:
            results[name] = case(rank, size)
        except Exception:
            results["failed"] = f"{name}: {traceback.format_exc()}"
            break  # the others may wait for this one
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@functools.cache
def everywhere(size, cases, timeout=TIMEOUT):
    """What each case returns on each of ``size`` ranks: a list of dicts from case to result.

    Args:
        size: number of processes.
        cases: pairs of a name and a function of (rank, size), importable, that returns tensors.
        timeout: of the process group.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = size, folder, dict(cases), timeout
        multiprocessing.start_processes(_rank, given, nprocs=size, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(size)]
