"""One job: ``fit`` as the command line does it, evaluation, and a result that can be reused."""

import contextlib
import json
import os
import time
import traceback
import warnings
from pathlib import Path

from .. import cli, report, runs
from ..evaluation import classifier_features, evaluate, given_features
from ..failures import INTERRUPTED
from .timing import EpochTimer

__all__ = ["checkpoint_of", "finished", "run"]

RESULT = "compare.json"
TIMER = f"{EpochTimer.__module__}.{EpochTimer.__qualname__}"


def run(job):
    """Train and evaluate; the result is plain data, ``{"failed": reason}`` if that went wrong.

    What is printed meanwhile goes to ``logs/<name>.log`` of the comparison.
    """
    start = time.perf_counter()
    path = job.out / "logs" / f"{job.name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as log, _printed_to(log):
        try:
            result = _fit_and_evaluate(job)
        except (Exception, SystemExit) as error:  # whatever it is, the other jobs go on
            if getattr(error, "code", None) == INTERRUPTED:
                raise KeyboardInterrupt from error
            traceback.print_exc()
            result = {"failed": _one_line(error)}
    return {**result, "seconds": time.perf_counter() - start}


def finished(job):
    """The result of an earlier job with the same settings, or None."""
    for path in sorted((job.out / "runs").glob(f"{job.name}*/{RESULT}")):
        result = json.loads(path.read_text(encoding="utf-8"))
        result["folder"] = str(path.parent)  # the comparison may have been moved
        if result["settings"] == job.settings and checkpoint_of(result).is_file():
            return result
    return None


def checkpoint_of(result):
    """The last checkpoint of the run of a result."""
    return Path(result["folder"]) / runs.CHECKPOINTS / "last.ckpt"


def _fit_and_evaluate(job):
    place = ["--name", job.name, "--runs_dir", str(job.out / "runs")]
    timer = f"--trainer.callbacks+={TIMER}"
    fitted = cli.CLI(["fit", "--config", str(job.config), *job.arguments, *place, timer])
    timer = next(c for c in fitted.trainer.callbacks if isinstance(c, EpochTimer))
    model, data = fitted.model.to(fitted.trainer.strategy.root_device), _shared(fitted.datamodule)
    features = _features(job, data)
    laws = {law: evaluate(model, data, law=law, features=features, seed=job.seed)
            for law in job.laws}  # fmt: skip
    result = {
        "settings": job.settings,
        "folder": str(fitted.folder),
        "metrics": laws,
        "seconds_per_epoch": timer.seconds_per_epoch,
        "objective": report.objective(model),
        "data": data.title,
        "features": features.name if features else "",
        "steps": fitted.trainer.global_step,
    }
    _write(result, fitted.folder / RESULT)
    return result


def _features(job, data):
    if job.features:
        return given_features(job.features)
    return classifier_features(data) if len(data.shape) == 3 else None


_seen = {}


def _shared(data):
    """The first data like these in this process: its classifier need not be trained again."""
    return _seen.setdefault((type(data), repr(sorted(data.hparams.items()))), data)


def _write(result, path):
    """All or nothing: half a result would be taken for a finished job."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1), encoding="utf-8")
    os.replace(part, path)


@contextlib.contextmanager
def _printed_to(log):
    """Output and warnings of this process into a file; no warning is dropped as already seen."""
    with (
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
        warnings.catch_warnings(),
    ):
        yield


def _one_line(error):
    return " ".join(f"{type(error).__name__}: {error}".split())
