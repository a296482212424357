"""Jobs in processes of their own: several at a time, each with a limit, none able to harm others.

What a worker compiles lands in Triton's cache on disk, from which the main process takes it.
"""

import multiprocessing
import time
from multiprocessing.connection import wait
from typing import NamedTuple

READY = "ready"
# Seconds that a process may take to import what its function needs.
START_LIMIT = 120


class Done(NamedTuple):
    """A job and, if it failed, why."""

    job: object
    error: str | None


class Workers:
    """Processes that call ``function(*job)``; a context manager, which ends them.

    Args:
        function: importable; what it raises is the error of its job.
        count: how many processes.
        limit: seconds that a job may take; its process is then ended and another started.
    """

    def __init__(self, function, count, limit):
        self.function, self.count, self.limit = function, count, limit
        self.idle = []

    def __enter__(self):
        """Nothing is started before there are jobs."""
        return self

    def __exit__(self, *_):
        """End the processes."""
        for worker in self.idle:
            worker.end()

    def run(self, jobs, seconds=float("inf")):
        """Yield :class:`Done` of each job as it ends; those not done within ``seconds`` are left.

        A process whose job failed is not used again: a GPU's errors stay with a process.
        """
        waiting, busy, stop = list(jobs)[::-1], [], time.monotonic() + seconds
        try:
            while (busy or waiting) and time.monotonic() < stop:
                while waiting and len(busy) < self.count:
                    busy.append(self.idle.pop() if self.idle else _Worker(self.function))
                    busy[-1].begin(waiting.pop())
                wait([worker.pipe for worker in busy], timeout=0.1)
                for worker in list(busy):
                    done = worker.done(self.limit)
                    if done is not None:
                        busy.remove(worker)
                        self._put_back(worker, done)
                        yield done
        finally:
            for worker in busy:
                worker.end()

    def _put_back(self, worker, done):
        if done.error is None:
            self.idle.append(worker)
        else:
            worker.end()


class _Worker:
    """One process and the pipe to it. The time of a job counts once the process is ready for it."""

    def __init__(self, function):
        context = multiprocessing.get_context("spawn")  # a forked process cannot use a GPU
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.ready = False

    def begin(self, job):
        self.job, self.start = job, time.monotonic()
        self.pipe.send(job)

    def done(self, limit):
        """What became of the job, None if it still runs."""
        try:
            while self.pipe.poll():
                message = self.pipe.recv()
                if message != READY:
                    return Done(self.job, message)
                self.ready, self.start = True, time.monotonic()
        except (EOFError, ConnectionError):
            return Done(self.job, "its process died")
        if time.monotonic() - self.start > (limit if self.ready else START_LIMIT):
            return Done(self.job, f"does not compile within {limit:g} s")
        return None

    def end(self):
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(function, pipe):
    pipe.send(READY)
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            function(*job)
            pipe.send(None)
        except Exception as error:  # whatever stops a candidate is a result
            pipe.send(f"{type(error).__name__}: {error}")
