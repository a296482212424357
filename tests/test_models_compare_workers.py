"""Processes that work on the jobs of a comparison, and the clock of one."""

import multiprocessing
import os
import signal
import time
from types import SimpleNamespace

from models_support import IGNORED, one_thread  # noqa: F401

from models.compare import workers
from models.compare.timing import EpochTimer

pytestmark = IGNORED


def test_a_worker_that_dies_takes_only_its_job_with_it():
    # The first is busy when the second dies, so the third needs a new process.
    tasks = [
        "__import__('time').sleep(2) or 4",
        "__import__('os')._exit(3)",
        "__import__('os').getpid()",
    ]
    results = dict(workers.run_all(eval, tasks, 2))
    assert results[tasks[0]] == 4
    assert results[tasks[1]] == {"failed": "its process ended with exit code 3"}
    assert results[tasks[2]] not in (None, os.getpid())


def test_workers_do_not_outlive_their_caller():
    results = workers.run_all(eval, ["1", "__import__('time').sleep(60)"], 2)
    assert next(results) == ("1", 1)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 30
    assert multiprocessing.active_children() == []


def test_workers_leave_ctrl_c_to_their_caller():
    """It reaches them too, from the terminal."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as a terminal has it
    task = "__import__('os').kill(__import__('os').getpid(), 2) or 5"
    assert dict(workers.run_all(eval, [task], 2)) == {task: 5}


def test_one_worker_is_this_process():
    assert list(workers.run_all(eval, ["__import__('os').getpid()"], 1))[0][1] == os.getpid()


def test_timer_leaves_validation_out(monkeypatch):
    clock = iter([5.0, 10.0, 11.0, 15.0, 18.0, 20.0, 25.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    timer, trainer = EpochTimer(), SimpleNamespace(sanity_checking=False)
    before = SimpleNamespace(sanity_checking=True)
    timer.on_validation_start(before, None)
    timer.on_validation_end(before, None)  # 5
    timer.on_train_epoch_start(trainer, None)  # 10
    timer.on_validation_start(trainer, None)  # 11: one second
    timer.on_validation_end(trainer, None)  # 15
    timer.on_train_epoch_end(trainer, None)  # 18: three more
    timer.on_train_epoch_start(trainer, None)  # 20
    timer.on_train_epoch_end(trainer, None)  # 25: five more
    assert timer.seconds_per_epoch == 9 / 2
