"""Ranks that end or are late, in processes that are killed in the end, whatever they do."""

import functools
import json
import multiprocessing
import os
import signal
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist

from otkernels import distributed

SIZE, FAILING = 3, 1  # ranks, and which of them fails
PATIENT, IMPATIENT = 60, 2  # time-outs of the groups, in seconds
LIMIT = 60  # of all processes
ALL = ("sliced_wasserstein", "mmd", "gaussian_wasserstein")
# What happens, the functions that are called in turn, and the time-out of their groups.
SCENARIOS = {
    "raises": (ALL, PATIENT),
    "killed": (ALL, PATIENT),
    "killed before backward": (ALL, PATIENT),
    "late": (ALL, IMPATIENT),
    "no gradient": (ALL[2:], IMPATIENT),
}


def outcomes():
    """From scenario and function to a list of what the other ranks report: a dict each."""
    context = multiprocessing.get_context("forkserver")  # torch is imported once for all
    context.set_forkserver_preload(["torch"])
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for number, scenario in enumerate(SCENARIOS):
            place = Path(folder) / str(number)
            place.mkdir()
            given = [(rank, place, scenario) for rank in range(SIZE)]
            processes += [context.Process(target=_rank, args=args) for args in given]
        for process in processes:
            process.start()
        end = time.monotonic() + LIMIT
        for process in processes:
            process.join(max(0, end - time.monotonic()))
            process.kill()
        return {
            (scenario, name): [
                json.loads(file.read_text())
                for file in sorted((Path(folder) / str(number)).glob(f"{name}.*"))
            ]
            for number, (scenario, (names, _)) in enumerate(SCENARIOS.items())
            for name in names
        }


def _rank(rank, folder, scenario):
    torch.set_num_threads(1)
    init, patience = f"file://{folder}/store", timedelta(seconds=LIMIT)
    dist.init_process_group("gloo", init, rank=rank, world_size=SIZE, timeout=patience)
    names, seconds = SCENARIOS[scenario]
    # One group for each function: after an error a group is of no more use.
    calls = {name: functools.partial(_loss, name, _group(seconds)) for name in names}
    dist.barrier()
    x, y = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3)
    if rank == FAILING:
        x, y = _fail(folder, scenario, calls, x, y)
    if scenario == "killed before backward":
        losses = {name: call(x, y) for name, call in calls.items()}
        dist.barrier()
        if rank == FAILING:
            os.kill(os.getpid(), signal.SIGKILL)
        calls = {name: loss.backward for name, loss in losses.items()}
        _report(rank, folder, calls)
    else:
        _report(rank, folder, calls, x, y)
    if rank == FAILING:
        _wait_for_the_others(folder, names)


def _group(seconds):
    """A group of all ranks, whose time-out holds once it is made: making it may take longer."""
    group = dist.new_group(timeout=timedelta(seconds=LIMIT))
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), group)
    return group


def _loss(name, group, x, y):
    loss = getattr(distributed, name)(x, y, process_group=group)
    if x.requires_grad:
        loss.backward(retain_graph=True)
    return loss


def _fail(folder, scenario, calls, x, y):
    """What the failing rank does before its calls; returns its points."""
    if scenario == "raises":
        raise ValueError("an error of the user's code")
    if scenario == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if scenario == "late":
        _wait_for_the_others(folder, calls)
    return x.detach() if scenario == "no gradient" else x, y


def _wait_for_the_others(folder, names):
    end = time.monotonic() + LIMIT
    while len(list(folder.glob("*.json"))) < len(names) * (SIZE - 1) and time.monotonic() < end:
        time.sleep(0.02)


def _report(rank, folder, calls, *given):
    """Call, and write down what comes of it; of the failing rank nobody wants to know."""
    for name, call in calls.items():
        start, error = time.monotonic(), None
        try:
            call(*given)
        except Exception as caught:
            error = caught
        report = {
            "rank": rank,
            "seconds": time.monotonic() - start,
            "kind": type(error).__name__,
            "cause": type(getattr(error, "__cause__", None)).__name__,
            "text": str(error),
        }
        if rank != FAILING:
            written = folder / f"{rank}.part"
            written.write_text(json.dumps(report))
            written.rename(folder / f"{name}.{rank}.json")
