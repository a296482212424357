"""The command: plan, run or reuse every job, write the page."""

import argparse
import time
from pathlib import Path

from .. import runs
from ..errors import require
from ..evaluation import given_features
from ..failures import FAILED, INTERRUPTED, Failure
from . import page
from .job import finished, run
from .plan import CONFIGS, configs, jobs, require_features, shared_epochs
from .workers import run_all

__all__ = ["main"]


def main(argv):
    """Train and evaluate everything that is asked for.

    Raises:
        Failure: if a job failed, after the page is written, or on Ctrl-C.
    """
    options = parse(argv)
    paths = configs(options.data, options.systems, options.configs).values()
    require_features(paths, options.features)
    epochs = options.epochs or shared_epochs(paths)
    runs.make_writable(options.out)
    planned = jobs(options, epochs)
    print(f"{len(paths)} systems, {options.seeds} seeds: {len(planned)} jobs of {epochs} epochs")
    try:
        results = collect(planned, options.jobs)
    except KeyboardInterrupt:
        message = "interrupted; what is done is kept, the same command goes on from there"
        raise Failure(message, INTERRUPTED) from None
    place = page.write(results, options, epochs, argv)
    print(f"Look at {place}")
    failed = [f"{job.name}: {result['failed']}" for job, result in results if "failed" in result]
    if failed:
        raise Failure(f"{len(failed)} of {len(planned)} jobs failed; {'; '.join(failed)}", FAILED)


def parse(argv):
    """The options, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m models compare",
        description="Train every system and baseline of a data set under one budget and several "
        "seeds, and write one page with a table and pictures side by side. Called again after an "
        "interrupt it goes on: finished jobs with the same settings and code are reused.",
    )
    add = parser.add_argument
    add("--data", default="digits", help="first part of the names of the configs (digits)")
    add("--systems", nargs="+", help="only these, each named as its config (all)")
    add("--seeds", type=int, default=3, help="runs of every system, seeds 0, 1, ... (3)")
    add("--epochs", type=int, help="of every run, all its stages together (as in the configs)")
    add("--arch", help="network of all systems, see models.networks (as in the configs)")
    add("--jobs", type=int, default=2, help="runs at a time, one thread each (2)")
    add("--features", help='"module:function" for the Frechet distance (a classifier of the data)')
    add("--accelerator", default="cpu", help="of the Trainer: cpu, gpu, auto (cpu)")
    add("--configs", type=Path, default=CONFIGS, help="folder of the configs (models/configs)")
    add("--out", type=Path, help="folder of the comparison (runs/compare_<data>)")
    options = parser.parse_args(argv)
    for name in ("seeds", "jobs"):
        value = getattr(options, name)
        require(value >= 1, "compare", f"--{name}", "be at least 1", value)
    ok = options.epochs is None or options.epochs >= 1
    require(ok, "compare", "--epochs", "be at least 1", options.epochs)
    if options.features:
        given_features(options.features)  # better now than after the first run
    options.out = options.out or Path("runs") / f"compare_{options.data}"
    return options


def collect(planned, workers):
    """[(job, result)] in the order of the plan; one line for every job that ends."""
    results = {job: finished(job) for job in planned}
    reused = [job for job in planned if results[job]]
    if reused:
        print(f"{len(reused)} jobs are already done with the same settings and are reused")
    waiting, start = [job for job in planned if not results[job]], time.monotonic()
    for job, result in run_all(run, waiting, min(workers, max(1, len(waiting)))):
        results[job] = result
        done = sum(map(bool, results.values())) - len(reused)
        print(progress(job, result, done, len(waiting), time.monotonic() - start), flush=True)
    return list(results.items())


def progress(job, result, done, total, elapsed):
    """One line: what ended, how long it took, and what the pace so far says about the rest.

    >>> from types import SimpleNamespace
    >>> job = SimpleNamespace(system="vae", seed=0)
    >>> progress(job, {"seconds": 31.0}, 2, 6, 60.0)
    '[2/6] vae, seed 0: done, 31 s; 1.0 min so far, about 2.0 min left'
    """
    outcome = "failed" if "failed" in result else "done"
    seconds = f", {result['seconds']:.0f} s" if "seconds" in result else ""
    left = elapsed / done * (total - done)
    return (
        f"[{done}/{total}] {job.system}, seed {job.seed}: {outcome}{seconds}; "
        f"{elapsed / 60:.1f} min so far, about {left / 60:.1f} min left"
    )
