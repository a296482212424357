"""The folder of a run: where it is, who may write into it, and the checkpoint it holds."""

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
    "read_checkpoint",
    "run_of",
    "unused",
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
    except (pickle.UnpicklingError, RuntimeError, EOFError):
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


def _settings(checkpoint, key):
    return {k: v for k, v in checkpoint[key].items() if not k.startswith("_")}
