"""Going on with a run that was cut off, behind what its file holds and what ended its process."""

import contextlib
import dataclasses
import os
import sys
import threading
from collections import defaultdict

import torch

from . import clocks, records
from .guard import AGAIN

KEY = ("op", "shape", "mode", "provider")
SAME = ("device", "device_name", "threads", "torch", "triton", "source")
TRIES = 2


class Unended(Exception):
    """Something was begun ``TRIES`` times, and no process lived to see its end."""


def open_cases(chosen, path, facts):
    """What is left of some cases.

    Args:
        chosen: the cases.
        path: the file of records.
        facts: ``records.environment`` of this process; other lines do not count.

    Returns:
        Cases in which some provider has not all its records, each without the providers that are
        recorded as missing; and "case: provider" for each of ours that is.
    """
    records.drop_unfinished(path)
    known = defaultdict(set)  # clocks, None for "missing"
    for line in records.read([path]) if path.exists() else []:
        if all(line.get(name) == facts[name] for name in SAME):
            known[tuple(line[name] for name in KEY)].add(line["clock"])
    every = set(clocks.OF[facts["device"]])
    left, broken = [], []
    for case in chosen:
        key = (case.family.op, case.shape.name, case.mode)
        by_name = {
            provider.name: known[(*key, provider.name)] for provider in case.family.providers
        }
        missing = {name for name, found in by_name.items() if None in found}
        ours = {provider.name for provider in case.family.providers if provider.ours}
        broken += [f"{case.name}: {name}" for name in missing & ours]
        if any(None not in found and not found >= every for found in by_name.values()):
            left.append(_without(case, missing))
    return left, broken


def _without(case, names):
    kept = tuple(p for p in case.family.providers if p.name not in names)
    return dataclasses.replace(case, family=dataclasses.replace(case.family, providers=kept))


@contextlib.contextmanager
def limit(seconds, last_words):
    """End this process with ``AGAIN`` if the block takes longer, after a call of ``last_words``.

    A thread watches, for what hangs may be a kernel that the main thread waits for.
    """
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, _end, [last_words])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(last_words):
    last_words()
    leave()


def leave():
    """End this process with ``AGAIN``, past destructors, which abort where the device is lost."""
    sys.stdout.flush()
    os._exit(AGAIN)


@contextlib.contextmanager
def begun(path, what):
    """Note beside a file of results that a block begins and that it has ended.

    A segmentation fault, or a stage cut off sooner than ``limit`` acts, leaves no last words: the
    same command would stop at the same place for ever.

    Args:
        path: the file of results; None notes nothing.
        what: a name of the block.

    Raises:
        Unended: it was begun ``TRIES`` times before and did not end.
    """
    if path is None:
        yield
        return
    notes = _notes(path)
    known = notes.read_text().splitlines() if notes.exists() else []
    if known.count(f"begun {what}") - known.count(f"ended {what}") >= TRIES:
        raise Unended(f"{what}: ended its process or was cut off, {TRIES} times")
    _note(notes, f"begun {what}")
    try:
        yield
    finally:
        _note(notes, f"ended {what}")


def forget(path):
    """Drop the notes of :func:`begun` when all is done."""
    if path is not None:
        _notes(path).unlink(missing_ok=True)


def _notes(path):
    return path.with_suffix(".begun")  # not among the files that are published


def _note(notes, line):
    notes.parent.mkdir(parents=True, exist_ok=True)
    with notes.open("a") as file:
        file.write(line + "\n")


def lost_device():
    """Why nothing more can run, or None: an illegal address, say, stays with its process."""
    try:
        finish_all()
    except RuntimeError as error:
        return records.without_paths(str(error))
    return None


def finish_all():
    """Wait for the device, so that what failed there is raised here."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
