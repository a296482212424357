"""The folder of a run: where it is, who may write into it, and the checkpoint it holds."""

import json
import os
import pickle
import tempfile
from pathlib import Path

import torch

from .data import DATA
from .errors import InputError, require
from .systems import SYSTEMS

__all__ = [
    "CHECKPOINTS",
    "load",
    "load_data",
    "make_writable",
    "mend_logs",
    "read_checkpoint",
    "recalled",
    "run_of",
    "unused",
    "write_whole",
]

CHECKPOINTS = "checkpoints"


def unused(parent, name):
    """parent/name, or parent/name-2, -3, ... where that is taken: two runs never mix."""
    ok = name not in ("", ".", "..") and Path(name).name == name
    require(ok, "fit", "--name", "be the name of a folder, not a path", repr(name))
    folder, k = Path(parent) / name, 1
    while folder.exists():
        k += 1
        folder = Path(parent) / f"{name}-{k}"
    return folder


def make_writable(folder):
    """Create ``folder`` where it is missing and make sure that files can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        got = f"{str(folder)!r} ({error.strerror})"
        raise InputError(f"models: the output folder must be writable; got {got}") from error


def write_whole(path, contents):
    """Write bytes so that ``path`` holds all of them or what it held before, never a part."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def mend_logs(folder):
    """Cut the logs of earlier sessions where a full disk, or a crash, has left half a row."""
    for path in (folder / "logs" / "csv").glob("*/metrics.csv"):
        lines = path.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        if len(whole) < 2:  # a heading and nothing below it
            path.unlink()
        elif len(whole) < len(lines):
            write_whole(path, b"".join(whole))


def run_of(checkpoint):
    """The run folder that holds ``checkpoint``, or None if it lies elsewhere."""
    folder = Path(checkpoint).resolve().parent
    inside = folder.name == CHECKPOINTS and (folder.parent / "config.yaml").is_file()
    return folder.parent if inside else None


def read_checkpoint(path, argument):
    """The contents of a checkpoint of ours; only plain data is unpickled, never code."""
    require(Path(path).is_file(), "models", argument, "be an existing file", repr(str(path)))
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError):
        checkpoint = None
    ok = isinstance(checkpoint, dict) and checkpoint.get("model_class") in SYSTEMS
    condition = f"be a checkpoint of {', '.join(SYSTEMS)}"
    require(ok, "models", argument, condition, repr(str(path)))
    return checkpoint


def load(path, argument="--ckpt"):
    """The model of a checkpoint, on the CPU and ready to sample."""
    checkpoint = read_checkpoint(path, argument)
    model = SYSTEMS[checkpoint["model_class"]](**_settings(checkpoint, "hyper_parameters"))
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval()


def load_data(path, argument="--ckpt"):
    """The data that the model of a checkpoint was trained on."""
    checkpoint = read_checkpoint(path, argument)
    ok = checkpoint.get("data_class") in DATA
    condition = "be of a run on data of models.data"
    require(ok, "models", argument, condition, repr(str(path)))
    return DATA[checkpoint["data_class"]](**_settings(checkpoint, "datamodule_hyper_parameters"))


def recalled(path, argument):
    """The settings that a checkpoint was made with, as arguments of the command line.

    Those of its run folder, then its data, which it also knows where it was moved. Its model
    LightningCLI takes from it without being asked.
    """
    checkpoint, folder = read_checkpoint(path, argument), run_of(path)
    arguments = ["--config", str(folder / "config.yaml")] if folder else []
    if checkpoint.get("data_class") in DATA:
        settings = _settings(checkpoint, "datamodule_hyper_parameters")
        data = {"class_path": f"models.data.{checkpoint['data_class']}", "init_args": settings}
        arguments += ["--data", json.dumps(data)]
    return arguments


def _settings(checkpoint, key):
    return {k: v for k, v in checkpoint[key].items() if not k.startswith("_")}
