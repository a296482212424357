"""Time against number of ranks, and bytes they send: ``python -m benchmarks.studies.scaling``.

Losses of a fixed global batch in 1 to 4 processes of one thread each (gloo). Appends records to
results/scaling/cpu.jsonl, draws the figure and writes the tables of docs/distributed.md; with
--plot only the last two. The right side of the figure is the model of ``traffic.py``.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist
from torch import multiprocessing

import otkernels
from otkernels import distributed

from .. import CannotRun, records
from ..pages import page
from . import scaling_page, traffic

HERE = Path(__file__).resolve().parent.parent
RESULTS = HERE / "results" / "scaling" / "cpu.jsonl"
DOC = HERE.parent / "docs" / "distributed.md"
FIGURE = HERE.parent / "docs" / "figures" / "distributed_scaling.png"

RANKS = (1, 2, 3, 4)
D, L = 64, 128
# Losses, and N = M of all ranks together: a small and a large problem.
CASES = {
    "sliced_wasserstein": (1024, 16384),
    "mmd": (512, 4096),
    "gaussian_wasserstein": (4096, 32768),
}
SMOKE = dict.fromkeys(CASES, (32, 64))
BOUND = 1e-5  # of the relative deviation of a value from that of one process
TIMEOUT = timedelta(minutes=5)
REPETITIONS = 5, 500  # least and most


def main(arguments=None):
    """Measure and draw; returns the exit code: 0 done, 1 a value was wrong, 2 cannot run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.scaling")
    parser.add_argument("--plot", action="store_true", help="only draw the newest records again")
    parser.add_argument("--smoke", action="store_true", help="tiny problems; needs --records")
    parser.add_argument("--seconds", type=float, default=5.0, help="time budget of each timing")
    for name, path in (("records", RESULTS), ("figure", FIGURE), ("doc", DOC)):
        parser.add_argument(f"--{name}", type=Path, default=path, metavar="FILE")
    parser.add_argument("--allow-dirty", action="store_true", help="also records of edited trees")
    options = parser.parse_args(arguments)
    try:
        if options.smoke and options.records == RESULTS:
            raise CannotRun("--smoke needs --records, so that tiny problems are not published")
        wrong = []
        if not options.plot:
            cases = SMOKE if options.smoke else CASES
            wrong = measure(options.records, cases, options.seconds)
        lines = newest(records.read([options.records]), options.allow_dirty)
        scaling_page.draw(lines, options.figure)
        page.write(options.doc, scaling_page.tables(lines), "scaling")
    except (CannotRun, FileNotFoundError) as error:
        print(f"benchmarks.studies.scaling: {error}", file=sys.stderr)
        return 2
    for name in wrong:
        print(f"benchmarks.studies.scaling: wrong value, not recorded: {name}", file=sys.stderr)
    return 1 if wrong else 0


def newest(lines, allow_dirty):
    """The records of the newest run, by default of those on a committed tree."""
    lines = [line for line in lines if allow_dirty or line["dirty"] is False]
    if not lines:
        raise CannotRun("no record of a committed tree; --allow-dirty takes the others too")
    run = max(line["run"] for line in lines)
    return [line for line in lines if line["run"] == run]


# --- measure ------------------------------------------------------------------------------------


def measure(out, cases, seconds):
    """Append a record for each case and number of ranks; returns what came out wrong."""
    torch.set_num_threads(1)
    facts = {"run": records.now(), **records.environment("cpu"), "cores": os.cpu_count()}
    wrong = []
    for size in RANKS:
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(_rank, (size, folder, cases, seconds), nprocs=size)
            found = json.loads((Path(folder) / "found").read_text())
        for line in found:
            line = facts | {"time": records.now(), "load": load, "ranks": size} | line
            name = f"{line['op']} N={line['N']} ranks={size}"
            if not line["error_value"] <= BOUND:
                wrong.append(name)
                continue
            records.append(out, [line])
            print(f"{name:45} {line['ms_p50']:9.2f} ms", flush=True)
    return wrong


def _rank(rank, size, folder, cases, seconds):
    torch.set_num_threads(1)
    init = f"file://{folder}/store"
    dist.init_process_group("gloo", init, rank=rank, world_size=size, timeout=TIMEOUT)
    found = []
    for op, sizes in cases.items():
        for n in sizes:
            found.append(_case(rank, size, op, n, seconds))
    if rank == 0:
        (Path(folder) / "found").write_text(json.dumps(found))
    dist.destroy_process_group()


def _case(rank, size, op, n, seconds):
    """The fields of a record, on all ranks."""
    stream = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, D, generator=stream) + shift for shift in (0.5, 0.0))
    options = {"mmd": {"bandwidth": float(D) ** 0.5}}.get(op, {})
    if op == "sliced_wasserstein":
        options["projections"] = otkernels.sample_projections(D, L, generator=stream)
    mine = x.tensor_split(size)[rank].clone().requires_grad_(), y.tensor_split(size)[rank].clone()

    def step():
        mine[0].grad = None
        value = getattr(distributed, op)(*mine, **options)
        value.backward()
        return value.item()

    whole = getattr(otkernels, op)(x.double(), y.double(), **_in_double(options)).item()
    error = abs(step() - whole) / abs(whole)
    readings, payload = _timed(step, seconds)
    p20, p50, p80 = (1e3 * np.quantile(readings, (0.2, 0.5, 0.8))).tolist()
    most = -(-n // size)
    problem = traffic.Problem(op, most, most, D, L)
    return {
        "op": op, "N": n, "M": n, "D": D, "L": L,
        "dtype": "float32", "mode": "forward_backward", "error_value": error,
        "ms_p20": p20, "ms_p50": p50, "ms_p80": p80, "repetitions": len(readings),
        "bytes_per_rank": payload / size, "bytes_modelled": traffic.per_rank(problem, size),
    }  # fmt: skip


def _in_double(options):
    """The options with tensors in float64."""
    return {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in options.items()}


def _timed(step, seconds):
    """Seconds of each repetition, of the slowest rank, and bytes of one over the loopback device.

    The idle rate of the device is measured too, and subtracted.
    """
    first = _slowest(_seconds(step))
    count = int(min(max(seconds / first, REPETITIONS[0]), REPETITIONS[1]))
    dist.barrier()
    idle = -_loopback(), time.perf_counter()
    time.sleep(min(1.0, seconds / 5))
    idle = (idle[0] + _loopback()) / (time.perf_counter() - idle[1])
    dist.barrier()
    before, start, readings = _loopback(), time.perf_counter(), []
    for _ in range(count):
        readings.append(_seconds(step))
    dist.barrier()
    elapsed = time.perf_counter() - start
    payload = (_loopback() - before - idle * elapsed) / count
    slowest = torch.tensor(readings)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return slowest.tolist(), payload


def _seconds(step):
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _slowest(seconds):
    seconds = torch.tensor(seconds)
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return seconds.item()


def _loopback():
    """Bytes that the loopback device has sent so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "lo":
            return int(rest.split()[8])
    raise CannotRun("needs /proc/net/dev with a loopback device")


if __name__ == "__main__":
    sys.exit(main())
