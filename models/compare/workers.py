"""Many jobs on a few processes that stay: importing torch and Lightning takes seconds."""

import contextlib
import multiprocessing
import signal
from multiprocessing.connection import wait

__all__ = ["run_all"]


def run_all(work, jobs, workers):
    """Yield (job, result) in the order in which ``work(job)`` finishes, ``workers`` at a time.

    One worker is this process. A worker that dies (killed for its memory, say) takes only its job
    with it: the result is then ``{"failed": reason}`` and a new process takes its place.

    Args:
        work: a function of a module, which returns plain data and raises nothing.
        jobs: what it is called with.
        workers: how many processes.
    """
    if workers == 1:
        yield from ((job, work(job)) for job in jobs)
        return
    waiting, busy, idle = list(jobs), {}, []
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker = idle.pop() if idle else _Worker(work)
                worker.start(waiting.pop(0))
                busy[worker.connection] = worker
            for connection in wait(busy):
                worker = busy.pop(connection)
                result = worker.result()
                if worker.process.is_alive():
                    idle.append(worker)
                yield worker.job, result
    finally:  # an interrupt or an error of the caller, too
        for worker in [*busy.values(), *idle]:
            worker.process.kill()  # Lightning answers a SIGTERM only between two batches
            worker.process.join()


class _Worker:
    """A fresh interpreter that works on what is sent to it."""

    def __init__(self, work):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(work, theirs))
        self.process.start()
        theirs.close()  # so that the death of the process ends the connection

    def start(self, job):
        self.job = job
        self.connection.send(job)

    def result(self):
        try:
            return self.connection.recv()
        except EOFError:
            self.process.join()
            return {"failed": f"its process ended with exit code {self.process.exitcode}"}


def _serve(work, connection):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the parent decides
    with contextlib.suppress(EOFError):  # the parent is gone
        while True:
            connection.send(work(connection.recv()))
