"""Cases that are checked one by one: a JSON line for each as soon as it is known.

A case raises ``Wrong`` if what it found is wrong and ``Refused`` if it cannot be asked for; what
else it raises is a failure too, and the cases after it go on.
"""

import functools
import time

from .. import records, resume
from ..guard import AGAIN

LIMIT = 120  # seconds after which a case counts as hanging


class Wrong(Exception):
    """A check failed; the text says how."""


class Refused(Exception):
    """What is checked is not possible for this case; the text says why."""


def run(check, cases, out, again=False):
    """Run cases, and write and print a line for each.

    Args:
        check: name of the check.
        cases: pairs of a name and a function without arguments.
        out: file of JSON lines, one a case; begun anew unless ``again``.
        again: leave out cases that have a line, whatever it says. A case that hangs or takes the
            device with it then ends the process with ``AGAIN``, for the same command to go on.

    Returns:
        Exit code: 1 if a case failed, now or before, ``AGAIN`` if the process cannot go on, or 0.
    """
    known = _known(out) if again else {}
    if not again:
        out.unlink(missing_ok=True)
    for name, case in cases:
        if name in known:
            continue
        line = _Line(check, name, out)
        attempt = functools.partial(_attempt, out if again else None, name, case)
        with resume.limit(LIMIT if again else None, line.hangs):
            known[name], reason = _outcome(attempt)
        line.write(known[name], reason)
        if known[name] != "ok" and (why := resume.lost_device()):
            print(f"the device is lost to this process: {why}", flush=True)
            return AGAIN if again else 1
    resume.forget(out)
    return 1 if "failed" in known.values() else 0


class _Line:
    """The line of a case that begins now."""

    def __init__(self, check, name, out):
        self.check, self.name, self.out = check, name, out
        self.start = time.perf_counter()

    def write(self, status, reason):
        """Append it and print it."""
        seconds = round(time.perf_counter() - self.start, 3)
        line = {"check": self.check, "case": self.name, "status": status, "reason": reason}
        records.append(self.out, [line | {"seconds": seconds}])
        print(f"{status:8}{seconds:8.2f} s  {self.name} {reason or ''}".rstrip(), flush=True)

    def hangs(self):
        """The last words of a process in which it does not end."""
        self.write("failed", f"did not end in {LIMIT} s")


def _attempt(out, name, case):
    with resume.begun(out, name):
        case()
        resume.finish_all()


def _outcome(case):
    """Status and reason of one case."""
    try:
        case()
        resume.finish_all()  # an error of a launch shows only here
    except Refused as error:
        return "refused", records.without_paths(str(error))
    except Wrong as error:
        return "failed", records.without_paths(str(error))
    except Exception as error:  # whatever stops a case is its reason, and the others go on
        return "failed", f"{type(error).__name__}: {records.without_paths(str(error))}"
    return "ok", None


def _known(path):
    """Case to status, of a file that may have been cut off within a line."""
    records.drop_unfinished(path)
    lines = records.read([path]) if path.exists() else []
    return {line["case"]: line["status"] for line in lines}
