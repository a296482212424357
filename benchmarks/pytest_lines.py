"""Pytest plugin: a JSON line a test as it ends, and going on where a run was cut off.

``python -m pytest -p benchmarks.pytest_lines --lines FILE``. With pytest-xdist, only the process
that hands out the tests writes.
"""

import faulthandler
import sys
from pathlib import Path

import pytest

from . import records


def pytest_addoption(parser):
    """Options of the plugin."""
    group = parser.getgroup("lines")
    group.addoption("--lines", metavar="FILE", help="append a JSON line a test")
    group.addoption("--lines-continue", action="store_true", help="leave out what FILE has as ok")
    group.addoption(
        "--lines-device", action="store_true", help="only tests marked gpu or given the device"
    )
    group.addoption("--lines-limit", type=float, metavar="SECONDS", help="then end the process")


def pytest_configure(config):
    """Take part only where ``--lines`` is given."""
    if config.option.lines:
        config.pluginmanager.register(Lines(config), "lines-of-tests")


class Lines:
    """Writes the lines, leaves out what is done, puts tests that need a GPU first."""

    def __init__(self, config):
        self.path, self.limit = Path(config.option.lines), config.option.lines_limit
        self.on_device = config.option.lines_device
        worker = getattr(config, "workerinput", None)
        self.writes = worker is None
        self.workers = worker["workercount"] if worker else 1
        # Workers, also one that takes a crashed one's place, must leave out the same tests.
        done = config.option.lines_continue and self.writes
        self.done = worker["lines_done"] if worker else sorted(self._done()) if done else []
        self.reports = {}

    def _done(self):
        records.drop_unfinished(self.path)
        lines = records.read([self.path]) if self.path.exists() else []
        status = {line["case"]: line["status"] for line in lines}
        return {case for case, last in status.items() if last == "ok"}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node):
        """Tell a worker what is done."""
        node.workerinput["lines_done"] = self.done

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        """Drop what is not wanted; deal the rest so that each worker begins with GPU tests."""
        done = set(self.done)
        left = [item for item in items if item.nodeid not in done]
        if self.on_device:
            left = [item for item in left if _gpu(item) or "device" in item.fixturenames]
        kept = set(left)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        left.sort(key=lambda item: not _gpu(item))
        items[:] = [item for n in range(self.workers) for item in left[n :: self.workers]]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self):
        """End the process if a test hangs: nothing else ends a kernel."""
        if self.limit:
            faulthandler.dump_traceback_later(self.limit, exit=True, file=sys.__stderr__)
        try:
            return (yield)
        finally:
            if self.limit:
                faulthandler.cancel_dump_traceback_later()

    def pytest_runtest_logreport(self, report):
        """Write a test's line when its last part has ended or its worker has crashed."""
        if self.writes:
            parts = self.reports.setdefault(report.nodeid, [])
            parts.append(report)
            if report.when not in ("setup", "call"):
                self._write(report.nodeid, self.reports.pop(report.nodeid))

    def pytest_collectreport(self, report):
        """A file that cannot be collected is a failure."""
        if self.writes and report.failed:
            self._write(report.nodeid, [report])

    def pytest_sessionfinish(self, session, exitstatus):
        """No test left after those that are done is no error."""
        if self.done and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK

    def _write(self, nodeid, parts):
        failed = [part for part in parts if part.failed]
        skipped = [part for part in parts if part.skipped]
        told = (failed or skipped or [None])[0]
        line = {
            "check": "tests",
            "case": nodeid,
            "status": "failed" if failed else "skipped" if skipped else "ok",
            "reason": told and records.without_paths(_reason(told)),
            "seconds": round(sum(getattr(part, "duration", 0.0) for part in parts), 3),
        }
        records.append(self.path, [line])


def _gpu(item):
    return item.get_closest_marker("gpu") is not None


def _reason(report):
    """What pytest's summary says of a test that failed or was skipped."""
    if isinstance(report.longrepr, tuple):  # of skipped ones: file, line, reason
        return report.longrepr[2]
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message if crash else str(report.longrepr).strip().rpartition("\n")[2]
